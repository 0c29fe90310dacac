"""The flag --config of programs that train: a file of configs/, and overrides of its settings."""

import difflib
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax.config import schema
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

ROOT = Path(__file__).parents[2]

_DEFAULT = 'configs/digits.py'
_CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,  # a default here would be read twice; parse adds it
    'A file of configs/, a run setting by setting. Any of them can be overridden by its name: '
    '--config.optimizer.batch_size=64 (--dry_run of alexnet_jax.main lists them). Default: '
    f'{_DEFAULT}.',
    lock_config=True,
)


def parse(arguments: list[str]) -> list[str]:
    """Reads all flags, after checks whose errors are clearer than the flag library's."""
    with report_user_errors():
        given = [argument for argument in arguments[1:] if argument.startswith('--config=')]
        path = _found((given or [f'--config={_DEFAULT}'])[-1].partition('=')[2])
        rest = [argument for argument in arguments[1:] if argument not in given]
        # The library wants the file before its settings, and looks for them in sys.argv.
        arguments = sys.argv[:] = [arguments[0], f'--config={path}', *rest]
        known = schema.flatten(_load(path).to_dict())
        for argument in arguments:
            _check_name(argument, known)
    return parse_flags(arguments)


def file() -> Path:
    """The config file that was given."""
    return Path(flags.FLAGS['config'].config_filename)  # pyrefly: ignore[missing-attribute]


def raw() -> dict[str, Any]:
    """Its settings with their overrides, not yet checked."""
    return _CONFIG.value.to_dict()


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
