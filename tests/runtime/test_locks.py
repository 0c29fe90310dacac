import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import nets
from alexnet_jax.runtime import locks
from alexnet_jax.runtime.signals import Stopped, StopSignal
from alexnet_jax.runtime.user_errors import UserError


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    file = tmp_path / 'folder' / 'lock'
    with locks.acquire(file, 'choose another'):
        assert file.read_text().startswith(f'process {os.getpid()} on ')
        with pytest.raises(UserError, match=rf'process {os.getpid()} on .*: wait for it, or'):
            locks.acquire(file, 'choose another')
    locks.acquire(file, 'choose another').close()


def test_a_killed_process_releases_its_lock(tmp_path):
    source = (
        'import pathlib, sys, time; from alexnet_jax.runtime import locks\n'
        'lock = locks.acquire(pathlib.Path(sys.argv[1]), ""); print("locked", flush=True)\n'
        'time.sleep(60)'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', source, tmp_path / 'lock'], cwd=nets.ROOT, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b'locked\n'
        with pytest.raises(UserError, match=f'process {process.pid} on'):
            locks.acquire(tmp_path / 'lock', 'stop it')
        process.kill()
    locks.acquire(tmp_path / 'lock', '').close()


def test_a_process_can_wait_for_a_lock_and_says_for_whom(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(locks, 'SECONDS_BETWEEN_TRIES', 0.01)
    held = locks.acquire(tmp_path / 'lock', '')
    threading.Timer(0.2, held.close).start()
    locks.acquire(tmp_path / 'lock', '', wait=True).close()
    out = capsys.readouterr().out
    assert out.startswith(f'waiting for process {os.getpid()} on ')
    assert out.count('\n') == 1  # and again after a minute
    monkeypatch.setattr(locks, 'SECONDS_BETWEEN_LINES', 0.05)
    held = locks.acquire(tmp_path / 'lock', '')
    threading.Timer(0.2, held.close).start()
    locks.acquire(tmp_path / 'lock', '', wait=True).close()
    assert capsys.readouterr().out.count('\n') > 1


def test_a_signal_ends_the_wait(tmp_path):
    with locks.acquire(tmp_path / 'lock', ''), StopSignal():
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        start = time.monotonic()
        with pytest.raises(Stopped, match='SIGTERM'):
            locks.acquire(tmp_path / 'lock', '', wait=True)
        assert time.monotonic() - start < 30


@pytest.mark.parametrize('wait', [False, True])
def test_a_link_in_place_of_the_lock_changes_no_file_elsewhere(tmp_path, wait):
    (tmp_path / 'precious').write_text('do not lose')
    (tmp_path / 'lock').symlink_to(tmp_path / 'precious')
    with pytest.raises(locks.CannotLockError, match='lock is a symbolic link'):
        locks.acquire(tmp_path / 'lock', 'remove it', wait)
    assert (tmp_path / 'precious').read_text() == 'do not lose'


def test_a_file_that_was_replaced_meanwhile_is_locked_anew(tmp_path, monkeypatch):
    """Between opening the file and locking it, another process may remove its folder."""
    flock, times = fcntl.flock, []

    def replace_once(file, how):
        if not times:
            times.append(1)
            (tmp_path / 'lock').unlink()
        flock(file, how)

    monkeypatch.setattr(locks.fcntl, 'flock', replace_once)
    with locks.acquire(tmp_path / 'lock', ''), pytest.raises(UserError, match='is using'):
        locks.acquire(tmp_path / 'lock', '')


@pytest.mark.parametrize('code', [errno.EACCES, errno.EROFS])
def test_what_cannot_be_written_is_told_apart_from_what_is_in_use(tmp_path, monkeypatch, code):
    open_file = os.open

    def refuse(path, flags, *mode):
        if flags & os.O_RDWR:
            raise OSError(code, os.strerror(code), path)
        return open_file(path, flags, *mode)

    monkeypatch.setattr(locks.os, 'open', refuse)
    file = tmp_path / 'lock'
    for wait in (False, True):
        with pytest.raises(
            locks.CannotLockError, match=f'cannot write to .*: {os.strerror(code)}; choose another'
        ):
            locks.acquire(file, 'choose another', wait)
    file.write_text('process 7 on a')  # of another user, who prepares here
    with locks.acquire(file, '', wait=True), file.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert file.read_text() == 'process 7 on a'


def test_a_file_system_without_locks_is_told_apart_from_what_is_in_use(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(locks.fcntl, 'flock', refuse)
    with pytest.raises(locks.CannotLockError, match=r'without locks \(No locks available\)'):
        locks.acquire(tmp_path / 'lock', 'choose another')


def test_a_full_disk_does_not_prevent_a_lock(tmp_path, monkeypatch):
    """Only the name of the process is missing then."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(locks.os, 'pwrite', refuse)
    with (
        locks.acquire(tmp_path / 'lock', ''),
        pytest.raises(UserError, match='another process is using'),
    ):
        locks.acquire(tmp_path / 'lock', '')
