"""What a run tells while it runs: TensorBoard, metrics.jsonl, the progress line.

Names: 'train/loss', 'train/top1_error', 'eval/top1_error', 'eval/top5_error',
'eval_10_views/top1_error', 'learning_rate', 'epoch', 'images_per_second'. Errors are fractions in
the files and percent on the screen.
"""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from alexnet_jax.config.schema import Durations
from alexnet_jax.runtime import atomic_files


class Writer:
    """Writes scalars and pictures to a workdir.

    After a restart what was written beyond the checkpoint is taken back, so that curves do not
    run twice over the same steps.

    Args:
      step: training steps done in the checkpoint.
      evaluated: the step of the newest evaluation in it.
    """

    def __init__(self, workdir: Path, step: int, evaluated: int) -> None:
        self._file = workdir / 'metrics.jsonl'
        if self._file.exists():
            self._take_back(step, evaluated)
        self._board = SummaryWriter(
            str(workdir),
            purge_step=step + 1 if step else None,
            flush_secs=10,
            filename_suffix=f'.{step:09}',  # two restarts in one second do not share a file
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the file, and one point on each curve."""
        with open(self._file, 'a') as file:
            file.write(json.dumps({'step': step} | dict(values)) + '\n')
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def filters(self, step: int, kernel_THWIO: np.ndarray) -> None:
        """The first layer's kernels, one block of pictures per tower, side by side (Figure 3)."""
        self._board.add_image('conv1', filter_picture(kernel_THWIO), step, dataformats='HWC')

    def close(self) -> None:
        """Writes what is not written yet."""
        self._board.close()

    def _take_back(self, step: int, evaluated: int) -> None:
        kept = []
        for line in self._file.read_text().splitlines(keepends=True):
            try:
                values = json.loads(line)
            except ValueError:
                break  # torn by a kill; so is nothing before it
            evaluation = any(name.startswith('eval') for name in values)
            if values['step'] <= (evaluated if evaluation else step):
                kept.append(line)
        with atomic_files.whole(self._file) as partial:
            partial.write_text(''.join(kept))


def named(results: Mapping[str, float], views: int) -> dict[str, float]:
    """An evaluation (scores.make_evaluate) as the files name it."""
    return {
        name.replace('views', f'eval_{views}_views')
        if name.startswith('views')
        else f'eval/{name}': x
        for name, x in results.items()
        if name != 'images'
    }


def filter_picture(kernel_THWIO: np.ndarray, columns: int = 8, zoom: int = 3) -> np.ndarray:
    """All towers' pictures of their kernels, side by side; (rows, columns, 3) uint8."""
    towers = [tower_picture(kernel, columns, zoom) for kernel in kernel_THWIO]
    apart = np.full((len(towers[0]), 3, 3), 255, np.uint8)
    return np.concatenate([part for tower in towers for part in (tower, apart)], axis=1)


def tower_picture(kernel_HWIO: np.ndarray, columns: int, zoom: int) -> np.ndarray:
    """A tower's kernels, each stretched to its own range, on white; (rows, columns, 3) uint8."""
    size, _, _, maps = kernel_HWIO.shape
    rows, gap = -(-maps // columns), 1
    step = size * zoom + gap
    picture = np.full((rows * step + gap, columns * step + gap, 3), 255, np.uint8)
    for number in range(maps):
        kernel = kernel_HWIO[..., number]
        low, high = kernel.min(), kernel.max()
        tile = np.uint8(255 * (kernel - low) / max(high - low, 1e-12))
        top, left = gap + number // columns * step, gap + number % columns * step
        picture[top : top + size * zoom, left : left + size * zoom] = tile.repeat(zoom, 0).repeat(
            zoom, 1
        )
    return picture


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


def time_left(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
