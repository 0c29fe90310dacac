"""Text tables for the terminal, and cells of CSV files that no spreadsheet executes."""

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.runtime import atomic_files

_FORMULA = ('=', '+', '-', '@', '\t', '\r', '\n')  # how a formula begins, in some spreadsheet


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows of cells as a table with columns two spaces apart.

    The first column is aligned to the left, the others to the right.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def display_width(text: str) -> int:
    """Returns how many columns of a terminal a text takes: two for an East Asian character."""
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ('W', 'F') else 1


def cut(text: str, columns: int) -> str:
    """Returns a text, or, if it is wider than `columns`, its beginning and '...'."""
    if display_width(text) <= columns:
        return text
    return _fitting(text, columns - 3) + '...'


def cut_start(text: str, columns: int) -> str:
    """Returns a text, or, if it is wider than `columns`, '...' and its end."""
    if display_width(text) <= columns:
        return text
    return '...' + _fitting(text[::-1], columns - 3)[::-1]


def _fitting(text: str, columns: int) -> str:
    """Returns the longest beginning of a text that fits into some columns."""
    width = 0
    for place, character in enumerate(text):
        width += _width(character)
        if width > columns:
            return text[:place]
    return text


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file in which text cannot be taken for a formula; see `spreadsheet_cell`."""
    with (
        atomic_files.replace(path) as partial,
        # File names may contain bytes that are not UTF-8.
        partial.open('w', newline='', encoding='utf-8', errors='surrogateescape') as file,
    ):
        csv.writer(file).writerows(map(spreadsheet_cell, row) for row in rows)


def spreadsheet_cell(cell: Any) -> Any:
    """Returns a cell of a CSV file that a spreadsheet shows and does not execute as a formula.

    Text that begins with = + - @, a tab or a line break, and is not a number, gets an apostrophe
    before it; everything else is returned as it is. A program that reads the file with `csv`
    gets such a name with its apostrophe.
    """
    return f"'{cell}" if isinstance(cell, str) and _is_like_a_formula(cell) else cell


def _is_like_a_formula(text: str) -> bool:
    if not text.startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
