"""Writes predictions as a table for people, as CSV or as JSON, to the terminal or into a file."""

import contextlib
import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.evaluation.classifier import Prediction
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import complain, is_terminal, printable
from alexnet_jax.runtime.text_table import cut, cut_start, display_width, spreadsheet_cell

_NARROWEST = 40  # columns of a terminal that tables are cut to


class Layout:
    """The facts that every format needs before the first picture.

    Args:
      top: the number of classes that are named for each picture.
      classes: the names of all classes of the net.
      has_descriptions: whether classes have descriptions.
      names: the names of all pictures.
    """

    def __init__(
        self, top: int, classes: Sequence[str], has_descriptions: bool, names: Sequence[str]
    ) -> None:
        self.top, self.has_descriptions = top, has_descriptions
        self.class_width = max(display_width(printable(name)) for name in classes)
        self.name_width = max((display_width(printable(name)) for name in names), default=0)


class Table:
    """A block of lines for each picture, or one line where one class is named.

    Args:
      layout: what is known before the first picture.
      columns: the width of the terminal; None cuts nothing.
    """

    def __init__(self, layout: Layout, columns: int | None) -> None:
        self._layout, self._columns = layout, columns
        self._separator = ''

    def header(self) -> str:
        """Returns '': there is none."""
        return ''

    def format(self, name: str, predictions: Sequence[Prediction]) -> str:
        """Returns the lines of a picture."""
        layout = self._layout
        width = min(layout.name_width, (self._columns or 10**6) // 2)
        if layout.top == 1:
            shown = cut_start(printable(name), width)
            gap = ' ' * (width - display_width(shown))
            return self._cut(f'{shown}{gap}  {self._answer(predictions[0])}')
        shown = printable(name)
        lines = [cut_start(shown, self._columns) if self._columns else shown]
        lines += [
            self._cut(f'  {self._answer(prediction)}').rstrip('\n') for prediction in predictions
        ]
        block = self._separator + '\n'.join(lines) + '\n'
        self._separator = '\n'
        return block

    def _answer(self, prediction: Prediction) -> str:
        name, description = printable(prediction.name), printable(prediction.description)
        gap = ' ' * (self._layout.class_width - display_width(name))
        return f'{prediction.probability:7.2%}  {name}{gap}  {description}'.rstrip()

    def _cut(self, line: str) -> str:
        return f'{cut(line, self._columns) if self._columns else line}\n'


class Csv:
    """A line for each picture under a header, with an apostrophe before what looks like a formula.

    Args:
      layout: what is known before the first picture.
      escape: whether to escape what a terminal would interpret.
    """

    def __init__(self, layout: Layout, escape: bool) -> None:
        self._layout, self._escape = layout, escape

    def header(self) -> str:
        """Returns the line with the names of the columns."""
        names = ['answer', 'probability', *['description'] * self._layout.has_descriptions]
        ranks = range(1, self._layout.top + 1)
        return self._line(['name', *(f'{name} {rank}' for rank in ranks for name in names)])

    def format(self, name: str, predictions: Sequence[Prediction]) -> str:
        """Returns the line of a picture."""
        cells = [name]
        for x in predictions:
            cells += [x.name, f'{_shortest(x.probability)}']
            cells += [x.description] * self._layout.has_descriptions
        return self._line(cells)

    def _line(self, cells: Sequence[str]) -> str:
        text = io.StringIO()
        shown = map(printable, cells) if self._escape else cells
        csv.writer(text, lineterminator='\n').writerow(map(spreadsheet_cell, shown))
        return text.getvalue()


class JsonLines:
    """A JSON object on a line for each picture, in ASCII."""

    def header(self) -> str:
        """Returns '': there is none."""
        return ''

    def format(self, name: str, predictions: Sequence[Prediction]) -> str:
        """Returns the line of a picture."""
        answers = [
            {
                'class': x.name,
                'probability': _shortest(x.probability),
                'label': x.label,
                'description': x.description,
            }
            for x in predictions
        ]
        return json.dumps({'name': name, 'predictions': answers}) + '\n'


Format = Table | Csv | JsonLines


def _shortest(probability: float) -> float:
    """Returns the float with the fewest digits that is the same float32."""
    return float(str(np.float32(probability)))


def choose(name: str, layout: Layout, to_file: bool) -> Format:
    """Returns a format by its name: table, csv or json.

    Args:
      name: its name.
      layout: what is known before the first picture.
      to_file: whether a file is written, where nothing is cut or escaped for a terminal.
    """
    terminal = not to_file and is_terminal(sys.stdout)
    if name == 'csv':
        return Csv(layout, escape=terminal)
    if name == 'json':
        return JsonLines()
    columns = max(_NARROWEST, shutil.get_terminal_size().columns) if terminal else None
    return Table(layout, columns)


@contextlib.contextmanager
def open_output(file: Path | None, exact: bool) -> Iterator[Callable[[str], object]]:
    """Yields a function that writes text to a file, or at once to stdout.

    A file is complete or absent. What has been written when the user interrupts the program stays
    beside it, in a file that ends with .partial.

    Args:
      file: the file, which is replaced; None for stdout.
      exact: whether stdout, unless it is a terminal, gets the bytes of names as they are, as a file
        does, and not in the encoding of the terminal.

    Raises:
      OSError: it cannot be written, or nobody reads the pipe.
    """
    if file is None:
        yield _print_bytes if exact and not is_terminal(sys.stdout) else _print
        return
    with (
        atomic_files.replace(file) as partial,
        # File names may contain bytes that are not UTF-8.
        partial.open('w', newline='', encoding='utf-8', errors='surrogateescape') as stream,
    ):
        try:
            yield stream.write
        except KeyboardInterrupt:
            stream.flush()
            if stream.tell():
                rest = atomic_files.unused_path(file.with_name(f'{file.name}.partial'))
                partial.rename(rest)
                complain(f'\nalexnet_jax: the answers so far are in {printable(str(rest))}')
            raise


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _print_bytes(text: str) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode('utf-8', 'surrogateescape'))
    sys.stdout.flush()
