"""The history of a run from its metrics.jsonl, as curves over epochs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from alexnet_jax.training.workdir import Workdir

Points = tuple[np.ndarray, np.ndarray]  # x and y, each (n,) float64


class History:
    """The lines of a metrics.jsonl; names as in training/log.py.

    Attributes:
      step: the newest step; 0 where nothing has been logged.
      images_per_second: since the newest start; 0 where it is unknown.
    """

    def __init__(self, lines: Sequence[Mapping[str, float]]) -> None:
        self._lines = lines
        self.step = int(max((line['step'] for line in lines), default=0))
        self.images_per_second = next(
            (line['images_per_second'] for line in lines[::-1] if 'images_per_second' in line), 0.0
        )

    def epoch(self, step: int) -> float:
        """Returns passes over the training set after `step` steps; 0 where none were logged."""
        for line in self._lines:
            if 'epoch' in line and line['step']:
                return step * line['epoch'] / line['step']
        return 0.0

    def curve(self, name: str) -> Points:
        """Returns the epochs and the values that were logged under a name."""
        points = [
            (self.epoch(int(line['step'])), line[name]) for line in self._lines if name in line
        ]
        x, y = np.array(points, np.float64).reshape(-1, 2).T
        return x, y

    def last(self, has_name: Callable[[str], bool]) -> float | None:
        """Returns the value that was logged last under a name for which `has_name` is true."""
        values = (x for line in self._lines[::-1] for name, x in line.items() if has_name(name))
        return next(values, None)

    def epochs_to_reach(self, name: str, level: float) -> float | None:
        """Returns the first epoch with a value of at most `level`; None if there is none."""
        x, y = self.curve(name)
        below = np.flatnonzero(y <= level)
        return float(x[below[0]]) if below.size else None

    def training_seconds(self, batch_size: int) -> float:
        """Estimates how long the training steps took, over all starts.

        Compilation and evaluation are not included. The speed on each line is a mean since the
        start, so the sum is exact only where the speed is constant.
        """
        seconds, previous = 0.0, 0
        for line in self._lines:
            if line.get('images_per_second'):
                seconds += (line['step'] - previous) * batch_size / line['images_per_second']
                previous = line['step']
        return seconds


def read(workdir: Path) -> History:
    """Reads the history of the run in a folder; it is empty where nothing has been logged."""
    return History(Workdir(workdir).read_metrics())


def downsample(points: Points, most: int = 400) -> Points:
    """Returns at most about `most` points, each the mean of a group of adjacent points."""
    group = -(-len(points[0]) // most)
    if group <= 1:
        return points
    starts = np.arange(0, len(points[0]), group)
    sizes = np.diff(np.append(starts, len(points[0])))
    x, y = (np.add.reduceat(values, starts) / sizes for values in points)
    return x, y
