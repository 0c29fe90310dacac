"""The part of a run's progress that is on the host."""

import dataclasses
from typing import Any

from alexnet_jax.training.optimizer import Progress


@dataclasses.dataclass(frozen=True)
class Position:
    """The part of a run's progress that is on the host.

    Attributes:
      step: training steps that are done and whose metrics have been added.
      evaluated: the step of the newest evaluation.
      progress: the memory of the plateau schedule.
      steps: the steps since the last line of the log.
      sums: the sums of the metrics of these steps, by name.
    """

    step: int = 0
    evaluated: int = 0
    progress: Progress = dataclasses.field(default_factory=Progress)
    steps: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def after_step(self, step: int, values: dict[str, float]) -> 'Position':
        """Returns the position after one more step with these metrics."""
        sums = {name: self.sums.get(name, 0.0) + x for name, x in values.items()}
        return dataclasses.replace(self, step=step, steps=self.steps + 1, sums=sums)

    def take_means(self) -> tuple[dict[str, float], 'Position']:
        """Returns the means since the last line of the log, and the position without them."""
        means = {name: x / self.steps for name, x in self.sums.items()}
        return means, dataclasses.replace(self, steps=0, sums={})

    @classmethod
    def from_json(cls, values: Any) -> 'Position':
        """Converts the result of `dataclasses.asdict` back to a position.

        Raises:
          ValueError: a value is missing, unknown, of another type, or impossible.
        """
        try:
            position = cls(**values | {'progress': Progress(**values['progress'])})
        except (TypeError, KeyError) as error:
            raise ValueError(f'the position has other fields: {error}') from error
        position.check()
        return position

    def check(self) -> None:
        """Raises a ValueError for what no run can have reached, such as a negative step."""
        counts = {
            'step': self.step,
            'evaluated': self.evaluated,
            'steps': self.steps,
            'progress.waited': self.progress.waited,
            'progress.drops': self.progress.drops,
        }
        for name, value in counts.items():
            if type(value) is not int or value < 0:
                raise ValueError(f'{name} of the position is {value!r}')
        numbers = {'progress.best': self.progress.best, **_named_sums(self.sums)}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f'{name} of the position is {value!r}')
        if max(self.evaluated, self.steps) > self.step:
            raise ValueError(
                f'the position is at step {self.step}, evaluated at {self.evaluated}, with '
                f'{self.steps} steps in the means'
            )


def _named_sums(sums: Any) -> dict[str, Any]:
    if not isinstance(sums, dict):
        raise ValueError(f'sums of the position is {sums!r}')
    return {f'sums.{name}': value for name, value in sums.items()}
