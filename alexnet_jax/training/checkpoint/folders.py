"""The folders of checkpoints: synced, or renamed so that they no longer count as checkpoints."""

import os
from pathlib import Path

from alexnet_jax.runtime import atomic_files


def set_aside(step_folder: Path, suffix: str) -> Path:
    """Gives the folder of a checkpoint, which has the name of its step, another name.

    Args:
      step_folder: the folder.
      suffix: what is added to its name, such as '.damaged'; '.damaged2' where that is taken.

    Returns:
      The new path.
    """
    path = step_folder.with_name(step_folder.name + suffix)
    return step_folder.rename(atomic_files.unused_path(path))


def find_renamed(folder: Path, suffix: str) -> list[Path]:
    """Returns the folders to which `set_aside` has given this suffix."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.rstrip('0123456789') == suffix and path.stem.isdecimal()
    ]


def sync(step_folder: Path) -> None:
    """Waits until a checkpoint would survive a power cut.

    Orbax has synced the files that hold arrays, so that this takes a few milliseconds.
    """
    for parent, _, names in os.walk(step_folder):
        for name in names:
            atomic_files.sync(Path(parent, name))
        atomic_files.sync_folder(Path(parent))
    atomic_files.sync_folder(step_folder.parent)
