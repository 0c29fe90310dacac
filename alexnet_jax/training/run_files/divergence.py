"""The end of a run whose values are no longer finite, recorded for the program that started it."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.processes import group
from alexnet_jax.runtime.user_errors import UserError

_NAME = 'diverged.txt'


class Diverged(UserError):
    """Values that are not finite, which no checkpoint may hold.

    Args:
      problem: what is not finite, and at which step.
      advice: what can be done about it.

    Attributes:
      problem: as the argument.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f'{problem}, {advice}')
        self.problem = problem


@contextmanager
def record_divergence(folder: Path) -> Iterator[None]:
    """Writes to the folder of a run that it has diverged, if the block ends so.

    The exit code is that of any other mistake. A study distinguishes the two by this file.

    Args:
      folder: the workdir; a record of an earlier start there is removed.
    """
    is_first = group.current().is_first
    if is_first:
        forget(folder)
    try:
        yield
    except Diverged as error:
        if is_first:
            with contextlib.suppress(OSError):  # of a full disk; the error itself is reported
                (folder / _NAME).write_text(f'{error.problem}\n')
        raise


def read(folder: Path) -> str:
    """Returns what was not finite, and at which step; '' if the last start has not diverged."""
    try:
        return (folder / _NAME).read_text(errors='replace').strip()
    except OSError:
        return ''


def forget(folder: Path) -> None:
    """Removes the record of an earlier start."""
    with contextlib.suppress(OSError):
        (folder / _NAME).unlink(missing_ok=True)
