"""Runs `main --find_learning_rate`: a range test, its table, its plot, and the command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from alexnet_jax.config.schema import Config
from alexnet_jax.data import sources
from alexnet_jax.range_test import output, steps
from alexnet_jax.range_test.curve import Range, evaluate
from alexnet_jax.runtime.paths import check_output_file, check_writable
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import EXIT_STOPPED, explain_os_errors
from alexnet_jax.training.workdir import Workdir

if TYPE_CHECKING:
    from alexnet_jax.data.preparation.catalogue import Catalogue

_OWN_FLAGS = ('find_learning_rate', 'nofind_learning_rate', 'range', 'range_steps', 'extend')


def main(
    config: Config,
    mesh: jax.sharding.Mesh,
    workdir: Path,
    test: Range,
    source: tuple[Path, int | None] | None,
    stop: StopSignal,
    catalogue: Catalogue | None = None,
) -> int:
    """Makes a range test, prints what it says, and writes its page; returns the exit code.

    The run of the workdir, if there is one, is left as it is.

    Args:
      config: the settings.
      mesh: the devices.
      workdir: the folder of the run, which need not exist, and of the page.
      test: the learning rates.
      source: the workdir and the step of the state to begin with, if `workdir` has no checkpoint.
      stop: records signals.
      catalogue: the images of `dataset.folder`, where they have been listed already.

    Raises:
      UserError: the workdir belongs to a run with other settings; or as from `steps.run`.
    """
    run = Workdir(workdir)
    _check(config, run, source)
    splits = sources.open_splits(config.dataset, config.loader.skip_bad, catalogue=catalogue)
    begin = steps.start(config, mesh, len(splits.train), run, source)
    show(
        f'range test from {test.low:g} to {test.high:g} in {test.steps} steps, beginning with '
        f'{begin.origin}'
    )
    curve = steps.run(config, mesh, splits, run, begin, test, stop)
    result, command = evaluate(curve, bool(stop.signal)), _command(sys.argv[1:])
    if not len(curve.losses):
        show(f'no step was made: {result.reason}')
        return EXIT_STOPPED if stop.signal else 0
    show(f'\n{output.text(curve, result)}')
    use = ''
    if result.suggestion is not None:
        initial = result.suggestion * begin.divisor
        use = _command(sys.argv[1:], initial, run.exists() and begin.step > 0)
        if begin.divisor != 1:
            show(
                f'{"schedule":<21}has divided the initial rate by {begin.divisor:g} at step '
                f'{begin.step}, so that {result.suggestion:g} now is {initial:g} at the start'
            )
        show(f'{"to use it":<21}{use}')
    with explain_os_errors(f'write {workdir / output.PAGE}'):
        page, _ = output.write(workdir, curve, result, begin.origin, command, use)
    show(f'{"plot":<21}{page}')
    if stop.signal:
        show(f'stopped by {stop.signal} after {len(curve.losses)} of {test.steps} steps')
        return EXIT_STOPPED
    return 0


def _check(config: Config, run: Workdir, source: tuple[Path, int | None] | None) -> None:
    """Raises a UserError if the workdir cannot be written to or is that of another run."""
    check_writable(run.path, '--workdir')
    for name in (output.PAGE, output.CSV):
        if run.path.is_dir():
            check_output_file(run.path / name, 'the file')
    origin = source and {'workdir': str(source[0]), 'step': source[1]}
    run.check(config, extend=True, source=origin)


def _command(arguments: Sequence[str], rate: float | None = None, extend: bool = False) -> str:
    """Returns the command of this process, or the one that trains with a learning rate.

    Args:
      arguments: those of this process.
      rate: the initial learning rate; None for the command of this process.
      extend: whether the run has a checkpoint, so that a new rate needs --extend.
    """
    program = ['python', '-m', 'alexnet_jax.main']
    if rate is None:
        return shlex.join([*program, *arguments])
    setting = 'config.learning_rate.initial'
    kept, skip = [], False
    for argument in arguments:
        name = argument.lstrip('-').partition('=')[0]
        is_own = argument.startswith('-') and name in (*_OWN_FLAGS, setting)
        if not is_own and not skip:
            kept.append(argument)
        # '--range 1e-4,1', as two arguments
        skip = is_own and '=' not in argument and name in ('range', 'range_steps', setting)
    return shlex.join([*program, *kept, *['--extend'] * extend, f'--{setting}={rate:g}'])
