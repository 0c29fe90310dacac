"""A study: rows of settings, each trained with several seeds, and the results of these runs."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.config.schema import Config
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import divergence
from alexnet_jax.training.workdir import Workdir


class Row(NamedTuple):
    """One row of the table of a study.

    Attributes:
      name: its name in the table and in messages; no two rows have the same.
      config: the checked settings; the seed is replaced by that of each run.
      folder: the beginning of the names of the runs' folders.
      flags: the flags for alexnet_jax.main that distinguish it from other rows.
      trained_as: the name of another row whose runs are also those of this one, which differs only
        in that the centre crop alone is evaluated; '' for a row with runs of its own.
    """

    name: str
    config: Config
    folder: str
    flags: tuple[str, ...] = ()
    trained_as: str = ''


class Result(NamedTuple):
    """The result of a run.

    Attributes:
      seconds: how long the process took that ended the run.
      centre: the top-1 error of the centre crop, a fraction; NaN if the run has diverged.
      views: that of the mean over the views; the same as `centre` where views are not averaged.
      diverged: what was not finite, and at which step; '' if the run has reached its end.
    """

    seconds: float
    centre: float = math.nan
    views: float = math.nan
    diverged: str = ''


class Study:
    """Rows of settings, each trained with several seeds.

    Args:
      rows: the rows.
      seeds: the number of seeds, which count from 0.
      folder: the folder of all runs.
      arguments: the flags for alexnet_jax.main that all rows have in common.

    Attributes:
      seeds: the seeds.
      names: the names of the rows.
    """

    def __init__(
        self, rows: Sequence[Row], seeds: int, folder: Path, arguments: Sequence[str] = ()
    ) -> None:
        self.seeds, self.names = range(seeds), [row.name for row in rows]
        self._rows = {row.name: row for row in rows}
        self._folder, self._arguments = folder, arguments

    def config(self, name: str, seed: int) -> Config:
        """Returns the settings of one run."""
        return dataclasses.replace(self._rows[name].config, seed=seed)

    def trained_as(self, name: str) -> str:
        """Returns the name of the row whose runs are those of this one: its own, or another."""
        return self._rows[name].trained_as or name

    def runs(self) -> list[tuple[str, int]]:
        """Lists name and seed of all runs: every name with the first seed, then with the next."""
        trained = [name for name in self.names if self.trained_as(name) == name]
        return [(name, seed) for seed in self.seeds for name in trained]

    def folder(self, name: str, seed: int) -> Path:
        """Returns the workdir of one run."""
        return self._folder / f'{self._rows[name].folder}-{seed}'

    def workdirs(self, name: str) -> list[Path]:
        """Returns the workdirs of the runs of a row that have logged something."""
        folders = [self.folder(self.trained_as(name), seed) for seed in self.seeds]
        return [folder for folder in folders if Workdir(folder).exists()]

    def command(self, name: str, seed: int) -> list[str]:
        """Returns the command that trains one run, or resumes it."""
        command = [sys.executable, '-m', 'alexnet_jax.main', *self._arguments]
        command += [f'--config.seed={seed}', f'--workdir={self.folder(name, seed)}']
        return [*command, *self._rows[name].flags]

    def make_folder(self, name: str, seed: int) -> Path:
        """Makes the workdir of a run that is about to start, and returns it."""
        folder = self.folder(name, seed)
        folder.mkdir(parents=True, exist_ok=True)
        divergence.forget(folder)
        return folder

    def has_diverged(self, name: str, seed: int) -> bool:
        """Returns whether a run whose process has failed has done so because it diverged."""
        return bool(divergence.read(self.folder(name, seed)))

    def record_result(self, name: str, seed: int, seconds: float) -> Result:
        """Writes the result of a run that has ended beside its log, and returns it.

        Args:
          name: the name of the row.
          seed: the seed.
          seconds: how long the process took that ended the run.

        Raises:
          UserError: the log lacks the errors of the run, where the disk was full.
        """
        folder = self.folder(name, seed)
        values: dict[str, Any] = {'seconds': seconds}
        if diverged := divergence.read(folder):
            result = Result(seconds, diverged=diverged)
            values['diverged'] = diverged
        else:
            result = Result(seconds, *final_errors(Workdir(folder)))
            values |= {'centre': result.centre, 'views': result.views}
        with atomic_files.replace(folder / 'result.json') as partial:
            partial.write_text(json.dumps(values) + '\n')
        return result

    def result(self, name: str, seed: int) -> Result | None:
        """Reads the result of a run; None if the run has not ended.

        A damaged file counts as none: the run is resumed, which ends at once, and writes it again.

        Raises:
          UserError: the folder holds a run with other settings, or cannot be read.
        """
        folder = self.folder(name, seed)
        result = _read_result(folder / 'result.json')
        if result is None:
            return None
        difference = Workdir(folder).difference(self.config(name, seed))
        if difference:
            raise UserError(f'{folder} holds a run with {difference}: choose another --workdir')
        return result

    def errors(self, name: str) -> list[float]:
        """Returns the top-1 errors of the runs of a row that have reached their end; fractions."""
        kind = 'centre' if self.trained_as(name) != name else 'views'
        return [getattr(result, kind) for result in self._results(name) if not result.diverged]

    def mean_error(self, name: str) -> float | None:
        """Returns the mean of `errors`, a fraction; None where no run has reached its end."""
        errors = self.errors(name)
        return sum(errors) / len(errors) if errors else None

    def divergences(self, name: str) -> dict[int, str]:
        """Returns what was not finite in the runs that have diverged, by their seeds."""
        results = {seed: self.result(self.trained_as(name), seed) for seed in self.seeds}
        return {seed: x.diverged for seed, x in results.items() if x and x.diverged}

    def seconds(self, name: str) -> float:
        """Returns the mean duration of the runs of a row; 0 where none has ended."""
        times = [result.seconds for result in self._results(name)]
        return sum(times) / max(1, len(times))

    def device_counts(self, name: str) -> set[int]:
        """Returns the numbers of devices on which the runs of a row that have ended were trained.

        There are several where a run was resumed on other devices, or two seeds had different ones.
        """
        trained, counts = self.trained_as(name), set()
        for seed in self.seeds:
            if self.result(trained, seed):
                starts = Workdir(self.folder(trained, seed)).read_record()['starts']
                counts |= {math.prod(start['mesh'].values()) for start in starts}
        return counts

    def _results(self, name: str) -> list[Result]:
        results = (self.result(self.trained_as(name), seed) for seed in self.seeds)
        return [result for result in results if result]


def _read_result(file: Path) -> Result | None:
    if not os.path.lexists(file):
        return None
    try:
        values: dict[str, Any] = json.loads(file.read_text())
        seconds = float(values['seconds'])
        if values.get('diverged'):
            return Result(seconds, diverged=str(values['diverged']))
        result = Result(seconds, float(values['centre']), float(values['views']))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    except OSError as error:
        raise UserError(f'cannot read {file}: {error.strerror}') from error
    return result if all(map(math.isfinite, result[:3])) else None


def final_errors(workdir: Workdir) -> tuple[float, float]:
    """Returns the top-1 errors of a run's last evaluation, of the centre and of the mean of views.

    If the run does not average views, both are the error of the centre crop.

    Raises:
      UserError: the log lacks them, where the disk was full.
    """
    evaluations = [line for line in workdir.read_metrics() if 'eval/top1_error' in line]
    if not evaluations:
        raise UserError(
            f'the log of {workdir.path} lacks the errors of the run: the same command evaluates it '
            'again'
        )
    last = evaluations[-1]
    views = (x for name, x in last.items() if name.endswith('_views/top1_error'))
    centre = last['eval/top1_error']
    return centre, next(views, centre)
