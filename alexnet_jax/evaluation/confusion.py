"""The confusion matrix: how often each class is mistaken for another, as a table and a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.evaluation import error_rates
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.text_table import write_csv

MAX_CSV_CLASSES = 100  # with more classes, the matrix is written as .npz
MAX_LABELLED_CLASSES = 40  # with more classes, the picture has no names and numbers
RIGHT, WRONG = (31, 84, 160), (190, 30, 30)  # red, green, blue
FONT_PIXELS = 12
NO_ANSWER = 'not a number'  # the column of images whose outputs are NaN


def answers(scores_NK: np.ndarray) -> np.ndarray:
    """Returns the label with the highest score of each image; -1, no label, where one is NaN.

    Of equal scores the first is the answer, so where there are ties, errors counted by answers can
    differ from those of `credit`.

    Args:
      scores_NK: (N, K), probabilities or their logarithms.

    Returns:
      (N,) int64.
    """
    return np.where(np.isnan(scores_NK).any(axis=1), -1, scores_NK.argmax(axis=1))


def matrix(scores_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Counts the answers (columns) to the images of each class (rows).

    Args:
      scores_NK: (N, K) float32, probabilities or their logarithms.
      labels_N: (N,) int32.

    Returns:
      (K, K) int64; (K, K + 1) if the scores of some images are NaN, which the last column counts:
      they are wrong, but no class was mistaken for another.

    Raises:
      ValueError: a label is not one of the K classes.
    """
    classes = scores_NK.shape[1]
    error_rates.check_labels(labels_N, classes)
    answers_N = answers(scores_NK)
    answers_N[answers_N < 0] = classes
    pairs = labels_N.astype(np.int64) * (classes + 1) + answers_N
    counts = np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    return counts if counts[:, classes].any() else counts[:, :classes]


def answer_names(counts_KA: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Returns the names of the columns of a matrix."""
    return [*classes, NO_ANSWER][: counts_KA.shape[1]]


def mistakes(counts_KA: np.ndarray) -> np.ndarray:
    """Returns the matrix with zeros on the diagonal: the wrong answers alone."""
    return counts_KA * (1 - np.eye(*counts_KA.shape, dtype=np.int64))


def write(folder: Path, counts_KA: np.ndarray, classes: Sequence[str]) -> list[Path]:
    """Writes confusion.csv (.npz if classes are many) and confusion.png; returns the paths."""
    names = answer_names(counts_KA, classes)
    if len(classes) <= MAX_CSV_CLASSES:
        table = folder / 'confusion.csv'
        rows = ([name, *row] for name, row in zip(classes, counts_KA.tolist(), strict=True))
        write_csv(table, [['class \\ answer', *names], *rows])
    else:
        table = folder / 'confusion.npz'
        with atomic_files.replace(table) as partial:
            np.savez_compressed(
                partial, counts=counts_KA, classes=np.array(classes), answers=np.array(names)
            )
    image = folder / 'confusion.png'
    with atomic_files.replace(image) as partial:
        picture(counts_KA, classes).save(partial, format='png')
    return [table, image]


def cells(counts_KA: np.ndarray) -> np.ndarray:
    """Computes a colour for each cell: white for 0, blue for right answers, red for wrong ones.

    The strength of a colour is the square root of the fraction of the class, so that rare mistakes
    remain visible.

    Returns:
      (K, K, 3) uint8, or (K, K + 1, 3).
    """
    strengths = np.sqrt(counts_KA / np.maximum(counts_KA.sum(axis=1, keepdims=True), 1))
    ink = np.where(np.eye(*counts_KA.shape, dtype=bool)[..., None], RIGHT, WRONG)
    return (255 - strengths[..., None] * (255 - ink)).astype(np.uint8)


def picture(counts_KA: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Draws the matrix; with few classes, their names and the numbers in the cells are added."""
    is_labelled = len(classes) <= MAX_LABELLED_CLASSES
    cell = 28 if is_labelled else max(1, 1000 // len(classes))
    grid = Image.fromarray(cells(counts_KA).repeat(cell, 0).repeat(cell, 1))
    return _with_names(grid, counts_KA, classes, cell) if is_labelled else grid


def _with_names(
    grid: Image.Image, counts_KA: np.ndarray, classes: Sequence[str], cell: int
) -> Image.Image:
    names = [_text(name[:24]) for name in answer_names(counts_KA, classes)]
    corner = _text('class \\ answer')
    margin = max(name.width for name in [*names, corner]) + 8
    image = Image.new('RGB', (margin + grid.width + 1, margin + grid.height + 1), 'white')
    image.paste(grid, (margin, margin))
    image.paste(corner, (4, margin - corner.height - 4))
    for i, name in enumerate(names):
        middle = margin + i * cell + (cell - name.height) // 2
        if i < len(classes):
            image.paste(name, (margin - name.width - 4, middle))
        upright = name.rotate(90, expand=True)
        image.paste(upright, (middle, margin - upright.height - 4))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_PIXELS)
    for (row, column), count in np.ndenumerate(counts_KA):
        if count:
            is_dark = count * 4 > counts_KA[row].sum()
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
