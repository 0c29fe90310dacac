"""Trains a config without one of its parts at a time, and tabulates what each is worth."""

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict
from scipy import stats  # comes with scikit-learn

from alexnet_jax.config.ablations import ABLATIONS, ablate, changes
from alexnet_jax.config.schema import as_dict
from alexnet_jax.config.validation import resolve
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.progress import time_left
from alexnet_jax.runtime.text_table import aligned
from alexnet_jax.runtime.user_errors import STOPPED, UserError
from alexnet_jax.training import workdir

BASE = 'base'


Result = dict[str, float]  # 'centre', 'views': top-1 error, fractions; 'seconds'


class Study:
    """The base and its ablations, each with several seeds.

    Attributes:
      raw: the config before anything is ablated.
      names: the base, then the ablations that the config allows.
      left_out: for the others of ABLATIONS, why.

    Raises:
      UserError: an ablation that was asked for is unknown, or the config does not have that part.
    """

    def __init__(self, raw: ConfigDict, seeds: int, only: Sequence[str], folder: Path) -> None:
        self.raw, self.seeds, self._folder = raw, range(seeds), folder
        self.names, self.left_out = [BASE], {}
        for name in only or ABLATIONS:
            try:
                self.config(name, 0)
                self.names.append(name)
            except UserError as error:
                if only:
                    raise
                self.left_out[name] = str(error)

    def config(self, name: str, seed: int) -> Any:
        """The settings of one run."""
        raw = self.raw if name == BASE else ablate(self.raw, [name])
        return dataclasses.replace(resolve(raw), seed=seed)

    def trained_as(self, name: str) -> str:
        """Whose runs give this row: the base's, where nothing but the test differs."""
        if name == BASE:
            return BASE
        only_tests = all(key.startswith('evaluation.') for key in changes(self.raw, name))
        return BASE if only_tests else name

    def runs(self) -> list[tuple[str, int]]:
        """All that must be trained, a whole round of one seed after the other."""
        trained = [name for name in self.names if self.trained_as(name) == name]
        return [(name, seed) for seed in self.seeds for name in trained]

    def folder(self, name: str, seed: int) -> Path:
        """The workdir of one run."""
        return self._folder / f'{name}-{seed}'

    def result(self, name: str, seed: int) -> Result | None:
        """What a run gave; None if it is not done.

        Raises:
          UserError: the folder holds a run with other settings.
        """
        folder = self.folder(name, seed)
        file = folder / 'result.json'
        if not file.exists():
            return None
        known = json.loads((folder / 'config.json').read_text())['config']
        ours = json.loads(json.dumps(as_dict(self.config(name, seed))))
        difference = workdir.difference(known, ours)
        if difference:
            raise UserError(f'{folder} holds a run with {difference}: choose another --workdir')
        return json.loads(file.read_text())

    def errors(self, name: str) -> list[float]:
        """The top-1 error of every run of a row, as far as they are done; fractions."""
        which = 'centre' if self.trained_as(name) != name else 'views'
        return [result[which] for result in self._results(name)]

    def seconds(self, name: str) -> float:
        """What the runs of a row took, on average."""
        times = [result['seconds'] for result in self._results(name)]
        return sum(times) / max(1, len(times))

    def _results(self, name: str) -> list[Result]:
        found = (self.result(self.trained_as(name), seed) for seed in self.seeds)
        return [result for result in found if result]


def train(study: Study, arguments: list[str]) -> Iterator[tuple[str, int]]:
    """Trains what is not trained yet; gives each run once it is done.

    Args:
      arguments: of alexnet_jax.main: the config and its overrides.

    Raises:
      UserError: a run ended with a mistake.
    """
    todo = [run for run in study.runs() if study.result(*run) is None]
    began = time.monotonic()
    for number, (name, seed) in enumerate(todo):
        left = ''
        if number:
            left = f', {time_left((time.monotonic() - began) / number * (len(todo) - number))} left'
        print(f'[{number + 1}/{len(todo)}] {name}, seed {seed}{left}', flush=True)
        _train_one(study, name, seed, arguments)
        yield name, seed


