"""What is done to images on the device (§2, §4.1): mean, random crops, reflections, test views.

Images come as uint8 squares and stay on the scale of 0 to 255. The mean image's central crop is
subtracted wherever the image was cropped (2012: convdata_jpeg.py:209).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array


def central(mean_HWC: Array, crop: int) -> Array:
    """The central `crop` x `crop` pixels; (H, W, 3) to (crop, crop, 3)."""
    top, left = ((n - crop) // 2 for n in mean_HWC.shape[:2])
    return mean_HWC[top : top + crop, left : left + crop]


def random_views(
    images_BHWC: Array, mean_HWC: Array, key: Array, numbers_B: Array, crop: int, mirror: bool
) -> Array:
    """A random crop of each image and, with `mirror`, its reflection half of the time.

    Args:
      images_BHWC: (B, size, size, 3) uint8.
      mean_HWC: (size, size, 3) float32, the training set's mean image.
      key: of this training step.
      numbers_B: (B,) int32; an image's place in the whole batch decides its draw.

    Returns:
      (B, crop, crop, 3) float32. All (size - crop + 1)^2 positions are equally probable.
    """
    positions = images_BHWC.shape[1] - crop + 1

    def view(image_HWC: Array, number: Array) -> Array:
        place, flip = jax.random.split(jax.random.fold_in(key, number))
        top, left = jax.random.randint(place, (2,), 0, positions)
        cropped = jax.lax.dynamic_slice(image_HWC, (top, left, 0), (crop, crop, 3))
        if mirror:
            cropped = jnp.where(jax.random.bernoulli(flip), cropped[:, ::-1], cropped)
        return cropped

    views = jax.vmap(view)(images_BHWC, numbers_B)
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
