"""What a run tells while it runs: TensorBoard, metrics.jsonl, the progress line.

Names: 'train/loss', 'train/top1_error', 'eval/top1_error', 'eval/top5_error',
'eval_10_views/top1_error', 'learning_rate', 'epoch', 'images_per_second'. Errors are fractions in
the files and percent on the screen.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from alexnet_jax.runtime import atomic_files
from alexnet_jax.training.filter_pictures import filter_picture


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
