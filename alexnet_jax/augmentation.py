"""What is done to images on the device (§2, §4.1): mean, random crops, reflections, test views.

Images come as uint8 squares and stay on the scale of 0 to 255. The mean image's central crop is
subtracted wherever the image was cropped (2012: convdata_jpeg.py:209).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


def central(mean_HWC: Array, crop: int) -> Array:
    """The central `crop` x `crop` pixels; (H, W, 3) to (crop, crop, 3)."""
    top, left = ((n - crop) // 2 for n in mean_HWC.shape[:2])
    return mean_HWC[top : top + crop, left : left + crop]


class Draw(NamedTuple):
    """Where each image is cropped, in pixels, and whether it is mirrored; (B,) each."""

    top: Array
    left: Array
    mirrored: Array


def draw_views(key: Array, images: int, positions: int, mirror: bool) -> Draw:
    """Random views for a whole batch: all positions^2 places equally probable, half mirrored."""
    top, left, coin = jax.random.bits(key, (3, images))
    mirrored = coin < jnp.uint32(2**31) if mirror else jnp.zeros(images, bool)
    # 2^32 is so much larger than `positions` that the remainder's bias is below 1 in 10^7.
    return Draw(top % jnp.uint32(positions), left % jnp.uint32(positions), mirrored)


def random_views(images_BHWC: Array, mean_HWC: Array, draw: Draw, crop: int) -> Array:
    """A random crop of each image and, where drawn, its reflection.

    Args:
      images_BHWC: (B, size, size, 3) uint8.
      mean_HWC: (size, size, 3) float32, the training set's mean image.
      draw: one entry for each of these images.

    Returns:
      (B, crop, crop, 3) float32.
    """

    def view(image_HWC: Array, top: Array, left: Array, mirrored: Array) -> Array:
        cropped = jax.lax.dynamic_slice(image_HWC, (top, left, jnp.uint32(0)), (crop, crop, 3))
        return jnp.where(mirrored, cropped[:, ::-1], cropped)

    views = jax.vmap(view)(images_BHWC, *draw)
    return views.astype(jnp.float32) - central(mean_HWC, crop)[None]


@dataclasses.dataclass(frozen=True)
class View:
    """One of the test views: where the crop begins, in pixels, and whether it is mirrored."""

    top: int
    left: int
    mirrored: bool


def test_views(size: int, crop: int, mirror: bool) -> list[View]:
    """The centre first, then the four corners; then, with `mirror`, their reflections (§4.1)."""
    far, middle = size - crop, (size - crop) // 2
    places = [(middle, middle), (0, 0), (0, far), (far, 0), (far, far)]
    return [View(*place, m) for m in ((False, True) if mirror else (False,)) for place in places]


def take_view(
    images_BHWC: Array, mean_HWC: Array, crop: int, top: Array, left: Array, mirrored: Array
) -> Array:
    """The same view of every image; like `random_views` for one given place."""
    views = jax.lax.dynamic_slice_in_dim(images_BHWC, top, crop, axis=1)
    views = jax.lax.dynamic_slice_in_dim(views, left, crop, axis=2)
    views = jnp.where(mirrored, views[:, :, ::-1], views)
    return views.astype(jnp.float32) - central(mean_HWC, crop)[None]
