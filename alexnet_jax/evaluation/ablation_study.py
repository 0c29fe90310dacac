"""The ablation study (§3, §4): trains a config without each of its parts, tabulates the errors."""

import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict
from scipy import stats  # comes with scikit-learn

from alexnet_jax.config.ablations import ABLATIONS, ablate, changes, check_names
from alexnet_jax.config.validation import resolve
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.progress import time_left
from alexnet_jax.runtime.signals import EXIT_INTERRUPTED, forward_to
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import EXIT_STOPPED, UserError
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


def train(study: Study, arguments: list[str]) -> Iterator[tuple[str, int]]:
    """Trains the runs that have no result yet, and yields each when it ends.

    Args:
      study: the runs.
      arguments: flags for alexnet_jax.main: the config and its overrides.

    Yields:
      The name and the seed of a run that has ended.

    Raises:
      UserError: a run ended with an error.
    """
    missing = [run for run in study.runs() if study.result(*run) is None]
    start = time.monotonic()
    for number, (name, seed) in enumerate(missing):
        left = ''
        if number:
            seconds = (time.monotonic() - start) / number * (len(missing) - number)
            left = f', {time_left(seconds)} left'
        show(f'[{number + 1}/{len(missing)}] {name}, seed {seed}{left}')
        _train_one(study, name, seed, arguments)
        yield name, seed


def _train_one(study: Study, name: str, seed: int, arguments: list[str]) -> None:
    folder = study.folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'alexnet_jax.main', *arguments, f'--config.seed={seed}']
    command += [f'--workdir={folder}'] + ([] if name == BASE else [f'--ablate={name}'])
    start = time.monotonic()
    with (folder / 'output.txt').open('a') as output:
        code, errors, signals = _run(command, output)
    if code == EXIT_STOPPED or (signals and code < 0):  # below 0: it had nothing to save yet
        show('stopped and saved: the same command resumes')
        sys.exit(EXIT_STOPPED)
    if signals and code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        last = (errors.strip().splitlines() or [f'exit code {code}'])[-1]
        reason = last.removeprefix('alexnet_jax: ')
        raise UserError(f'{name} with seed {seed} failed: {reason} ({shlex.join(command)})')
    result = final_errors(Workdir(folder)) | {'seconds': time.monotonic() - start}
    with atomic_files.replace(folder / 'result.json') as partial:
        partial.write_text(json.dumps(result) + '\n')


def _run(command: list[str], output: TextIO) -> tuple[int, str, list[str]]:
    """Runs a command, and forwards stop signals to it, so that it saves a checkpoint.

    Returns:
      The exit code, what the command wrote to stderr, and the names of the forwarded signals.
    """
    process = subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        errors='replace',
        start_new_session=True,
    )
    with forward_to(process) as signals:
        _, errors = process.communicate()
    return process.returncode, errors, signals


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


def interval(errors: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """Computes Welch's 95 % interval of the difference of the means.

    Returns:
      The interval; None where one has fewer than two runs, or neither has any spread.
    """
    if min(len(errors), len(base)) < 2 or len({*errors}) == len({*base}) == 1:
        return None
    with warnings.catch_warnings():  # one of them may have no spread
        warnings.filterwarnings('ignore', 'Precision loss', RuntimeWarning)
        bounds = stats.ttest_ind(errors, base, equal_var=False).confidence_interval(0.95)
    return float(bounds.low), float(bounds.high)


def rows(study: Study) -> list[dict[str, Any]]:
    """Returns a dict for each row of the table that has results; errors are fractions."""
    base, table = study.errors(BASE), []
    for name in study.names:
        errors = study.errors(name)
        if not errors:
            continue
        mean, ablation = sum(errors) / len(errors), ABLATIONS.get(name)
        bounds = interval(errors, base) if name != BASE else None
        table.append(
            {
                'name': name,
                'claim': ablation.claim if ablation else 'the config without changes',
                'paper': (ablation and ablation.paper) or None,
                'log': (ablation and ablation.log) or None,
                'errors': errors,
                'mean': mean,
                'difference': None if name == BASE else mean - sum(base) / len(base),
                'low': bounds and bounds[0],
                'high': bounds and bounds[1],
                'minutes': study.seconds(name) / 60,
                'changes': {} if name == BASE else changes(study.raw, name),
            }
        )
    return table


def text(table: list[dict[str, Any]]) -> str:
    """Formats the table for the terminal: errors in percent, differences in percentage points."""
    header = ('without', 'top-1 error', 'difference', '95 % interval', 'paper', '2012 log', 'min')
    lines = [header]
    for row in table:
        difference, bounds = '', ''
        if row['difference'] is not None:
            difference = f'{100 * row["difference"]:+.2f}'
        if row['low'] is not None:
            noise = ' (noise)' if row['low'] <= 0 <= row['high'] else ''
            bounds = f'{100 * row["low"]:+.2f} to {100 * row["high"]:+.2f}{noise}'
        name = '(nothing)' if row['name'] == BASE else row['name']
        published = row['paper'] or '', row['log'] or ''
        cells = (f'{row["mean"]:.2%}', difference, bounds, *published, f'{row["minutes"]:.1f}')
        lines.append((name, *cells))
    return align_columns(lines)
