"""Durations in steps, computed from those in epochs once all settings are known (§5)."""

import dataclasses
from pathlib import Path

from alexnet_jax.config.schema import Config
from alexnet_jax.runtime.user_errors import UserError


@dataclasses.dataclass(frozen=True)
class Durations:
    """The durations of a run in steps, which depend on the size of the data set."""

    examples: int
    batch_size: int
    steps: int
    evaluate_every: int
    save_every: int

    def epoch(self, step: int) -> float:
        """Returns the passes over the training set that are completed after `step` steps."""
        return step * self.batch_size / self.examples


def durations(config: Config, examples: int) -> Durations:
    """Returns all durations in steps, each at least one.

    Raises:
      UserError: the training set is smaller than one batch.
    """
    batch_size = config.optimizer.batch_size
    if examples < batch_size:
        raise UserError(
            f'the training split has {examples} images, fewer than optimizer.batch_size='
            f'{batch_size}: use a smaller batch'
        )

    def steps(epochs: float) -> int:
        return max(1, round(epochs * examples / batch_size))

    return Durations(
        examples=examples,
        batch_size=batch_size,
        steps=steps(config.optimizer.epochs),
        evaluate_every=steps(config.evaluation.every_epochs),
        save_every=steps(config.checkpoint.every_epochs),
    )


def check_length(plan: Durations, workdir: Path, step: int) -> None:
    """Raises a UserError if the run in a workdir has done more steps than a plan has."""
    if step > plan.steps:
        raise UserError(
            f'the run in {workdir} has done {step} steps, and these settings ask for '
            f'{plan.steps}: set --config.optimizer.epochs to more than {plan.epoch(step):.2f}'
        )
