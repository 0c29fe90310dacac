"""One process at a time: a lock on a file, which the system lets go when the process ends."""

import fcntl
import os
import platform
from pathlib import Path
from typing import IO

from alexnet_jax.runtime.user_errors import UserError


def take(file: Path, instead: str) -> IO[str]:
    """Locks a file, which is made if it is not there; closing it lets it go.

    Args:
      instead: what the user may do beside waiting, for the error.

    Raises:
      UserError: another process holds it, or the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open('a+')
    except OSError as error:
        raise UserError(f'cannot write to {file.parent}: {error.strerror}; {instead}') from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or 'another process'
        lock.close()
        raise UserError(f'{owner} is using {file.parent}: wait for it, or {instead}') from error
    except OSError as error:
        lock.close()
        raise UserError(
            f'{file.parent} is on a file system without locks ({error.strerror}): {instead}'
        ) from error
    lock.truncate(0)
    lock.write(f'process {os.getpid()} on {platform.node()}')
    lock.flush()
    return lock
