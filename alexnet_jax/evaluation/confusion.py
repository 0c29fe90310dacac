"""The confusion matrix: how often each class is mistaken for another, as a table and a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.text_table import spreadsheet_cell

MAX_CSV_CLASSES = 100  # with more classes, the matrix is written as .npz
MAX_LABELLED_CLASSES = 40  # with more classes, the picture has no names and numbers
RIGHT, WRONG = (31, 84, 160), (190, 30, 30)  # red, green, blue
FONT_PIXELS = 12


def matrix(p_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Counts the answers (columns) to the images of each class (rows).

    The answer is the most probable label, and the first of several that are equally probable, so
    that the diagonal can differ from `credit` where there are ties.

    Args:
      p_NK: (N, K) float32, the probabilities.
      labels_N: (N,) int32.

    Returns:
      (K, K) int64.
    """
    classes = p_NK.shape[1]
    pairs = labels_N.astype(np.int64) * classes + p_NK.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mistakes(counts_KK: np.ndarray) -> np.ndarray:
    """Returns the matrix with zeros on the diagonal: the wrong answers alone."""
    return counts_KK * (1 - np.eye(len(counts_KK), dtype=np.int64))


def write(folder: Path, counts_KK: np.ndarray, classes: Sequence[str]) -> list[Path]:
    """Writes confusion.csv (.npz if classes are many) and confusion.png; returns the paths."""
    table = folder / ('confusion.csv' if len(classes) <= MAX_CSV_CLASSES else 'confusion.npz')
    with atomic_files.replace(table) as partial:
        if len(classes) > MAX_CSV_CLASSES:
            np.savez_compressed(partial, counts=counts_KK, classes=np.array(classes))
        else:
            with partial.open('w', newline='', encoding='utf-8') as file:
                names = [spreadsheet_cell(name) for name in classes]
                rows = zip(names, counts_KK.tolist(), strict=True)
                csv.writer(file).writerows(
                    [['class \\ answer', *names], *([name, *row] for name, row in rows)]
                )
    image = folder / 'confusion.png'
    with atomic_files.replace(image) as partial:
        picture(counts_KK, classes).save(partial, format='png')
    return [table, image]


def cells(counts_KK: np.ndarray) -> np.ndarray:
    """Computes a colour for each cell: white for 0, blue for right answers, red for wrong ones.

    The strength of a colour is the square root of the fraction of the class, so that rare mistakes
    remain visible.

    Returns:
      (K, K, 3) uint8.
    """
    strengths = np.sqrt(counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1))
    ink = np.where(np.eye(len(counts_KK), dtype=bool)[..., None], RIGHT, WRONG)
    return (255 - strengths[..., None] * (255 - ink)).astype(np.uint8)


def picture(counts_KK: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Draws the matrix; with few classes, their names and the numbers in the cells are added."""
    is_labelled = len(classes) <= MAX_LABELLED_CLASSES
    cell = 28 if is_labelled else max(1, 1000 // len(classes))
    grid = Image.fromarray(cells(counts_KK).repeat(cell, 0).repeat(cell, 1))
    return _with_names(grid, counts_KK, classes, cell) if is_labelled else grid


def _with_names(
    grid: Image.Image, counts_KK: np.ndarray, classes: Sequence[str], cell: int
) -> Image.Image:
    names = [_text(name[:24]) for name in classes]
    corner = _text('class \\ answer')
    margin = max(name.width for name in [*names, corner]) + 8
    image = Image.new('RGB', (margin + grid.width + 1, margin + grid.height + 1), 'white')
    image.paste(grid, (margin, margin))
    image.paste(corner, (4, margin - corner.height - 4))
    for i, name in enumerate(names):
        middle = margin + i * cell + (cell - name.height) // 2
        image.paste(name, (margin - name.width - 4, middle))
        upright = name.rotate(90, expand=True)
        image.paste(upright, (middle, margin - upright.height - 4))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_PIXELS)
    for (row, column), count in np.ndenumerate(counts_KK):
        if count:
            is_dark = count * 4 > counts_KK[row].sum()
            centre = margin + (column + 0.5) * cell, margin + (row + 0.5) * cell
            draw.text(centre, str(count), 'white' if is_dark else 'black', font, anchor='mm')
    draw.rectangle((margin - 1, margin - 1, image.width - 1, image.height - 1), outline='grey')
    return image


def _text(line: str) -> Image.Image:
    """Draws a line of text, black on white, in a picture of its size."""
    font = ImageFont.load_default(FONT_PIXELS)
    _, _, width, height = font.getbbox(line)
    image = Image.new('RGB', (max(1, int(width) + 1), int(height) + 2), 'white')
    ImageDraw.Draw(image).text((0, 0), line, 'black', font)
    return image
