"""The end of a run whose values are no longer finite, recorded for the program that started it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.processes import group
from alexnet_jax.runtime.user_errors import UserError

if TYPE_CHECKING:
    from alexnet_jax.training.checkpoint import Checkpoints

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


def advise(problem: str, step: int, rate: float, checkpoints: Checkpoints, workdir: Path) -> str:
    """Says what can be done about a value that is not finite.

    Args:
      problem: what is not finite, such as 'the loss is nan'.
      step: the number of training steps done.
      rate: the initial learning rate of the run.
      checkpoints: those of the run.
      workdir: the folder of the run.
    """
    saved = checkpoints.newest
    lower = f'the same command with --extend --config.learning_rate.initial={rate / 10:g}'
    if step == 1 and 'loss' in problem:
        advice = (
            'before anything was learned: not the learning rate but the initial weights '
            '(model.*.std) or the images are to blame; change them, and choose another --workdir'
        )
    elif saved is None:
        advice = f'and nothing was saved yet: {lower} starts again with a lower learning rate'
    else:
        advice = (
            f'and the checkpoint of step {saved} is intact: {lower} continues from it with a '
            'lower learning rate'
        )
        # What is finite may be beyond repair, after a step with too high a learning rate.
        earlier = [x for x in checkpoints.steps if x < saved]
        if earlier:
            step_before = checkpoints.best if checkpoints.best in earlier else earlier[-1]
            flag = f'--from={shlex.quote(str(workdir))}:{step_before}'
            advice += f'; should it diverge again, {flag} with another --workdir goes back more'
    return advice
