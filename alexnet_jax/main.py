"""Trains AlexNet, two towers on two devices, as a config file says.

    python -m alexnet_jax.main
        the embedded digits; about a minute on two cores
    python -m alexnet_jax.main --config=configs/ilsvrc2012.py --workdir=DIR
        the paper; the same command goes on after a stop
    python -m alexnet_jax.main --config=configs/ilsvrc2012.py --ablate=lrn,overlapping_pooling
        without some of its parts; alexnet_jax.ablations tries all
    python -m alexnet_jax.main --config=configs/ilsvrc2012.py --dry_run
        its settings and a table of the net, without data

Exit codes: 0 trained, 2 a mistake in the command or the data (one line says what), 75 told to stop
(SIGTERM, Ctrl-C) and saved, 130 interrupted before there was anything to save.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.config import command_line, schema
from alexnet_jax.config.ablations import ABLATIONS, ablate
from alexnet_jax.config.durations import durations
from alexnet_jax.config.validation import resolve
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import EXIT_STOPPED, report_user_errors

_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: checkpoints, curves, config.json. A run that was stopped goes on from '
    'where its workdir stands. Default: runs/ and the names of the config and of what is ablated.',
)
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Print the resolved settings and a table of the net, and stop.'
)
_ABLATE = flags.DEFINE_list(
    'ablate',
    [],
    'Parts of the recipe to do without, each a claim of the paper: '
    f'{", ".join(ABLATIONS)}. They come after all other settings.',
)
_SKIP_BAD = flags.DEFINE_integer(
    'skip_bad',
    None,
    'Training images that may be replaced by their neighbours because they cannot be read; they '
    'are named at the end. Short for --config.loader.skip_bad; none is left out of evaluation.',
    0,
)


def main(config: schema.Config, workdir: Path, dry_run: bool) -> int:
    """Runs; gives the exit code."""
    from alexnet_jax.data import sources
    from alexnet_jax.model import towers
    from alexnet_jax.reporting import terminal
    from alexnet_jax.runtime import compilation_cache
    from alexnet_jax.training import loop as train
    from alexnet_jax.training.workdir import Workdir

    layer_table(config)  # refuses sizes that do not fit, before anything is written
    compilation_cache.enable()
    cpu_devices.prepare_cpu_devices(config.mesh.tower, config.mesh.data)
    mesh = towers.choose_mesh(config)
    print(towers.describe_mesh(mesh, config.model.towers), flush=True)
    if dry_run:
        print(f'\n{terminal.resolved(config)}\n\n{terminal.net_table(config, mesh)}')
        return 0
    splits = sources.open_splits(config.dataset, config.loader.skip_bad)
    plan = durations(config, len(splits.train))
    with StopSignal() as stop, Workdir(workdir).claim(config, mesh) as folder:
        loop = train.Loop(config, mesh, splits, plan, folder, stop)
        if loop.step:
            print(f'resuming in {workdir} after step {loop.step} of {plan.steps}', flush=True)
        if not loop.run():
            print(
                f'stopped by {stop.signal} after step {loop.step} of {plan.steps} and saved: '
                'the same command resumes it'
            )
            return EXIT_STOPPED
        print(f'\n{terminal.summary(config, loop.results, loop.images_per_second, workdir)}')
        if loop.bad.names:
            print(f'left out     {len(loop.bad.names)} bad: {", ".join(loop.bad.names)}')
        return 0


def _run(_: Sequence[str]) -> None:
    with report_user_errors():
        raw = command_line.raw()
        if _SKIP_BAD.value is not None:
            raw['loader']['skip_bad'] = _SKIP_BAD.value
        raw = ablate(raw, _ABLATE.value)
        name = '-'.join([command_line.file().stem, *_ABLATE.value])
        workdir = Path(_WORKDIR.value or f'runs/{name}').expanduser()
        config = resolve(raw)
        sys.exit(main(config, workdir, _DRY_RUN.value))


if __name__ == '__main__':
    app.run(_run, flags_parser=command_line.parse)
