"""The error of a run whose loss or parameters are not finite, and what can be done about it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.runtime.user_errors import UserError

if TYPE_CHECKING:
    from alexnet_jax.training.checkpoint import Checkpoints


class Diverged(UserError):
    """Values that are not finite, which no checkpoint may hold."""


def describe(problem: str, step: int, rate: float, checkpoints: Checkpoints, workdir: Path) -> str:
    """Describes a value that is not finite, and says what can be done about it.

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
    return f'{problem} at step {step}, {advice}'
