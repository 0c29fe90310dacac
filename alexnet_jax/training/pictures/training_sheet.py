"""A sheet of training images as the net sees them, written when a run starts (§4.1).

Images that are black, turned, or cut off, and classes with wrong names, are seen at once and not
after hours of training.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.data.loading.loader import Batch
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import printable
from alexnet_jax.training.step import keys_of_step

NAME = 'training_images.png'  # in the workdir

COLUMNS, ROWS = 8, 4
_SIDE = 128  # pixels across an image on the sheet, at most
_GAP, _FONT_SIZE, _LINE = 6, 12, 18  # pixels


def training_views(
    config: Config,
    batch: Batch,
    constants: augmentation.Constants,
    step: int,
    first_row: int,
    deviation: float,
) -> np.ndarray:
    """Returns images of a batch as the net gets them in a training step.

    The draws of crops, flips and colour noise are those of the step. Only one device computes.

    Args:
      config: the settings of the run.
      batch: the rows of the batch that this process reads.
      constants: statistics of the training set.
      step: the number of training steps before this one.
      first_row: the number of the first of these rows in the whole batch.
      deviation: the standard deviation of the colour noise at this step.

    Returns:
      (n, crop, crop, 3) float32 for the first images of `batch`, at most as many as a sheet has.
    """
    images = batch['image'][: COLUMNS * ROWS]
    mean_HWC, colours = (np.asarray(x) for x in constants)
    return np.asarray(
        _views(
            config,
            images,
            augmentation.Constants(mean_HWC, colours),
            np.int32(step),
            np.int32(first_row),
            np.float32(deviation),
        )
    )


@functools.partial(jax.jit, static_argnums=0)
def _views(
    config: Config,
    images_BHWC: jax.Array,
    constants: augmentation.Constants,
    step: jax.Array,
    first_row: jax.Array,
    deviation: jax.Array,
) -> jax.Array:
    views = config.augmentation
    view_key, _ = keys_of_step(config, step)
    draw = augmentation.draw_views(
        view_key, config.optimizer.batch_size, config.dataset.image_size, views
    )
    draw = augmentation.Draw(
        *(jax.lax.dynamic_slice_in_dim(x, first_row, len(images_BHWC)) for x in draw)
    )
    return augmentation.random_views(images_BHWC, constants, draw, views, deviation)


def as_pictures(config: Config, views_BHWC: np.ndarray, mean_HWC: np.ndarray) -> np.ndarray:
    """Adds the mean again that was subtracted from images, so that they can be looked at.

    Args:
      config: the settings of the run.
      views_BHWC: (n, crop, crop, 3) float32, as from `training_views`.
      mean_HWC: (size, size, 3) float32, the mean image.

    Returns:
      (n, crop, crop, 3) uint8.
    """
    pixels = views_BHWC * np.asarray(config.augmentation.deviations, np.float32)
    pixels += augmentation.central(mean_HWC, config.augmentation.crop)
    return np.clip(np.nan_to_num(pixels), 0, 255).round().astype(np.uint8)


def draw_sheet(pictures_BHWC: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draws pictures in rows, each with the name of its class below it.

    Small pictures are enlarged without smoothing, large ones are reduced.

    Args:
      pictures_BHWC: uint8 squares.
      names: the name of the class of each.

    Returns:
      (height, width, 3) uint8.
    """
    crop, font = pictures_BHWC.shape[1], ImageFont.load_default(_FONT_SIZE)
    side = crop * (_SIDE // crop) or _SIDE
    method = Image.Resampling.NEAREST if side >= crop else Image.Resampling.LANCZOS
    across, down = side + _GAP, side + _GAP + _LINE
    rows = math.ceil(len(pictures_BHWC) / COLUMNS)
    columns = min(COLUMNS, len(pictures_BHWC))
    sheet = Image.new('RGB', (columns * across + _GAP, rows * down + _GAP), 'white')
    draw = ImageDraw.Draw(sheet)
    for number, (picture, name) in enumerate(zip(pictures_BHWC, names, strict=True)):
        left, top = _GAP + number % COLUMNS * across, _GAP + number // COLUMNS * down
        sheet.paste(Image.fromarray(picture).resize((side, side), method), (left, top))
        text = _shorten(printable(name), font, side)
        draw.text((left + side / 2, top + side + 2), text, 'black', font, anchor='ma')
    return np.asarray(sheet)


def class_names(labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Returns the names of the classes of a sheet; 'class 3' where the font cannot draw a name.

    Args:
      labels: the labels of a batch, of which the first are on the sheet.
      classes: the names of all classes.
    """
    missing = _drawing('\uffff')  # what is drawn for a character that the font lacks

    def name_of(label: int) -> str:
        name = classes[label] if label < len(classes) else ''
        can_draw = name.strip() and all(_drawing(c) != missing for c in printable(name))
        return name if can_draw else f'class {label}'

    return [name_of(int(label)) for label in labels[: COLUMNS * ROWS]]


@functools.cache  # loading the font for each character took 0.26 s a sheet
def _drawing(character: str) -> bytes:
    picture = Image.new('1', (2 * _FONT_SIZE, 2 * _FONT_SIZE))
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(picture).text((0, 0), character, 1, font)
    return picture.tobytes()


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Returns a text, or its beginning and '...' if it is wider than so many pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f'{text}...') > width:
        text = text[:-1]
    return f'{text}...'


def write(file: Path, sheet_HWC: np.ndarray) -> None:
    """Writes a sheet as a PNG file.

    Raises:
      OSError: the file cannot be written.
    """
    with atomic_files.replace(file) as partial:
        Image.fromarray(sheet_HWC).save(partial, 'PNG', compress_level=1)
