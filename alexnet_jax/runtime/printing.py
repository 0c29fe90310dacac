"""Printing that never ends a job, even if nobody reads the output or the disk is full."""

import contextlib
import errno
import math
import os
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import TextIO

_WARNINGS: set[str] = set()  # the lines of `warn_once`

# A pipe without a reader, and a terminal that was closed: nothing can be printed there any more.
_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)

_process = 0  # the number of this process among those that train together


def set_process(number: int) -> None:
    """Sets the number of this process: process 0 prints for all, and warnings of others name them.

    In the other processes `show` prints nothing.
    """
    global _process
    _process = number


def prints_for_all() -> bool:
    """Returns whether this process is the one that prints what concerns all of its group."""
    return _process == 0


def line_of_program(line: str) -> str:
    """Returns a line for stderr that names the program, and the process if it is not process 0."""
    return f'alexnet_jax: process {_process}: {line}' if _process else f'alexnet_jax: {line}'


def show(text: str = '', end: str = '\n') -> None:
    """Prints to stdout at once, as `print(flush=True)` does, and drops what cannot be printed.

    Long jobs print with this function, so that they continue when the reader of a pipe has ended
    (as `head` does), the terminal has been closed, or the disk of a log file is full.
    """
    if prints_for_all():
        _write(sys.stdout, f'{text}{end}')


def complain(text: str) -> None:
    """Prints a line to stderr, and drops it if it cannot be printed."""
    _write(sys.stderr, f'{text}\n')


def drop_unprintable() -> None:
    """Removes from stdout and stderr what they hold and cannot print."""
    for stream in (sys.stdout, sys.stderr):
        _write(stream, '')


def warn(line: str) -> None:
    """Prints a line to stderr about a problem that does not stop the program."""
    start = '\n' if is_terminal(sys.stdout) else ''  # the cursor may be in the progress line
    complain(f'{start}{line_of_program(line)}')


def warn_once(line: str) -> None:
    """Prints a line as `warn` does, unless this process has printed the same line before."""
    if line not in _WARNINGS:
        _WARNINGS.add(line)
        warn(line)


class LateNotice:
    """A warning about what a process waits for, printed once and only if that takes long.

    Args:
      seconds: the time before the warning.
    """

    def __init__(self, seconds: float) -> None:
        self._time = time.monotonic() + seconds

    def show(self, line: str) -> None:
        """Prints the line if it is time to, and no line has been printed yet."""
        if time.monotonic() > self._time:
            self._time = math.inf
            warn(line)


def printable(text: str, keep: str = '') -> str:
    r"""Escapes what a terminal or a browser would interpret or cannot show.

    These are control characters and escape sequences, line breaks, marks that change the direction
    of writing, and bytes of a file's name that are not UTF-8.

    Args:
      text: the text, such as the name of a file.
      keep: characters that are not escaped.

    Returns:
      One line, such as 'a\nb' with a backslash and an n for a name with a line break. A text that
      begins or ends with a space is in quotes.
    """
    escaped = text
    if not text.isprintable():  # few names of many are not
        escaped = ''.join(
            c if c.isprintable() or c in keep or unicodedata.category(c) == 'Zs' else _escape(c)
            for c in text
        )
    return escaped if keep or text == text.strip(' ') else repr(escaped)


def _escape(character: str) -> str:
    return character.encode('unicode_escape').decode('ascii')


def list_names(names: Sequence[str], most: int = 10) -> str:
    """Joins names for a message: the first ones, and how many more there are."""
    shown = ', '.join(map(printable, names[:most]))
    return shown if len(names) <= most else f'{shown} and {len(names) - most:,} more'


def count(number: int, noun: str) -> str:
    """Formats a number with its noun, such as '1 picture' or '2,000 pictures'."""
    return f'{number:,} {noun}{"" if number == 1 else "s"}'


def is_terminal(stream: TextIO | None) -> bool:
    """Returns whether a stream is a terminal; a stream that is closed or missing is none."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def prepare_streams() -> None:
    """Prepares stdin, stdout and stderr for whatever a program prints.

    A stream that the shell has closed, as by `>&-`, becomes /dev/null: otherwise the next file that
    is opened, such as a checkpoint, would have its number, and what C++ libraries print would be
    written into that file. Characters that the encoding of the terminal lacks are escaped.
    """
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, 'w' if number else 'r', closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None or stream.closed:
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        discard(stream, for_ever=error.errno in _GONE)


def discard(stream: TextIO | None, for_ever: bool = True) -> None:
    """Removes what a stream still holds, so that it is not tried again when the program ends.

    Args:
      stream: stdout or stderr.
      for_ever: whether everything that is printed later is dropped, too.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        number = stream.fileno()  # pyrefly: ignore[missing-attribute]
        nowhere, before = os.open(os.devnull, os.O_WRONLY), os.dup(number)
        os.dup2(nowhere, number)
        stream.flush()  # pyrefly: ignore[missing-attribute]
        if not for_ever:
            os.dup2(before, number)
        os.close(nowhere)
        os.close(before)
