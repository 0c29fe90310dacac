"""The confusion matrix: which class is taken for which; as a table and as a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alexnet_jax.runtime import atomic_files

CSV_CLASSES = 100  # with more of them the matrix is written as .npz
NAMED_CLASSES = 40  # with more of them the picture has no names and numbers
RIGHT, WRONG = (31, 84, 160), (190, 30, 30)  # red, green, blue
FONT_PIXELS = 12


def matrix(p_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """(K, K) int64: of the images of a class (row), how many get which answer (column).

    The answer is the most probable label; of equally probable ones the first, so that the diagonal
    may differ from `scores.credit` where there are ties.
    """
    classes = p_NK.shape[1]
    pairs = labels_N.astype(np.int64) * classes + p_NK.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mistakes(counts_KK: np.ndarray) -> np.ndarray:
    """The same without what is right: zeros on the diagonal."""
    return counts_KK * (1 - np.eye(len(counts_KK), dtype=np.int64))


def write(folder: Path, counts_KK: np.ndarray, classes: Sequence[str]) -> list[Path]:
    """Writes confusion.csv, or .npz where classes are many, and confusion.png; gives the paths."""
    table = folder / ('confusion.csv' if len(classes) <= CSV_CLASSES else 'confusion.npz')
    with atomic_files.whole(table) as partial:
        if len(classes) > CSV_CLASSES:
            np.savez_compressed(partial, counts=counts_KK, classes=np.array(classes))
        else:
            with partial.open('w', newline='', encoding='utf-8') as file:
                rows = zip(classes, counts_KK.tolist(), strict=True)
                csv.writer(file).writerows(
                    [['class \\ answer', *classes], *([name, *row] for name, row in rows)]
                )
    image = folder / 'confusion.png'
    with atomic_files.whole(image) as partial:
        picture(counts_KK, classes).save(partial, format='png')
    return [table, image]


def cells(counts_KK: np.ndarray) -> np.ndarray:
    """(K, K, 3) uint8: white for none, blue is right, red is wrong.

    A cell's strength is the root of its share of the class, so that rare mistakes are seen.
    """
    shares = np.sqrt(counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1))
    ink = np.where(np.eye(len(counts_KK), dtype=bool)[..., None], RIGHT, WRONG)
    return (255 - shares[..., None] * (255 - ink)).astype(np.uint8)


def picture(counts_KK: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Rows are classes, columns answers. Where classes are few, they are named, and the cells are
    numbered.
    """
    named = len(classes) <= NAMED_CLASSES
    cell = 28 if named else max(1, 1000 // len(classes))
    grid = Image.fromarray(cells(counts_KK).repeat(cell, 0).repeat(cell, 1))
    return _with_names(grid, counts_KK, classes, cell) if named else grid


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
            strong = count * 4 > counts_KK[row].sum()
            centre = margin + (column + 0.5) * cell, margin + (row + 0.5) * cell
            draw.text(centre, str(count), 'white' if strong else 'black', font, anchor='mm')
    draw.rectangle((margin - 1, margin - 1, image.width - 1, image.height - 1), outline='grey')
    return image


def _text(words: str) -> Image.Image:
    """Black on white, as large as it is."""
    font = ImageFont.load_default(FONT_PIXELS)
    _, _, width, height = font.getbbox(words)
    image = Image.new('RGB', (max(1, int(width) + 1), int(height) + 2), 'white')
    ImageDraw.Draw(image).text((0, 0), words, 'black', font)
    return image
