"""What is done to images on the device (§2, §4.1): mean, crops, reflections, colour, test views.

Images come as uint8 squares and stay on the scale of 0 to 255. The mean image's central crop is
subtracted wherever the image was cropped (2012: convdata_jpeg.py:209).
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax.config.schema import Augmentation
from alexnet_jax.data.pixel_statistics import COLOURS_2012, Colours, Sums


class Constants(NamedTuple):
    """What the augmentation knows of the training set.

    Attributes:
      mean_HWC: (size, size, 3) float32, subtracted from every image.
      colours: (3, 3) float32; its columns are the principal colours, each as long as a standard
        normal draw moves an image along it.
    """

    mean_HWC: Any
    colours: Any


def constants(settings: Augmentation, size: int, sums: Sums | None) -> Constants:
    """From the statistics of the training set, or from those of 2012.

    The paper's noise is a draw times the eigenvalue, which is meant for pixels on a scale of 0 to
    1 (on 0 to 255 no picture would be left); the 2012 code's is a draw times its square root, which
    has no scale of its own.

    Args:
      size: pixels across an image.
      sums: of the training set; may be None where `settings` take nothing from it.
    """
    known: Colours = COLOURS_2012
    if settings.constants == 'data':
        assert sums is not None
        known = sums.colours
    if settings.mean == 'image':
        assert sums is not None
        mean_HWC = sums.mean_image
    else:
        mean_HWC = np.broadcast_to(known.mean.astype(np.float32), (size, size, 3))
    along = {
        'none': np.zeros(3),
        'eigenvalue': known.eigenvalues / 255,
        'root': np.sqrt(known.eigenvalues),
    }[settings.colour.noise]
    return Constants(mean_HWC, (known.eigenvectors * along).astype(np.float32))


def central(mean_HWC: Array, crop: int) -> Array:
    """The central `crop` x `crop` pixels; (H, W, 3) to (crop, crop, 3)."""
    top, left = ((n - crop) // 2 for n in mean_HWC.shape[:2])
    return mean_HWC[top : top + crop, left : left + crop]


class Draw(NamedTuple):
    """Where each image is cropped, in pixels; whether it is mirrored; its draws of colour."""

    top: Array  # (B,) uint32
    left: Array  # (B,) uint32
    mirrored: Array  # (B,) bool
    colour: Array  # (B, 3) float32, standard normal


def draw_views(key: Array, images: int, size: int, settings: Augmentation) -> Draw:
    """Random views for a whole batch: all places equally probable, half mirrored.

    Of images of `size` pixels there are (size - crop + 1)^2 places, or the `settings.positions`^2
    in the middle: 32^2 in the paper, 33^2 in the 2012 code. Consecutive images share place and
    reflection if `settings.images_per_draw` is above 1; colours are drawn for each.
    """
    places = size - settings.crop + 1
    positions = settings.positions or places
    first = jnp.uint32((places - positions) // 2)
    chunks = -(-images // settings.images_per_draw)
    coloured = settings.colour.noise != 'none'
    bits = jax.random.bits(key, (3 * chunks + 3 * images * coloured,))
    top, left, coin = (
        jnp.repeat(x, settings.images_per_draw, total_repeat_length=images)
        for x in bits[: 3 * chunks].reshape(3, chunks)
    )
    mirrored = coin < jnp.uint32(2**31) if settings.mirror else jnp.zeros(images, bool)
    colour = jnp.zeros((images, 3), jnp.float32)
    if coloured:
        colour = _normal(bits[3 * chunks :].reshape(images, 3))
    # 2^32 is so much larger than `positions` that the remainder's bias is below 1 in 10^7.
    top, left = (first + x % jnp.uint32(positions) for x in (top, left))
    return Draw(top, left, mirrored, colour)


def _normal(bits: Array) -> Array:
    """Standard normal numbers from random bits, by the inverse of the distribution."""
    uniform = (bits >> 8).astype(jnp.float32) * 2.0**-23 + (2.0**-24 - 1)  # within -1 to 1
    return jnp.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)


def random_views(
    images_BHWC: Array,
    known: Constants,
    draw: Draw,
    settings: Augmentation,
    deviation: Array | float = 0.0,
) -> Array:
    """A random crop of each image, where drawn its reflection, and its colour moved as drawn.

    Args:
      images_BHWC: (B, size, size, 3) uint8.
      draw: one entry for each of these images.
      deviation: of the colour noise now.

    Returns:
      (B, crop, crop, 3) float32, the mean subtracted.
    """
    crop = settings.crop

    def view(one: tuple[Array, ...]) -> Array:
        image_HWC, top, left, mirrored = one
        cropped = jax.lax.dynamic_slice(image_HWC, (top, left, jnp.uint32(0)), (crop, crop, 3))
        return jnp.where(mirrored, cropped[:, ::-1], cropped)

    # On CPU image by image: in one piece, XLA computes the place of each pixel anew.
    views = jax.lax.platform_dependent(
        (images_BHWC, draw.top, draw.left, draw.mirrored),
        cpu=functools.partial(jax.lax.map, view),
        default=jax.vmap(view),
    )
    views = views.astype(jnp.float32) - central(known.mean_HWC, crop)[None]
    if settings.colour.noise == 'none':
        return views
    # Not a matrix product: accelerators would round its factors.
    noise_B3 = deviation * (draw.colour[:, None, :] * known.colours[None]).sum(axis=2)
    views = views + noise_B3[:, None, None, :]
    return views / (1 + deviation) if settings.colour.divide else views


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
