"""Refuses to write more than fits on a disk (§2)."""

import shutil
from pathlib import Path

from alexnet_jax.runtime.user_errors import UserError

SPARE = 1 << 30  # bytes of disk to leave free


def check_space(folder: Path, need: float, advice: str) -> None:
    """Checks that a disk has room for what is about to be written, and SPARE bytes more.

    Args:
      folder: a folder on the disk.
      need: the number of bytes that will be written.
      advice: what to do beside freeing some space, such as 'choose another data_dir'.

    Raises:
      UserError: the disk has less free space.
    """
    free = shutil.disk_usage(folder).free
    if need + SPARE > free:
        raise UserError(
            f'{folder} has {format_size(free)} free and about {format_size(need + SPARE)} are '
            f'needed: free some space, or {advice}'
        )


def format_size(size: float) -> str:
    """Returns a number of bytes in GB, or in MB or kB if there are few."""
    unit = next((unit for unit in (1e9, 1e6) if size >= unit), 1e3)
    name = {1e9: 'GB', 1e6: 'MB', 1e3: 'kB'}[unit]
    return f'{size / unit:,.1f} {name}'
