"""The log of a run: scalars for TensorBoard and the workdir's metrics, and pictures of filters.

Names: 'train/loss', 'train/top1_error', 'eval/top1_error', 'eval/top5_error',
'eval_10_views/top1_error', 'learning_rate', 'epoch', 'images_per_second'. Errors are fractions in
the files and percent on the screen.
"""

from collections.abc import Mapping

import numpy as np
from tensorboardX import SummaryWriter

from alexnet_jax.training.filter_pictures import filter_picture
from alexnet_jax.training.workdir import Workdir


class Writer:
    """Writes scalars and pictures to a workdir.

    When a run is resumed, what was logged after its checkpoint is discarded, so that no curve
    covers the same steps twice.

    Args:
      workdir: the folder of the run; it exists.
      step: training steps done in the checkpoint.
      evaluated: the step of the newest evaluation in the checkpoint.
    """

    def __init__(self, workdir: Workdir, step: int, evaluated: int) -> None:
        self._workdir = workdir
        workdir.discard_metrics_after(step, evaluated)
        self._board = SummaryWriter(
            str(workdir.path),
            purge_step=step + 1 if step else None,
            flush_secs=10,
            filename_suffix=f'.{step:09}',  # two starts in one second do not share a file
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of metrics, and one point on each curve."""
        self._workdir.append_metrics(step, values)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def filters(self, step: int, kernel_THWIO: np.ndarray) -> None:
        """Writes a picture of the first layer's kernels, one block per tower (Figure 3)."""
        self._board.add_image('conv1', filter_picture(kernel_THWIO), step, dataformats='HWC')

    def close(self) -> None:
        """Writes what is still in memory."""
        self._board.close()


def name_metrics(results: Mapping[str, float], views: int) -> dict[str, float]:
    """Gives the results of an evaluation the names that they have in the log.

    Args:
      results: see `validation.make_evaluate`.
      views: the number of test views of the run.
    """
    return {
        name.replace('views', f'eval_{views}_views')
        if name.startswith('views')
        else f'eval/{name}': x
        for name, x in results.items()
        if name != 'images'
    }
