"""Data augmentation on the device (§2, §4.1): mean, crops, flips, colour noise, test views.

Images are uint8 squares and stay on the scale of 0 to 255. The central crop of the mean image is
subtracted, wherever the image was cropped (2012: convdata_jpeg.py:209).
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax.config.schema import Augmentation
from alexnet_jax.data.pixel_statistics import COLOURS, Colours, Sums


class Constants(NamedTuple):
    """Statistics of the training set, as the augmentation uses them.

    Attributes:
      mean_HWC: (size, size, 3) float32, subtracted from every image.
      colours: (3, 3) float32; its columns are the principal colours, scaled so that a standard
        normal draw times a column is the colour noise at a standard deviation of 1.
    """

    mean_HWC: Any
    colours: Any


def choose_statistics(
    settings: Augmentation, size: int, sums: Sums | None
) -> tuple[np.ndarray, Colours]:
    """Returns the mean image that is subtracted and the distribution of the colours.

    They are those of the training set or published ones, as the settings say.

    Args:
      settings: the augmentation.
      size: pixels across an image.
      sums: pixel statistics of the training set; may be None if `settings` does not use them.

    Returns:
      (size, size, 3) float32, the same colour everywhere if `settings.mean` is 'colour'; and the
      colours.
    """
    if settings.constants == 'data':
        assert sums is not None
        colours: Colours = sums.colours
    else:
        colours = COLOURS[settings.constants]
    if settings.mean == 'image':
        assert sums is not None
        return sums.mean_image, colours
    return np.broadcast_to(colours.mean.astype(np.float32), (size, size, 3)), colours


def constants(settings: Augmentation, mean_HWC: np.ndarray, colours: Colours) -> Constants:
    """Computes the constants from the mean image and the distribution of the colours.

    The paper's noise is a draw times the eigenvalue. That is meant for pixels on a scale of 0 to 1:
    on 0 to 255 nothing of the picture would be left. The 2012 code's noise is a draw times the
    square root of the eigenvalue, which is the same on any scale.

    Args:
      settings: the augmentation.
      mean_HWC: (size, size, 3) float32, as from `choose_statistics`.
      colours: the colours, from there too.
    """
    lengths = {
        'none': np.zeros(3),
        'eigenvalue': colours.eigenvalues / 255,
        'root': np.sqrt(colours.eigenvalues),
    }[settings.colour.noise]
    return Constants(mean_HWC, (colours.eigenvectors * lengths).astype(np.float32))


def central(mean_HWC: Any, crop: int) -> Any:
    """Returns the central crop of an array of JAX or NumPy; (H, W, 3) to (crop, crop, 3)."""
    top, left = ((n - crop) // 2 for n in mean_HWC.shape[:2])
    return mean_HWC[top : top + crop, left : left + crop]


class Draw(NamedTuple):
    """Random draws for the images of a batch.

    Attributes:
      top: (B,) uint32, first row of the crop.
      left: (B,) uint32, first column of the crop.
      mirrored: (B,) bool, whether the image is flipped horizontally.
      colour: (B, 3) float32, standard normal: the colour noise along each principal colour.
    """

    top: Array
    left: Array
    mirrored: Array
    colour: Array


def draw_views(key: Array, images: int, size: int, settings: Augmentation) -> Draw:
    """Draws a random view for each image of a batch.

    All crop positions are equally probable, and half of the images are flipped horizontally. An
    image of `size` pixels has (size - crop + 1)^2 positions, of which the `settings.positions`^2
    central ones are used if that is set: 32^2 in the paper, 33^2 in the 2012 code. Consecutive
    images share position and flip if `settings.images_per_draw` is above 1; colour noise is drawn
    for each image.

    Args:
      key: random key.
      images: number of images in the batch, of all devices.
      size: pixels across an image.
      settings: the augmentation.
    """
    places = size - settings.crop + 1
    positions = settings.positions or places
    first = jnp.uint32((places - positions) // 2)
    chunks = -(-images // settings.images_per_draw)
    coloured = settings.colour.noise != 'none'
    # 32 bits also where JAX computes with 64 (JAX_ENABLE_X64): the same draws in both.
    bits = jax.random.bits(key, (3 * chunks + 3 * images * coloured,), jnp.uint32)
    # `total_repeat_length=images` would turn the repetition into a scatter and a cumulative sum.
    top, left, coin = (
        jnp.repeat(x, settings.images_per_draw)[:images]
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
    """Converts random bits to standard normal numbers with the inverse distribution function."""
    uniform = (bits >> 8).astype(jnp.float32) * 2.0**-23 + (2.0**-24 - 1)  # within -1 to 1
    return jnp.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)


def random_views(
    images_BHWC: Array,
    constants: Constants,
    draw: Draw,
    settings: Augmentation,
    deviation: Array | float = 0.0,
) -> Array:
    """Crops each image, flips it where drawn, subtracts the mean and adds the colour noise.

    The result is divided by `settings.deviations`.

    Args:
      images_BHWC: (B, size, size, 3) uint8.
      constants: statistics of the training set.
      draw: the draws for these images.
      settings: the augmentation.
      deviation: standard deviation of the colour noise at this step.

    Returns:
      (B, crop, crop, 3) float32.
    """
    crop = settings.crop

    def view(one: tuple[Array, ...]) -> Array:
        image_HWC, top, left, mirrored = one
        cropped = jax.lax.dynamic_slice(image_HWC, (top, left, jnp.uint32(0)), (crop, crop, 3))
        return jnp.where(mirrored, cropped[:, ::-1], cropped)

    # Image by image on a CPU: for a batch at once, XLA would compute the index of every pixel. For
    # TPUs, the reason is given in `_crop_by_products`.
    views = jax.lax.platform_dependent(
        (images_BHWC, draw.top, draw.left, draw.mirrored),
        cpu=functools.partial(jax.lax.map, view),
        tpu=functools.partial(_crop_by_products, crop=crop),
        default=jax.vmap(view),
    )
    views = views.astype(jnp.float32) - central(constants.mean_HWC, crop)[None]
    if settings.colour.noise == 'none':
        return _divide(views, settings.deviations)
    # Not a matrix product: accelerators would round its factors to fewer bits.
    noise_B3 = deviation * (draw.colour[:, None, :] * constants.colours[None]).sum(axis=2)
    views = views + noise_B3[:, None, None, :]
    views = views / (1 + deviation) if settings.colour.divide else views
    return _divide(views, settings.deviations)


def _crop_by_products(arguments: tuple[Array, ...], crop: int) -> Array:
    """Crops and flips each image by products with matrices of zeros and ones, which are exact.

    For a TPU, XLA compiles `dynamic_slice` under `vmap` to a loop over the images that copies the
    batch in each iteration: an estimated 40 million cycles for 128 images of 256x256 pixels, in
    place of 0.6 million for the products (compiled for a v5e by JAX 0.10.2, 2026-11-26).

    Args:
      arguments: images, (B, H, W, 3) uint8; the first row of each crop, (B,) uint32; its first
        column, (B,) uint32; whether it is flipped, (B,) bool.
      crop: the number of rows and of columns of a crop.

    Returns:
      (B, crop, crop, 3) uint8.
    """
    images_BHWC, top_B, left_B, mirrored_B = arguments
    _, height, width, _ = images_BHWC.shape
    down = jnp.arange(crop, dtype=left_B.dtype)[None]
    across = jnp.where(mirrored_B[:, None], crop - 1 - down, down)
    rows_ByH = jax.nn.one_hot(top_B[:, None] + down, height, dtype=jnp.bfloat16)
    columns_BxW = jax.nn.one_hot(left_B[:, None] + across, width, dtype=jnp.bfloat16)
    images = images_BHWC.astype(jnp.bfloat16)  # integers up to 256 are exact
    views = jnp.einsum('byh,bhwc->bywc', rows_ByH, images)
    return jnp.einsum('bxw,bywc->byxc', columns_BxW, views).astype(jnp.uint8)


def _divide(views_BHWC: Array, deviations: tuple[float, ...]) -> Array:
    """Divides red, green and blue by these numbers; by 1, nothing is computed."""
    if all(deviation == 1 for deviation in deviations):
        return views_BHWC
    return views_BHWC / jnp.asarray(deviations, jnp.float32)[None, None, None]


@dataclasses.dataclass(frozen=True)
class View:
    """A test view: first row and column of the crop, and whether it is flipped horizontally."""

    top: int
    left: int
    mirrored: bool


def test_views(size: int, crop: int, mirror: bool) -> list[View]:
    """Returns the centre, the four corners, then with `mirror` their horizontal flips (§4.1)."""
    far, middle = size - crop, (size - crop) // 2
    places = [(middle, middle), (0, 0), (0, far), (far, 0), (far, far)]
    return [View(*place, m) for m in ((False, True) if mirror else (False,)) for place in places]


def take_centre(images_BHWC: Array, mean_HWC: Array, settings: Augmentation) -> Array:
    """Takes the central crop of every image as a net gets it; see `take_view`."""
    centre = test_views(mean_HWC.shape[0], settings.crop, mirror=False)[0]
    place = jnp.int32(centre.top), jnp.int32(centre.left), jnp.bool(centre.mirrored)
    return take_view(images_BHWC, mean_HWC, settings.crop, *place, settings.deviations)


def take_view(
    images_BHWC: Array,
    mean_HWC: Array,
    crop: int,
    top: Array,
    left: Array,
    mirrored: Array,
    deviations: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Array:
    """Takes the same view of every image, subtracts the mean and divides by the deviations.

    Args:
      images_BHWC: (B, size, size, 3) uint8.
      mean_HWC: (size, size, 3) float32.
      crop: pixels across the view.
      top: first row of the view, an integer.
      left: first column of the view, an integer.
      mirrored: whether it is flipped horizontally.
      deviations: divisors of red, green and blue.

    Returns:
      (B, crop, crop, 3) float32.
    """
    views = jax.lax.dynamic_slice_in_dim(images_BHWC, top, crop, axis=1)
    views = jax.lax.dynamic_slice_in_dim(views, left, crop, axis=2)
    views = jnp.where(mirrored, views[:, :, ::-1], views)
    views = views.astype(jnp.float32) - central(mean_HWC, crop)[None]
    return _divide(views, deviations)
