"""Locks on files: one process at a time. The system releases them when the process ends."""

import contextlib
import errno
import fcntl
import os
import platform
import time
from pathlib import Path
from typing import IO

from alexnet_jax.runtime.printing import printable, show
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

SECONDS_BETWEEN_TRIES = 0.2
SECONDS_BETWEEN_LINES = 60.0


class CannotLockError(UserError):
    """No process can lock this file: it cannot be written, or its file system has no locks.

    A process that only reads complete files beside it, as on a read-only disk, needs no lock.
    """


def acquire(file: Path, alternative: str, wait: bool = False) -> IO[str]:
    """Locks a file, and creates it and its folder where they are missing.

    A symbolic link is not followed, so that no file elsewhere is changed.

    Args:
      file: the file to lock; the name of this process is written to it.
      alternative: what the user can do other than wait, in the imperative, for the message.
      wait: whether to wait for another process that holds the lock, and to print a line that names
        it, at once and every minute. A process that waits for a lock of its own waits for ever. A
        file of another user that can only be read is locked, too, but not written to.

    Returns:
      The open file; closing it releases the lock.

    Raises:
      CannotLockError: the file cannot be written, or its file system has no locks.
      Stopped: a signal arrived while waiting, inside the block of a StopSignal.
      UserError: another process holds the lock, and `wait` is False.
    """
    next_line = 0.0
    while True:
        lock = _open(file, alternative, read_only=wait)
        try:
            if _try_to_lock(lock, file, alternative):
                if _is_still_at(lock, file):
                    _write_owner(lock)
                    return lock
                lock.close()
                continue
            owner = _read_owner(lock)
            if not wait:
                raise UserError(f'{owner} is using {file.parent}: wait for it, or {alternative}')
            raise_if_stopped()
            if time.monotonic() >= next_line:
                show(
                    f'waiting for {printable(owner)}, which is using {printable(str(file.parent))}'
                )
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            time.sleep(SECONDS_BETWEEN_TRIES)
        except BaseException:
            lock.close()
            raise
        lock.close()


def _open(file: Path, alternative: str, read_only: bool) -> IO[str]:
    """Opens a file for a lock.

    Args:
      file: the file, which is created.
      alternative: see `acquire`.
      read_only: whether a file that cannot be written is opened for reading.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if not (read_only and error.errno in _NOT_WRITABLE and file.exists()):
                raise
            number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno == errno.ELOOP:
            reason = f'{file.name} is a symbolic link'
        raise CannotLockError(f'cannot write to {file.parent}: {reason}; {alternative}') from error
    return os.fdopen(number, 'r', errors='replace')


def _try_to_lock(lock: IO[str], file: Path, alternative: str) -> bool:
    """Locks an open file without waiting; returns False if another process holds the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise CannotLockError(
            f'{file.parent} is on a file system without locks ({error.strerror}): {alternative}'
        ) from error
    return True


def _is_still_at(lock: IO[str], file: Path) -> bool:
    """Returns whether a locked file is still at its path: its folder may have been replaced."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(file, follow_symlinks=False))
    except OSError:
        return False


def _read_owner(lock: IO[str]) -> str:
    text = ''
    with contextlib.suppress(OSError):
        text = os.pread(lock.fileno(), 200, 0).decode(errors='replace').strip()
    return text or 'another process'


def _write_owner(lock: IO[str]) -> None:
    """Writes the name of this process to the file, which is for messages only."""
    with contextlib.suppress(OSError):
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), f'process {os.getpid()} on {platform.node()}'.encode(), 0)
