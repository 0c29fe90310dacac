"""Reads pictures that belong to no data set, as the images of a trained net (§2)."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax.config.schema import Dataset
from alexnet_jax.data import images
from alexnet_jax.data.images import BadImage
from alexnet_jax.runtime.printing import printable

# The path of a file, its bytes, the pixels, or an image of Pillow.
Picture = str | os.PathLike[str] | bytes | np.ndarray | Image.Image


def read(picture: Picture, dataset: Dataset) -> np.ndarray:
    """Decodes a picture, scales it and crops its central square as in training.

    Pictures are turned upright as their EXIF orientation says. In the training images of ImageNet
    it is ignored, as in 2012, but these were chosen and labelled by people who looked at them.

    Args:
      picture: the path of a file in one of images.FORMATS; its bytes; an image of Pillow; or
        pixels, (rows, columns), (rows, columns, 1), (rows, columns, 3) or (rows, columns, 4) uint8,
        grey, RGB or RGB with alpha.
      dataset: the settings of the run: size, filter and background.

    Returns:
      (size, size, 3) uint8.

    Raises:
      BadImage: it cannot be decoded; the message does not name it.
      OSError: the file cannot be read.
      TypeError: it is nothing of these.
    """
    size, filter, background = dataset.image_size, dataset.resize, dataset.background
    if isinstance(picture, (str, os.PathLike)):
        picture = Path(picture).read_bytes()
    if isinstance(picture, bytes):
        return images.square(picture, size, filter, upright=True, background=background)
    if isinstance(picture, Image.Image):
        pixels = images.convert(picture, upright=True, background=background)
    elif isinstance(picture, np.ndarray):
        pixels = _convert_array(picture, background)
    else:
        raise TypeError(f'{type(picture).__name__} is not a picture: {Picture}')
    return images.central_square(pixels, size, filter)


def _convert_array(pixels: np.ndarray, background: str) -> np.ndarray:
    """Converts an array of pixels to (rows, columns, 3) uint8; raises BadImage if it has none."""
    colours = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or colours not in (1, 3, 4):
        raise BadImage(
            f'is an array {pixels.shape} of {pixels.dtype}, not (rows, columns, 1, 3 or 4) of uint8'
        )
    if not pixels.size:
        raise BadImage(f'has no pixels: {pixels.shape}')
    if colours == 1:
        pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
    return images.convert(Image.fromarray(np.ascontiguousarray(pixels)), background=background)


def describe(picture: Picture, number: int) -> str:
    """Names a picture in a message: by its path, else by its place in a list."""
    if isinstance(picture, (str, os.PathLike)):
        return printable(os.fspath(picture))
    return f'picture {number}'
