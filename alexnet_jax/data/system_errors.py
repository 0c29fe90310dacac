"""Errors of the system while data are read, as opposed to damaged data (§2).

Too many open files, a failing disk or a lack of memory say nothing about the data: no image is
replaced because of them, and no data set has to be prepared again.
"""

import errno
import os
import re
import resource
import shutil
import signal

from alexnet_jax.runtime.user_errors import UserError, first_line

OPEN_FILES = 4096  # enough for every data set; below the limit of every system

# ArrayRecord reports a failed system call by its name and the system's text alone.
_SYSTEM_CALL = re.compile(r'\b[a-z_0-9]+\(\) failed: ([^;]+)')
_CODES = {os.strerror(code): code for code in errno.errorcode}

_FAILING_DISK = (
    'the disk or its network connection fails, and the data may be intact; the same command '
    'resumes when it works again'
)
_ADVICE = {
    errno.ENFILE: 'all programs together have too many open files; end some of them',
    errno.ENOENT: 'bring the file back, or prepare the data set again',
    errno.EACCES: 'ask the owner of the file for permission to read it',
    errno.EPERM: 'ask the owner of the file for permission to read it',
    errno.ESTALE: 'the file was replaced, or its network share mounted again; the same command '
    'resumes',
    errno.ENOMEM: 'use fewer processes and threads (--config.loader.workers and '
    '--config.loader.threads, or --workers of alexnet_jax.prepare), or end other programs',
    errno.EAGAIN: 'the system starts no more processes and threads; use fewer '
    '(--config.loader.workers and --config.loader.threads), or raise the limit (ulimit -u)',
    errno.ENOSPC: 'free some space',
}


class SystemTrouble(UserError):
    """An error of the system while data are read; it says nothing about the data."""


def error_code(error: BaseException) -> int | None:
    """Returns the system's code for an error, such as errno.EMFILE.

    Returns:
      The code; 0 for an error of the system without a known code; None for other errors, such as
      those of damaged data.
    """
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return errno.EAGAIN
    call = _SYSTEM_CALL.search(str(error))
    return None if call is None else _CODES.get(call.group(1).strip(), 0)


def user_error(subject: str, error: BaseException) -> SystemTrouble:
    """Returns a UserError for an error of the system: what failed, why, and what to do.

    Args:
      subject: what was done, such as 'cannot read FILE'.
      error: an error for which `error_code` returns a code.
    """
    code = error_code(error) or 0
    advice = _ADVICE.get(code, _FAILING_DISK)
    if code == errno.EMFILE:
        advice = _advice_on_open_files()
    return SystemTrouble(
        f'{subject} ({os.strerror(code) if code else first_line(error)}): {advice}'
    )


def _advice_on_open_files() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if most > soft:
        return f'run `ulimit -n {most}` in this shell, then the same command again'
    return f'this process may open {soft} files; ask your administrator for a higher limit'


def batch_error(error: BaseException) -> UserError | None:
    """Returns a UserError for an error of the system while batches are read; None for others.

    Args:
      error: an error from Grain, which may be the end of one of its worker processes.
    """
    ended = re.search(r'process was terminated unexpectedly with exit code (-?\d+)', str(error))
    if ended is not None:
        return _worker_error(int(ended.group(1)))
    code = error_code(error)
    if code is None:
        return None
    # Reading writes nothing but shared memory, where Python's names begin with psm.
    if code == errno.ENOSPC or str(getattr(error, 'filename', '')).startswith('/psm_'):
        return _shared_memory_error(os.strerror(code))
    return user_error('cannot read batches', error)


def _worker_error(exit_code: int) -> UserError:
    if exit_code == -signal.SIGBUS:
        return _shared_memory_error('it is full')
    if exit_code == -signal.SIGKILL:
        return UserError(
            'a process that reads images was killed, probably because the machine is out of '
            'memory: use fewer of them (--config.loader.workers), then the same command resumes'
        )
    how = f'was ended by signal {-exit_code}' if exit_code < 0 else f'has exit code {exit_code}'
    return UserError(
        f'a process that reads images {how}: the same command resumes; '
        '--config.loader.workers=0 reads without such processes'
    )


def _shared_memory_error(reason: str) -> UserError:
    return UserError(
        f'processes cannot hand over batches through {_describe_shared_memory()} ({reason}): make '
        'it larger (docker run --shm-size=4g; mount -o remount,size=4G /dev/shm), or use fewer '
        'processes: --config.loader.workers, 0 for none'
    )


def _describe_shared_memory() -> str:
    try:
        size = shutil.disk_usage('/dev/shm')
    except OSError:
        return 'shared memory'
    return f'/dev/shm, {size.total / 1e6:,.0f} MB with {size.free / 1e6:,.0f} MB free now'


def allow_open_files(number: int) -> int:
    """Raises the limit of open files of this process if it is lower and the system permits.

    Processes that are started later inherit the limit.

    Args:
      number: the files that should be allowed.

    Returns:
      The number that is allowed now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return number
    target = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if target > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError):  # some systems have a lower limit of their own
            return soft
        return target
    return soft
