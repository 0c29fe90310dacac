import errno
import os
import resource
import signal

import pytest

from alexnet_jax.data import system_errors


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        (OSError(errno.EIO, 'Input/output error'), errno.EIO),
        (MemoryError(), errno.ENOMEM),
        (RuntimeError("can't start new thread"), errno.EAGAIN),
        (RuntimeError('open() failed: Too many open files; opening /data/x'), errno.EMFILE),
        (RuntimeError('pread() failed: Stale file handle; at byte 7'), errno.ESTALE),
        (RuntimeError('pread() failed: something new; at byte 7'), 0),
        (RuntimeError('Corrupted Riegeli/records file: chunk data hash mismatch'), None),
        (OSError('image file is truncated'), None),
        (ValueError('a field reaches beyond its message'), None),
    ],
)
def test_trouble_of_the_system_is_told_from_damage(error, code):
    assert system_errors.error_code(error) == code


@pytest.mark.parametrize(
    ('error', 'advice'),
    [
        (MemoryError(), '--config.loader.workers'),
        (OSError(errno.EIO, ''), 'the data may be intact'),
        (OSError(errno.ESTALE, ''), 'the same command resumes'),
        (OSError(errno.EACCES, ''), 'ask the owner'),
        (RuntimeError('pread() failed: something new'), 'something new'),
    ],
)
def test_the_line_says_what_to_do(error, advice):
    line = str(system_errors.user_error('cannot read /data/x', error))
    assert line.startswith('cannot read /data/x (')
    assert advice in line
    assert '\n' not in line
    assert 'prepare the data set again' not in line


@pytest.mark.parametrize(
    ('limits', 'advice'),
    [
        ((256, 1_048_576), '`ulimit -n 4096`'),
        ((256, resource.RLIM_INFINITY), '`ulimit -n 4096`'),
        ((256, 512), '`ulimit -n 512`'),
        ((256, 256), 'may open 256 files; ask your administrator'),
    ],
)
def test_a_limit_of_open_files_is_advised_only_if_it_can_be_set(monkeypatch, limits, advice):
    monkeypatch.setattr(resource, 'getrlimit', lambda _: limits)
    assert advice in str(system_errors.user_error('x', OSError(errno.EMFILE, '')))


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_permits():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(map(int, os.listdir('/dev/fd'))) + 10
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, limits[1]))
        assert system_errors.allow_open_files(top - 5) == top
        assert system_errors.allow_open_files(top + 5) == top + 5
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == top + 5
        assert system_errors.allow_open_files(limits[1] + 5) == limits[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_worker_that_ended_is_explained_by_its_exit_code():
    grain = 'Worker process was terminated unexpectedly with exit code {}. Search the logs above'
    for code, text in (
        (-signal.SIGBUS, '/dev/shm'),
        (-signal.SIGKILL, 'out of memory'),
        (-signal.SIGTERM, 'signal 15'),
        (1, 'exit code 1'),
    ):
        line = str(system_errors.batch_error(RuntimeError(grain.format(int(code)))))
        assert text in line
        assert '--config.loader.workers' in line
    assert system_errors.batch_error(RuntimeError('a mistake in the program')) is None


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, ''),
        OSError(errno.ENOENT, '', '/psm_1a'),
        OSError(errno.EACCES, '', '/psm_1a'),
    ],
)
def test_shared_memory_that_cannot_be_used_is_named(error):
    line = str(system_errors.batch_error(error))
    assert os.strerror(error.errno) in line
    assert '--shm-size' in line
    assert '--config.loader.workers' in line
