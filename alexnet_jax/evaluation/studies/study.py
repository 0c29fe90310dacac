"""The runs of an ablation study (§3, §4): their settings, commands, folders and results."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config.ablations import ABLATIONS, ablate, changes, check_names
from alexnet_jax.config.validation import resolve
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir

BASE = 'base'

# 'centre' and 'views': the top-1 errors of a run, fractions; 'seconds': its duration.
Result = dict[str, float]


class Study:
    """The base and its ablations, each with several seeds.

    Args:
      raw: the config without ablations.
      seeds: the number of seeds, which count from 0.
      only: the names of the ablations; empty for all that the config allows.
      folder: the folder of all runs.

    Attributes:
      raw: the config without ablations.
      seeds: the seeds.
      names: the base, then the ablations.
      left_out: the ablations that the config does not allow, with the reason.

    Raises:
      UserError: a setting is wrong, an ablation of `only` is unknown, or the config lacks the part
        that it removes.
    """

    def __init__(self, raw: ConfigDict, seeds: int, only: Sequence[str], folder: Path) -> None:
        self.raw, self.seeds, self._folder = raw, range(seeds), folder
        self.names, self.left_out = [BASE], {}
        check_names(only)
        self.config(BASE, 0)  # its mistakes would be taken for parts that the config lacks
        for name in only or ABLATIONS:
            try:
                self.config(name, 0)
                self.names.append(name)
            except UserError as error:
                if only:
                    raise
                self.left_out[name] = str(error)

    def config(self, name: str, seed: int) -> Any:
        """Returns the settings of one run."""
        raw = self.raw if name == BASE else ablate(self.raw, [name])
        return dataclasses.replace(resolve(raw), seed=seed)

    def trained_as(self, name: str) -> str:
        """Names the runs of a row: those of the base, where nothing but the evaluation differs."""
        if name == BASE:
            return BASE
        is_trained_like_base = all(key.startswith('evaluation.') for key in changes(self.raw, name))
        return BASE if is_trained_like_base else name

    def runs(self) -> list[tuple[str, int]]:
        """Lists name and seed of all runs: every name with the first seed, then with the next."""
        trained = [name for name in self.names if self.trained_as(name) == name]
        return [(name, seed) for seed in self.seeds for name in trained]

    def folder(self, name: str, seed: int) -> Path:
        """Returns the workdir of one run."""
        return self._folder / f'{name}-{seed}'

    def command(self, name: str, seed: int, arguments: Sequence[str]) -> list[str]:
        """Returns the command that trains one run, or resumes it.

        Args:
          name: the base or an ablation.
          seed: the seed.
          arguments: flags for alexnet_jax.main: the config and its overrides.
        """
        command = [sys.executable, '-m', 'alexnet_jax.main', *arguments, f'--config.seed={seed}']
        command.append(f'--workdir={self.folder(name, seed)}')
        return command if name == BASE else [*command, f'--ablate={name}']

    def record_result(self, name: str, seed: int, seconds: float) -> Result:
        """Writes the result of a run that has ended beside its log, and returns it.

        Args:
          name: the base or an ablation.
          seed: the seed.
          seconds: how long the process took that ended the run.

        Raises:
          UserError: the log lacks the errors of the run, where the disk was full.
        """
        folder = self.folder(name, seed)
        result = final_errors(Workdir(folder)) | {'seconds': seconds}
        with atomic_files.replace(folder / 'result.json') as partial:
            partial.write_text(json.dumps(result) + '\n')
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
        """Returns the top-1 errors of the runs of a row that have ended; fractions."""
        kind = 'centre' if self.trained_as(name) != name else 'views'
        return [result[kind] for result in self._results(name)]

    def seconds(self, name: str) -> float:
        """Returns the mean duration of the runs of a row."""
        times = [result['seconds'] for result in self._results(name)]
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
        values = json.loads(file.read_text())
        result = {name: float(values[name]) for name in ('centre', 'views', 'seconds')}
    except (ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        raise UserError(f'cannot read {file}: {error.strerror}') from error
    return result if all(map(math.isfinite, result.values())) else None


def final_errors(workdir: Workdir) -> Result:
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
    return {'centre': centre, 'views': next(views, centre)}
