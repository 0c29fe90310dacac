"""One line on the terminal that shows the progress of training."""

import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from alexnet_jax.config.durations import Durations
from alexnet_jax.runtime.printing import is_terminal, show
from alexnet_jax.runtime.progress import time_left

# The fields that a narrow terminal does without, the first of them first.
DROP_ORDER = ('learning rate', 'speed', 'epoch', 'error')


class ProgressLine:
    """One line that shows the progress of training.

    On a terminal each line replaces the one before it, and is never wider than the terminal, where
    it would wrap and could not be replaced. In a file or a pipe a line is added every ten seconds.
    What cannot be printed, where the reader of a pipe or the terminal has gone, is dropped.

    Args:
      plan: the durations of the run.
      split: the name of the split that is evaluated, as the line calls its error.

    Attributes:
      speed: images per second of the training steps, without compilation and pauses; 0 before the
        second step.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, plan: Durations, split: str = 'test') -> None:
        self._plan, self._split = plan, split
        self._is_terminal = is_terminal(sys.stdout)
        self._fields: dict[str, str] = {}  # those of the line on the terminal
        self._time_of_line = -math.inf
        self._start, self._first_step, self._paused = 0.0, -1, 0.0
        self._error, self._test_error = '', ''
        self.speed = 0.0

    def step(self, step: int, values: Mapping[str, float], learning_rate: float) -> float:
        """Takes in the metrics of a step, and shows them if it is time to.

        Returns:
          The images per second so far; 0 after the first step, which includes compilation.
        """
        now = time.monotonic()
        if self._first_step < 0:
            self._start, self._first_step, self._paused = now, step, 0.0
            return 0.0
        seconds = max(now - self._start - self._paused, 1e-9) / (step - self._first_step)
        self.speed = self._plan.batch_size / seconds
        interval = 0.1 if self._is_terminal else self.SECONDS_BETWEEN_LINES
        if now - self._time_of_line >= interval or step == self._plan.steps:
            self._time_of_line = now
            left = time_left(seconds * (self._plan.steps - step))
            epoch, epochs = self._plan.epoch(step), self._plan.epoch(self._plan.steps)
            self._error = f'error {values["top1_error"]:.1%}'
            # The last line would stand beside the results of the evaluation that follows it.
            test_error = self._test_error if step < self._plan.steps else ''
            self._write(
                {
                    'epoch': f'epoch {epoch:.1f}/{epochs:.1f}',
                    'step': f'step {step}/{self._plan.steps}',
                    'loss': f'loss {values["loss"]:.4f}',
                    'error': self._error + test_error,
                    'learning rate': f'learning rate {learning_rate:.2g}',
                    'speed': f'{self.speed:.0f} images/s',
                    'time left': f'{left} left',
                }
            )
        return self.speed

    def begin(self) -> None:
        """Announces the first step, which is compiled."""
        self._write({'': 'compiling the training step'})

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time inside the block out of the speed of training."""
        start = time.monotonic()
        yield
        self._paused += time.monotonic() - start

    def evaluated(self, results: Mapping[str, float]) -> None:
        """Adds the test error of an evaluation to the line on the terminal and to later ones."""
        self._test_error = f' ({self._split} {results["top1_error"]:.1%})'
        if self._is_terminal and 'error' in self._fields:
            self._write(self._fields | {'error': self._error + self._test_error})

    def close(self) -> None:
        """Ends the line, so that what is printed next does not replace it."""
        if self._fields and self._is_terminal:
            show()
        self._fields = {}

    def _write(self, fields: Mapping[str, str]) -> None:
        self._fields = dict(fields)
        if self._is_terminal:
            line = fit(fields, shutil.get_terminal_size().columns - 1)
            show(f'\r\x1b[K{line}', end='')
        else:
            show('  '.join(fields.values()))


def fit(fields: Mapping[str, str], columns: int) -> str:
    """Joins fields to a line of at most so many columns, without those that do not fit.

    Args:
      fields: texts by name; those of DROP_ORDER are left out in that order.
      columns: the width; a line that is still too long is cut.
    """
    names = list(fields)
    for name in DROP_ORDER:
        if len('  '.join(fields[name] for name in names)) <= columns:
            break
        if name in names:
            names.remove(name)
    return '  '.join(fields[name] for name in names)[:columns]
