"""Trains AlexNet, two towers on two devices, as a config file says.

    python -m alexnet_jax.main
        the embedded digits; about a minute on two cores
    python -m alexnet_jax.main --config=configs/ilsvrc2012.py --workdir=DIR
        the paper; the same command goes on after a stop
    python -m alexnet_jax.main --config=configs/ilsvrc2012.py --dry_run
        its settings and a table of the net, without data

Exit codes: 0 trained, 2 a mistake in the command or the data (one line says what), 75 told to stop
(SIGTERM, Ctrl-C) and saved, 130 interrupted before there was anything to save.
"""

import difflib
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import config as settings
from alexnet_jax.errors import UserError, one_line, parse_flags
from alexnet_jax.resolve import resolve

ROOT = Path(__file__).parent.parent

_DEFAULT = 'configs/digits.py'
_CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,  # a default here would be read twice; _parse adds it
    'A file of configs/, a run setting by setting. Any of them can be overridden by its name: '
    f'--config.optimizer.batch_size=64 (--dry_run lists them). Default: {_DEFAULT}.',
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: checkpoints, curves, config.json. A run that was stopped goes on from '
    'where its workdir stands. Default: runs/ and the name of the config.',
)
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Print the resolved settings and a table of the net, and stop.'
)
_SKIP_BAD = flags.DEFINE_integer(
    'skip_bad',
    None,
    'Training images that may be replaced by their neighbours because they cannot be read; they '
    'are named at the end. Short for --config.loader.skip_bad; none is left out of evaluation.',
    0,
)


def main(config: settings.Config, workdir: Path, dry_run: bool) -> int:
    """Runs; gives the exit code."""
    from alexnet_jax import compiled, datasets, model, tables, towers, train
    from alexnet_jax.workdir import Workdir

    model.layer_table(config)  # refuses sizes that do not fit, before anything is written
    compiled.keep()
    towers.prepare_cpu_devices(config.mesh)
    mesh = towers.choose_mesh(config)
    print(towers.describe_mesh(mesh, config.model.towers), flush=True)
    if dry_run:
        print(f'\n{tables.resolved(config)}\n\n{tables.net_table(config, mesh)}')
        return 0
    splits = datasets.open_splits(config.dataset, config.loader.skip_bad)
    plan = settings.durations(config, len(splits.train))
    with train.Stop() as stop, Workdir(workdir, config, mesh) as folder:
        loop = train.Loop(config, mesh, splits, plan, folder, stop)
        if loop.step:
            print(f'going on in {workdir} after step {loop.step} of {plan.steps}', flush=True)
        if not loop.run():
            print(
                f'stopped by {stop.signal} after step {loop.step} of {plan.steps} and saved: '
                'the same command goes on from there'
            )
            return train.STOPPED
        print(f'\n{tables.summary(config, loop.results, loop.images_per_second, workdir)}')
        if loop.bad.names:
            print(f'left out     {len(loop.bad.names)} bad: {", ".join(loop.bad.names)}')
        return 0


def _parse(arguments: list[str]) -> list[str]:
    """Reads the flags, after checks whose errors are clearer than the flag library's."""
    with one_line():
        given = [argument for argument in arguments[1:] if argument.startswith('--config=')]
        path = _found((given or [f'--config={_DEFAULT}'])[-1].partition('=')[2])
        rest = [argument for argument in arguments[1:] if argument not in given]
        # The library wants the file before its settings, and looks for them in sys.argv.
        arguments = sys.argv[:] = [arguments[0], f'--config={path}', *rest]
        known = settings.flatten(_load(path).to_dict())
        for argument in arguments:
            _check_name(argument, known)
    return parse_flags(arguments)


def _found(name: str) -> str:
    """The path of a config file: as given, or from the folder of this project."""
    for path in (Path(name), ROOT / name):
        if path.is_file():
            return str(path)
    ours = ', '.join(sorted(f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')))
    raise UserError(f'there is no config file {name!r}; there are {ours}')


def _load(path: str) -> ConfigDict:
    """What the config file gives."""
    try:
        raw = runpy.run_path(path)['get_config']()
    except Exception as error:  # whatever the user's file may raise
        raise UserError(f'{path} cannot be loaded: {type(error).__name__}: {error}') from error
    if not isinstance(raw, ConfigDict):
        raise UserError(f'get_config() in {path} must return an ml_collections.ConfigDict')
    return raw


def _check_name(argument: str, known: Mapping[str, Any]) -> None:
    if argument == '--config':
        raise UserError('write --config=PATH, with an equals sign')
    if not argument.startswith('--config.'):
        return
    name = argument.removeprefix('--config.').partition('=')[0]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise UserError(f'unknown setting {name}: did you mean {near[0]}? (--dry_run lists all)')


def _run(_: Sequence[str]) -> None:
    name = Path(flags.FLAGS['config'].config_filename).stem  # pyrefly: ignore[missing-attribute]
    with one_line():
        raw = _CONFIG.value.to_dict()
        if _SKIP_BAD.value is not None:
            raw['loader']['skip_bad'] = _SKIP_BAD.value
        config = resolve(raw)
        workdir = Path(_WORKDIR.value or f'runs/{name}').expanduser()
        sys.exit(main(config, workdir, _DRY_RUN.value))


if __name__ == '__main__':
    app.run(_run, flags_parser=_parse)
