"""The folders of checkpoints: synced, or renamed so that they no longer count as checkpoints."""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.processes.errors import LostProcess, is_collective_failure, name_processes
from alexnet_jax.processes.group import Group, current
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import UserError, causes, first_line
from alexnet_jax.training.checkpoint import reading
from alexnet_jax.training.run_files import shared_storage

INTACT = '; the checkpoints before it are intact'
_LONGEST_REASON = 120  # characters of a library's error that are shown


@contextlib.contextmanager
def explain_errors(action: str, folder: Path, consequence: str = '') -> Iterator[None]:
    """Raises whatever Orbax or the system raises as a UserError.

    Args:
      action: what the block does with the checkpoints, such as 'write to'.
      folder: the folder of all checkpoints.
      consequence: what follows, for the end of the message.

    Raises:
      UserError: an error here.
      LostProcess: an error of another process, for which this one has waited.
    """
    try:
        yield
    except (UserError, LostProcess):
        raise
    except Exception as error:
        reason = reading.trouble_of_system(error, ignored=())
        if not reason and current().count > 1 and is_collective_failure(error):
            raise LostProcess(
                f'cannot {action} the checkpoints in {folder}: {_describe(error)}{consequence}'
            ) from error
        reason = reason or first_line(error)[:_LONGEST_REASON]
        raise UserError(
            f'cannot {action} the checkpoints in {folder}: {reason}{consequence}'
        ) from error


def _describe(error: BaseException) -> str:
    """Names the processes that did not come to a barrier; JAX lists each in a line of its own."""
    for cause in causes(error):
        names = str(cause).partition('timed out task names:')[2].strip().partition('\n\n')[0]
        if numbers := re.findall(r'(\d+)\W*$', names, re.MULTILINE):
            return f'{name_processes([*map(int, numbers)])} did not finish within the time limit'
    return first_line(error)[:_LONGEST_REASON]


def check_shared(folder: Path, group: Group) -> None:
    """Checks that all processes of a group see what process 0 writes to a folder.

    Args:
      folder: the folder of all checkpoints; process 0 sees it.
      group: the processes.

    Raises:
      UserError: one of them does not; the text names it.
    """
    if group.count == 1:
        return
    file = folder / f'.{uuid.uuid4().hex}'
    if group.is_first:
        with explain_errors('write to', folder):
            file.touch()
    try:
        file = folder / group.broadcast('opens the checkpoints', lambda: file.name)
        is_visible = group.gather(
            'the folder of the checkpoints', shared_storage.wait_until(file.exists)
        )
    finally:
        if group.is_first:
            file.unlink(missing_ok=True)
    if blind := [process for process, sees in enumerate(is_visible) if not sees]:
        raise UserError(
            f'{name_processes(blind)} did not see what process 0 wrote to {folder}: '
            f'{shared_storage.REMEDY}'
        )


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
