"""Locks on files: one process at a time. The system releases them when the process ends."""

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import IO

from alexnet_jax.runtime import signals
from alexnet_jax.runtime.user_errors import UserError

POLL_SECONDS = 0.2  # from one attempt to lock a file to the next


def acquire(file: Path, alternative: str, wait: bool = False) -> IO[str]:
    """Locks a file, and creates the file and its folder where they are missing.

    Args:
      file: the file to lock; the name of this process is written to it.
      alternative: what the user can do other than wait, in the imperative, for the message.
      wait: whether to wait for the process that holds the lock; one line says for which.

    Returns:
      The open file; closing it releases the lock.

    Raises:
      Stopped: a signal asked this process to stop while it waited.
      UserError: another process holds the lock and `wait` is false, the file cannot be written, or
        its file system has no locks.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open('a+')
    except OSError as error:
        raise UserError(
            f'cannot write to {file.parent}: {error.strerror}; {alternative}'
        ) from error
    try:
        _lock(lock, file, wait)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read().strip() or 'another process'
        lock.close()
        raise UserError(f'{owner} is using {file.parent}: wait for it, or {alternative}') from error
    except signals.Stopped:
        lock.close()
        raise
    except OSError as error:
        lock.close()
        raise UserError(
            f'{file.parent} is on a file system without locks ({error.strerror}): {alternative}'
        ) from error
    lock.truncate(0)
    lock.write(f'process {os.getpid()} on {platform.node()}')
    lock.flush()
    return lock


def _lock(lock: IO[str], file: Path, wait: bool) -> None:
    """Locks an open file; raises BlockingIOError where `wait` is false and it is locked."""
    announced = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not wait:
                raise
        if not announced:
            lock.seek(0)
            owner = lock.read().strip() or 'another process'
            print(f'waiting for {owner}, which is using {file.parent}', flush=True)
            announced = True
        signals.raise_if_stopped()
        time.sleep(POLL_SECONDS)
