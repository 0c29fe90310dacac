"""The log of a run: scalars for TensorBoard and the workdir's metrics, and pictures.

Names: 'train/loss', 'train/top1_error', 'eval/top1_error', 'eval/top5_error',
'eval_10_views/top1_error', 'learning_rate', 'epoch', 'images_per_second'. Errors are fractions in
the files and percent on the screen.
"""

import errno
import math
import os
import time
from collections.abc import Callable, Mapping

import numpy as np

from alexnet_jax.processes import group
from alexnet_jax.runtime.printing import show, warn
from alexnet_jax.training.pictures import training_sheet
from alexnet_jax.training.pictures.filter_pictures import filter_picture
from alexnet_jax.training.run_files.event_file import EventFile
from alexnet_jax.training.run_files.metrics_file import MetricsFile
from alexnet_jax.training.workdir import Workdir

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Writer:
    """Writes scalars and pictures to a workdir.

    When a run is resumed, what was logged after its checkpoint is discarded, and the curves are
    written anew from the metrics, so that no point is missing or double.

    If the disk cannot be written to, one line says so and training continues; what is missing is
    written later.

    Args:
      workdir: the folder of the run; it exists.
      step: training steps done in the checkpoint.
      evaluated: the step of the newest evaluation in the checkpoint.

    Raises:
      UserError: the metrics of the run cannot be read, or cannot be written at the start.
    """

    SECONDS_BETWEEN_TRIES = 5.0

    def __init__(self, workdir: Workdir, step: int, evaluated: int) -> None:
        self._metrics = workdir.resume_metrics(step, evaluated)
        self._sheet_file = workdir.path / training_sheet.NAME
        last_picture = evaluated if step else -1
        self._curves = EventFile(workdir.path, self._metrics.lines, last_picture)
        self._next_try: dict[MetricsFile | EventFile, float] = {}  # of files with errors
        self._write()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of metrics, and one point on each curve."""
        self._metrics.add(step, values)
        self._curves.add_scalars(step, values)
        self._write()

    def has_evaluation(self, step: int) -> bool:
        """Returns whether the log had the results of a step when the run was resumed."""
        return any(line['step'] == step and 'eval/loss' in line for line in self._metrics.lines)

    def filters(self, step: int, kernel_THWIO: np.ndarray) -> None:
        """Writes a picture of the first layer's kernels, one block per tower (Figure 3)."""
        self._curves.add_picture('conv1', step, filter_picture(kernel_THWIO))
        self._write()

    def lacks_sheet(self, step: int) -> bool:
        """Returns whether a start after `step` steps has to write a sheet of training images."""
        return not step or not os.path.exists(self._sheet_file)

    def sheet(self, step: int, sheet_HWC: np.ndarray) -> None:
        """Writes a sheet of training images, to a file of its own and for TensorBoard.

        If the file cannot be written, one line says so; a resumption writes it.
        """
        self._curves.add_picture('training_images', step, sheet_HWC)
        self._write()
        try:
            training_sheet.write(self._sheet_file, sheet_HWC)
        except OSError as error:
            reason = error.strerror or error
            warn(
                f'cannot write {self._sheet_file}: {reason}; training continues without this '
                'picture'
            )
        else:
            show(f'training images as the net sees them: {self._sheet_file}')

    def flush(self) -> None:
        """Writes all lines to the disk; called before a checkpoint is saved.

        Otherwise a kill could leave a checkpoint with lines before it that were in memory alone.
        """
        self._write(to_disk=True)

    def close(self) -> None:
        """Writes what is still in memory; what cannot be written is lost, and a line says so."""
        self._write(to_disk=True)
        if self._metrics.pending:
            warn(f'{self._metrics.path} lacks the last {self._metrics.pending} lines of the log')

    def _write(self, to_disk: bool = False) -> None:
        """Writes what is in memory; after an error, a file is tried again every few seconds.

        Args:
          to_disk: whether to try in any case, and to wait until the metrics are on the disk.
        """
        warns = not self._next_try  # one line for both files
        if to_disk or self._is_due(self._metrics):
            self._attempt(self._metrics, lambda: self._metrics.flush(to_disk), warns)
        if to_disk or self._is_due(self._curves):
            self._attempt(self._curves, self._curves.flush, warns and not self._next_try)

    def _is_due(self, file: MetricsFile | EventFile) -> bool:
        return time.monotonic() >= self._next_try.get(file, -math.inf)

    def _attempt(
        self, file: MetricsFile | EventFile, write: Callable[[], None], warns: bool
    ) -> None:
        try:
            write()
        except OSError as error:
            self._next_try[file] = time.monotonic() + self.SECONDS_BETWEEN_TRIES
            if warns:
                when = 'when there is room' if error.errno in _NO_ROOM else 'once that is possible'
                warn(
                    f'cannot write {file.path}: {error.strerror}; training continues, and the log '
                    f'is completed {when}'
                )
        else:
            self._next_try.pop(file, None)


class SilentWriter:
    """The log of a process that is not process 0, which writes for all: it writes nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes nothing."""

    def has_evaluation(self, step: int) -> bool:
        """Returns True: nothing is lacking in a log that is not written."""
        return True

    def filters(self, step: int, kernel_THWIO: np.ndarray) -> None:
        """Writes nothing."""

    def lacks_sheet(self, step: int) -> bool:
        """Returns False: process 0 writes the sheet."""
        return False

    def sheet(self, step: int, sheet_HWC: np.ndarray) -> None:
        """Writes nothing."""

    def flush(self) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Writes nothing."""


def open_writer(workdir: Workdir, step: int, evaluated: int) -> Writer | SilentWriter:
    """Returns the log that this process writes; see `Writer` for the arguments and errors."""
    return Writer(workdir, step, evaluated) if group.current().is_first else SilentWriter()


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
