"""Locks on files: one process at a time. The system releases them when the process ends."""

import fcntl
import os
import platform
from pathlib import Path
from typing import IO

from alexnet_jax.runtime.user_errors import UserError


def acquire(file: Path, alternative: str) -> IO[str]:
    """Locks a file without waiting, and creates the file and its folder where they are missing.

    Args:
      file: the file to lock; the name of this process is written to it.
      alternative: what the user can do other than wait, in the imperative, for the message.

    Returns:
      The open file; closing it releases the lock.

    Raises:
      UserError: another process holds the lock, the file cannot be written, or its file system has
        no locks.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open('a+')
    except OSError as error:
        raise UserError(
            f'cannot write to {file.parent}: {error.strerror}; {alternative}'
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or 'another process'
        lock.close()
        raise UserError(f'{owner} is using {file.parent}: wait for it, or {alternative}') from error
    except OSError as error:
        lock.close()
        raise UserError(
            f'{file.parent} is on a file system without locks ({error.strerror}): {alternative}'
        ) from error
    lock.truncate(0)
    lock.write(f'process {os.getpid()} on {platform.node()}')
    lock.flush()
    return lock
