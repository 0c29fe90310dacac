"""One line on the terminal that says where training stands."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from alexnet_jax.config.durations import Durations
from alexnet_jax.runtime.progress import time_left


class ProgressLine:
    """One line that says where training stands.

    On a terminal it is written over itself; elsewhere a new one comes every ten seconds.

    Attributes:
      speed: images per second of the training steps, compilation and pauses left out.
    """

    SECONDS = 10.0

    def __init__(self, plan: Durations) -> None:
        self._plan = plan
        self._terminal = sys.stdout.isatty()
        self._shown = -math.inf
        self._began, self._first, self._away = 0.0, -1, 0.0
        self._tested = ''
        self.speed = 0.0

    def step(self, step: int, values: Mapping[str, float], rate: float) -> float:
        """Notes a step; gives the images per second so far, 0 after the first (compilation)."""
        now = time.monotonic()
        if self._first < 0:
            self._began, self._first, self._away = now, step, 0.0
            return 0.0
        per_step = max(now - self._began - self._away, 1e-9) / (step - self._first)
        self.speed = self._plan.batch_size / per_step
        every = 0.1 if self._terminal else self.SECONDS
        if now - self._shown >= every or step == self._plan.steps:
            self._shown = now
            left = time_left(per_step * (self._plan.steps - step))
            epoch, epochs = self._plan.epoch(step), self._plan.epoch(self._plan.steps)
            self._write(
                f'epoch {epoch:.1f}/{epochs:.1f}  step {step}/{self._plan.steps}  '
                f'loss {values["loss"]:.4f}  error {values["top1_error"]:.1%}{self._tested}  '
                f'rate {rate:.2g}  {self.speed:.0f} images/s  {left} left'
            )
        return self.speed

    def begin(self) -> None:
        """Before the first step, which compiles."""
        self._write('compiling the training step')

    @contextmanager
    def pause(self) -> Iterator[None]:
        """For time that is not spent on training steps."""
        before = time.monotonic()
        yield
        self._away += time.monotonic() - before

    def evaluated(self, results: Mapping[str, float]) -> None:
        """Shows the newest test error from now on."""
        self._tested = f' (test {results["top1_error"]:.1%})'

    def close(self) -> None:
        """Leaves the line standing."""
        if self._terminal:
            print(flush=True)

    def _write(self, line: str) -> None:
        if self._terminal:
            print(f'\r\x1b[K{line}', end='', flush=True)
        else:
            print(line, flush=True)
