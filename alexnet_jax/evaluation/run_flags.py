"""Flags of programs that use the trained nets of one or more runs."""

import os
from pathlib import Path

from absl import flags

from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.user_errors import UserError, list_items

_WORKDIR = flags.DEFINE_multi_string(
    'workdir', [], 'Folders of one or more runs, separated by commas.'
)
_CHECKPOINT = flags.DEFINE_string(
    'checkpoint',
    'newest',
    'Checkpoint of each run: newest; best, the one with the lowest test error; or the number of '
    'training steps done in it.',
)


def workdirs() -> list[Path]:
    """Returns the folders of the runs, of which there is at least one.

    Raises:
      UserError: none is named, or a path cannot be that of a folder.
    """
    names = [name for value in _WORKDIR.value for name in _split(value)]
    folders = [check_path(name, '--workdir') for name in names]
    if not folders:
        raise UserError('no run is named: --workdir=DIR (see --help)')
    return folders


def _split(value: str) -> list[str]:
    """Splits a value at its commas, unless it is the name of one folder."""
    return [value] if os.path.isdir(os.path.expanduser(value)) else list_items([value])


def checkpoint() -> str | int:
    """Returns 'newest', 'best' or the number of training steps of a checkpoint.

    Raises:
      UserError: the flag has another value.
    """
    value = _CHECKPOINT.value
    if value in ('newest', 'best'):
        return value
    if value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    raise UserError(f'--checkpoint={value} must be newest, best or a number of training steps')