def _train_one(study: Study, name: str, seed: int, arguments: list[str]) -> None:
    folder = study.folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'alexnet_jax.main', *arguments, f'--config.seed={seed}']
    command += [f'--workdir={folder}'] + ([] if name == BASE else [f'--ablate={name}'])
    start = time.monotonic()
    with (folder / 'output.txt').open('a') as output:
        code, errors = _run(command, output)
    if code == STOPPED:
        print('stopped: the same command goes on from there')
        sys.exit(STOPPED)
    if code:
        last = (errors.strip().splitlines() or [f'exit code {code}'])[-1]
        reason = last.removeprefix('alexnet_jax: ')
        raise UserError(f'{name} with seed {seed} failed: {reason} ({shlex.join(command)})')
    found = final_errors(folder) | {'seconds': time.monotonic() - start}
    with atomic_files.whole(folder / 'result.json') as partial:
        partial.write_text(json.dumps(found) + '\n')


def _run(command: list[str], output: TextIO) -> tuple[int, str]:
    """A run to its end: exit code, errors. A signal to stop is passed on, so that it saves."""
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {n: signal.signal(n, lambda n, _: process.send_signal(n)) for n in numbers}
    try:
        _, errors = process.communicate()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return process.returncode, errors


def final_errors(folder: Path) -> Result:
    """The last evaluation of a run: top-1 error of the centre crop, and of the mean of the views.

    Where a run averages no views, both are the centre's.
    """
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    last = [line for line in lines if 'eval/top1_error' in line][-1]
    views = (x for name, x in last.items() if name.endswith('_views/top1_error'))
    centre = last['eval/top1_error']
    return {'centre': centre, 'views': next(views, centre)}


def interval(errors: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """Welch's 95 % interval of the difference of the means; None where seeds show no spread."""
    if min(len(errors), len(base)) < 2 or len({*errors}) == len({*base}) == 1:
        return None
    with warnings.catch_warnings():  # that one of them has no spread
        warnings.filterwarnings('ignore', 'Precision loss', RuntimeWarning)
        found = stats.ttest_ind(errors, base, equal_var=False).confidence_interval(0.95)
    return float(found.low), float(found.high)


def rows(study: Study) -> list[dict[str, Any]]:
    """The table, a dict for each row that has runs; errors are fractions."""
    base, table = study.errors(BASE), []
    for name in study.names:
        errors = study.errors(name)
        if not errors:
            continue
        mean, known = sum(errors) / len(errors), ABLATIONS.get(name)
        within = interval(errors, base) if name != BASE else None
        table.append(
            {
                'name': name,
                'claim': known.claim if known else 'the config as it is',
                'paper': (known and known.paper) or None,
                'log': (known and known.log) or None,
                'errors': errors,
                'mean': mean,
                'difference': None if name == BASE else mean - sum(base) / len(base),
                'low': within and within[0],
                'high': within and within[1],
                'minutes': study.seconds(name) / 60,
                'changes': {} if name == BASE else changes(study.raw, name),
            }
        )
    return table


def text(table: list[dict[str, Any]]) -> str:
    """The table as it is printed: errors in percent, differences in points."""
    header = ('without', 'top-1 error', 'difference', '95 % interval', 'paper', '2012 log', 'min')
    lines = [header]
    for row in table:
        difference, within = '', ''
        if row['difference'] is not None:
            difference = f'{100 * row["difference"]:+.2f}'
        if row['low'] is not None:
            noise = ' (noise)' if row['low'] <= 0 <= row['high'] else ''
            within = f'{100 * row["low"]:+.2f} to {100 * row["high"]:+.2f}{noise}'
        name = '(nothing)' if row['name'] == BASE else row['name']
        known = row['paper'] or '', row['log'] or ''
        cells = (f'{row["mean"]:.2%}', difference, within, *known, f'{row["minutes"]:.1f}')
        lines.append((name, *cells))
    return aligned(lines)
