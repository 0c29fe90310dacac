"""Progress bars for long data jobs: the fraction that is done, the speed and the time left."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from alexnet_jax.runtime.printing import (
    complain,
    discard,
    is_terminal,
    printable,
    prints_for_all,
    show,
)

_COLUMNS_OF_NUMBERS = 60  # of a bar, beside its label
_SHORTEST_LABEL = 20


class ProgressBars:
    """Progress bars on stderr, one at a time; printing a line ends the current bar.

    Where stderr is not a terminal but a file or a pipe, a line is added every ten seconds in place
    of a bar. What cannot be printed, as on a terminal that was closed, is dropped.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self) -> None:
        self._bar: _Bar | _Lines | None = None
        self._label = ''

    def __enter__(self) -> 'ProgressBars':
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def print_line(self, line: str) -> None:
        """Prints a line that stays on the terminal."""
        self._end()
        show(line)

    def show_listing(self, label: str, done: int, total: int) -> None:
        """Shows how much of an archive or a folder has been listed, in members or files."""
        self._show(f'listing {label}', done, total, 'it', False)

    def show_bytes(self, label: str, done: int, total: int) -> None:
        """Shows how much of a file has been hashed, in bytes."""
        self._show(f'MD5 of {label}', done, total, 'B', True)

    def show_preparing(self, done: int, total: int) -> None:
        """Shows how many images have been written to a data set."""
        self.show_images('preparing', done, total)

    def show_images(self, label: str, done: int, total: int) -> None:
        """Shows how many images have been read; 0 stands for a total that is not known."""
        self._show(label, done, total, ' images', False)

    def show_steps(self, label: str, done: int, total: int) -> None:
        """Shows how many steps of a job have been made."""
        self._show(label, done, total, ' steps', False)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Takes the bar off the terminal while other lines are printed there."""
        if isinstance(self._bar, _Bar):
            self._bar.hide()
        yield
        if isinstance(self._bar, _Bar):
            self._bar.refresh()

    def _show(self, label: str, done: int, total: int, unit: str, scale: bool) -> None:
        if not prints_for_all():
            return
        if label != self._label:
            self._end()
            kind = _Bar if is_terminal(sys.stderr) else _Lines
            self._bar = kind(printable(label), done, total, unit, scale)
            self._label = label
        if self._bar is not None:
            self._bar.show(done, total)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.end()
        self._bar, self._label = None, ''


class _Bar:
    """A bar on a terminal, never wider than it: a longer one would fill a new line each time."""

    def __init__(self, label: str, done: int, total: int, unit: str, scale: bool) -> None:
        self._bar: tqdm | None = None
        width = max(_SHORTEST_LABEL, shutil.get_terminal_size().columns - _COLUMNS_OF_NUMBERS)
        with _dropped_if_terminal_is_gone():
            self._bar = tqdm(
                desc=_shorten(label, width),
                initial=done,
                total=total,
                unit=unit,
                unit_scale=scale,
                mininterval=0.5,
                leave=False,
                dynamic_ncols=True,
            )

    def show(self, done: int, total: int) -> None:
        if self._bar is not None:
            with _dropped_if_terminal_is_gone():
                self._bar.total = total
                self._bar.update(done - self._bar.n)

    def hide(self) -> None:
        if self._bar is not None:
            with _dropped_if_terminal_is_gone():
                self._bar.clear()

    def refresh(self) -> None:
        if self._bar is not None:
            with _dropped_if_terminal_is_gone():
                self._bar.refresh()

    def end(self) -> None:
        if self._bar is not None:
            with _dropped_if_terminal_is_gone():
                self._bar.close()
                sys.stderr.flush()  # tqdm drops errors, but the stream keeps the text


@contextlib.contextmanager
def _dropped_if_terminal_is_gone() -> Iterator[None]:
    try:
        yield
    except OSError:
        discard(sys.stderr)


class _Lines:
    """Lines in a file: the first after ten seconds, so that short jobs add none."""

    def __init__(self, label: str, done: int, total: int, unit: str, scale: bool) -> None:
        self._label, self._unit, self._scale = label, unit, scale
        self._initial, self._start = done, time.monotonic()
        self._time_of_line = self._start

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._time_of_line >= ProgressBars.SECONDS_BETWEEN_LINES:
            self._time_of_line = now
            complain(
                tqdm.format_meter(
                    done,
                    total,
                    now - self._start,
                    ncols=0,  # numbers without a bar
                    prefix=self._label,
                    unit=self._unit,
                    unit_scale=self._scale,
                    initial=self._initial,
                )
            )

    def end(self) -> None:
        pass


def _shorten(label: str, width: int) -> str:
    """Returns a label with its middle left out where it is longer than this."""
    if len(label) <= width:
        return label
    return f'{label[: width - 6]}...{label[-3:]}'


def time_left(seconds: float) -> str:
    """Formats a duration as 1:02:03 or 2:03; a negative one as 0:00."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
