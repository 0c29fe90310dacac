"""Trains AlexNet, two towers on two devices, with the settings of a config file.

    python -m alexnet_jax.main
        the embedded digits; about a minute on two cores
    python -m alexnet_jax.main --config=ilsvrc2012 --workdir=DIR
        the paper; after a stop, the same command resumes the run
    python -m alexnet_jax.main --config=PATH --config.optimizer.batch_size=256
        a config file of one's own, with another value of a setting
    python -m alexnet_jax.main --settings
        all settings: values, types, ranges, meanings; --settings=model.conv1 for a section
    python -m alexnet_jax.main --config=ilsvrc2012 --ablate=lrn,overlapping_pooling
        without some parts of the recipe; alexnet_jax.ablations tries all of them
    python -m alexnet_jax.main --config=ilsvrc2012 --dry_run
        the settings and a table of the net, without data

Exit codes: 0 success, 2 a mistake in the command or the data (one line says which), 75 stopped by
SIGTERM or Ctrl-C and saved, 130 interrupted before there was anything to save.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.config import command_line, loading, schema
from alexnet_jax.config.ablations import ABLATIONS, ablate
from alexnet_jax.config.durations import durations
from alexnet_jax.config.validation import resolve
from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import EXIT_STOPPED, list_items, report_user_errors

_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: checkpoints, curves, config.json. A run that was stopped is resumed from '
    'its workdir. Default: runs/ and the names of the config and the ablations.',
)
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Print the checked settings and a table of the net, and exit.'
)
_ABLATE = flags.DEFINE_multi_string(
    'ablate',
    [],
    'Parts of the recipe to leave out, each a claim of the paper: '
    f'{", ".join(ABLATIONS)}. They are applied after all overrides.',
)
_SKIP_BAD = flags.DEFINE_integer(
    'skip_bad',
    None,
    'Training images that may be replaced by their neighbours because they cannot be read; their '
    'names are printed at the end. Short for --config.loader.skip_bad. No test image is left out.',
    0,
)
flags.adopt_module_key_flags(command_line)  # --help shows them


def main(config: schema.Config, workdir: Path, dry_run: bool) -> int:
    """Trains, or describes the net; returns the exit code."""
    from alexnet_jax.data import sources
    from alexnet_jax.model import memory, towers
    from alexnet_jax.model.layer_table import layer_table
    from alexnet_jax.reporting import terminal
    from alexnet_jax.runtime import compilation_cache, cpu_devices
    from alexnet_jax.training import loop as train
    from alexnet_jax.training import pretrained
    from alexnet_jax.training.workdir import Workdir

    layer_table(config)  # refuses sizes that do not fit, before anything is written
    compilation_cache.enable()
    cpu_devices.prepare_cpu_devices(config.mesh.tower, config.mesh.data)
    mesh = towers.choose_mesh(config)
    print(towers.describe_mesh(mesh, config.model.towers), flush=True)
    memory.check(config, mesh)
    pretrained.check_workdir(config, workdir)
    if dry_run:
        print(f'\n{terminal.settings_text(config)}\n\n{terminal.net_table(config, mesh)}')
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
        if loop.unreadable.names:
            names = ', '.join(loop.unreadable.names)
            print(f'replaced     {len(loop.unreadable.names)} unreadable images: {names}')
        return 0


def _run(_: Sequence[str]) -> None:
    with report_user_errors():
        raw = command_line.raw()
        if _SKIP_BAD.value is not None:
            loading.override(raw, {'loader.skip_bad': _SKIP_BAD.value})
        ablations = list_items(_ABLATE.value)
        raw = ablate(raw, ablations)
        name = '-'.join([command_line.file().stem, *ablations])
        folder = f'runs/{name}' if _WORKDIR.value is None else _WORKDIR.value
        workdir = check_path(folder, '--workdir')
        config = resolve(raw)
        sys.exit(main(config, workdir, _DRY_RUN.value))


if __name__ == '__main__':
    sys.exit(app.run(_run, flags_parser=command_line.parse))
