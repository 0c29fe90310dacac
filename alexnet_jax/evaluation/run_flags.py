"""Flags of programs that use the trained nets of one or more runs."""

from pathlib import Path

from absl import flags

from alexnet_jax.runtime.paths import check_path, split_folders
from alexnet_jax.runtime.user_errors import UserError

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
    folders = [check_path(name, '--workdir') for name in split_folders(_WORKDIR.value)]
    if not folders:
        raise UserError('no run is named: --workdir=DIR (see --help)')
    return folders


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
