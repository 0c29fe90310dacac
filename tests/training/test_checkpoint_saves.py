"""What is called saved can be read back, and the newest and the best checkpoints are kept."""

import contextlib
import errno
import logging
import math
import os
import resource
import signal
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.runtime import atomic_files, paths
from alexnet_jax.runtime.paths import refuse_pattern
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import checkpoint
from alexnet_jax.training.checkpoint import Checkpoints, Position
from small_states import (
    SHAPES,
    as_before_digests,
    assert_is,
    assert_no_thread_is_left,
    contents,
    data_files,
    restore,
    save,
    state_at,
)


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def spoil(step_folder):
    file = data_files(step_folder)[0]
    file.write_bytes(bytes(file.stat().st_size))


def save_and_spoil(checkpoints, folder, step):
    checkpoints.save(state_at(step), Position(step=step))
    checkpoints._manager.wait_until_finished()
    spoil(folder / str(step))


def test_what_cannot_be_read_back_is_not_called_saved(tmp_path):
    save(tmp_path, 2)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        save_and_spoil(checkpoints, tmp_path, 4)
        message = rf'^checkpoint 4 in {tmp_path} cannot be read back as it was saved: params\.conv1'
        with pytest.raises(UserError, match=message) as error:
            checkpoints.wait()
        assert len(str(error.value)) < 300
    assert steps(tmp_path) == [2, 4]  # the one before it was not deleted
    assert_is(restore(tmp_path), 2)


def test_the_state_after_one_that_cannot_be_read_back_is_not_lost(tmp_path):
    save(tmp_path, 2)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        save_and_spoil(checkpoints, tmp_path, 4)
        with pytest.raises(UserError, match=r'checkpoint 4 in .* cannot be read back'):
            checkpoints.save(state_at(6), Position(step=6))
    assert_is(restore(tmp_path), 6)


def test_a_position_that_cannot_be_read_back_is_noticed(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_at(2), Position(step=2))
        checkpoints._manager.wait_until_finished()
        (tmp_path / '2' / 'position' / 'metadata').write_text('{}')
        with pytest.raises(UserError, match='cannot be read back as it was saved: its position'):
            checkpoints.wait()


def test_a_folder_that_orbax_takes_for_a_pattern_is_refused(tmp_path):
    for name in ('exp[1]', 'exp*', 'what?', 'a]'):
        with pytest.raises(UserError, match=r'one of the characters.*: choose another --workdir'):
            Checkpoints(tmp_path / name / 'checkpoints', keep=2)
        with pytest.raises(UserError, match=r'choose another dataset\.data_dir'):
            refuse_pattern(tmp_path / name, 'dataset.data_dir')
    assert not list(tmp_path.iterdir())  # before any work


def test_a_library_that_takes_the_path_for_a_pattern_is_noticed(tmp_path, monkeypatch):
    """Every checkpoint of such a run was lost, and the run ended without an error."""
    monkeypatch.setattr(checkpoint.checkpoints, 'refuse_pattern', lambda *_: None)
    message = r'checkpoint 2 in .* cannot be read back as it was saved: '
    with pytest.raises(UserError, match=message):
        save(tmp_path / 'exp[1]', 2)


@pytest.mark.parametrize(
    'name', ['#1', '50%', 'a b', 'a, b', 'Übung', "it's", 'a:b@c&d|e', '実験', 'x' * 200, ' a ']
)
def test_the_folder_may_have_any_other_name(tmp_path, name):
    folder = save(tmp_path / name / 'checkpoints', 2)
    assert_is(restore(folder), 2)
    assert_is(restore(folder, keep=None), 2)


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_is(restore(save(Path('run'), 2)), 2)


def test_the_newest_and_the_best_are_kept(tmp_path):
    errors = {2: 0.5, 4: None, 6: 0.3, 8: 0.4, 10: math.nan, 12: 0.3, 14: None, 16: 0.9}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.best is None
        assert checkpoints.best_error is None
        for step, error in errors.items():
            checkpoints.save(state_at(step), Position(step=step), error)
        checkpoints.wait()
        assert (checkpoints.best, checkpoints.best_error) == (6, 0.3)  # the earlier of equals
    assert steps(tmp_path) == [6, 14, 16]
    for keep in (2, None):
        with Checkpoints(tmp_path, keep) as checkpoints:
            assert (checkpoints.best, checkpoints.best_error) == (6, 0.3)
            assert checkpoints.newest == 16
            assert_is(checkpoints.restore(SHAPES, checkpoints.best), 6)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(state_at(18), Position(step=18), 0.2)
        checkpoints.wait()
        assert (checkpoints.best, checkpoints.best_error) == (18, 0.2)
    assert steps(tmp_path) == [16, 18]


def test_without_an_error_none_is_the_best(tmp_path):
    save(tmp_path, 2, 4, 6, keep=1)
    assert steps(tmp_path) == [6]
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        assert (checkpoints.best, checkpoints.best_error) == (None, None)


def test_the_best_is_one_that_is_not_damaged(tmp_path):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step, error in ((2, 0.3), (4, 0.1)):
            checkpoints.save(state_at(step), Position(step=step), error)
        checkpoints.wait()
    spoil(tmp_path / '4')
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        assert_is(checkpoints.restore(SHAPES), 2)
        assert checkpoints.best == 2


def save_evaluated(folder, evaluated, error):
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state_at(6), Position(step=6, evaluated=evaluated), error)
        checkpoints.wait()


def test_a_newer_position_of_the_same_step_is_not_lost(tmp_path):
    """As when a signal ended the evaluation that belongs to the step."""
    save_evaluated(tmp_path, 3, None)
    arrays = {name: data for name, data in contents(tmp_path).items() if 'state' in name.parts}
    save_evaluated(tmp_path, 6, 0.25)
    restored = restore(tmp_path)
    assert_is(restored, 6)
    assert restored[1].evaluated == 6
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        assert (checkpoints.best, checkpoints.best_error) == (6, 0.25)
    after = contents(tmp_path)
    assert {name: data for name, data in after.items() if 'state' in name.parts} == arrays
    save_evaluated(tmp_path, 6, None)
    assert contents(tmp_path) == after  # the error is not lost, and nothing is written


@pytest.mark.parametrize('writes', [0, 1, 2])
def test_a_kill_while_a_position_is_replaced_leaves_a_whole_checkpoint(
    tmp_path, monkeypatch, writes
):
    save_evaluated(tmp_path, 3, None)
    replace_json, done = atomic_files.replace_json, []

    def killed(path, values):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        replace_json(path, values)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, 'replace_json', killed)
        with pytest.raises(KeyboardInterrupt):
            save_evaluated(tmp_path, 6, None)
    restored = restore(tmp_path)
    assert_is(restored, 6)
    assert restored[1].evaluated == (6 if writes == 2 else 3)
    save_evaluated(tmp_path, 6, None)
    assert restore(tmp_path)[1].evaluated == 6


def test_digests_are_added_to_a_checkpoint_of_an_earlier_version(tmp_path, capfd):
    """As when a run that has ended is started again: it saves the step that it has restored."""
    save_evaluated(tmp_path, 3, None)
    as_before_digests(tmp_path / '6')
    arrays = contents(tmp_path / '6' / 'state')
    save_evaluated(tmp_path, 3, 0.5)
    assert contents(tmp_path / '6' / 'state') == arrays
    assert_is(restore(tmp_path), 6)
    assert capfd.readouterr().err == ''
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        assert checkpoints.best_error == 0.5


@pytest.mark.parametrize('damaged', [True, False])
def test_a_step_with_other_arrays_is_written_again(tmp_path, damaged):
    if damaged:
        save(tmp_path, 2, 6)
        spoil(tmp_path / '6')
    else:
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(state_at(6, seed=99), Position(step=6))
            checkpoints.wait()
    save(tmp_path, 6)
    assert_is(restore(tmp_path), 6)
    assert {path.name for path in tmp_path.iterdir()} <= {'2', '6'}


def test_state_and_position_of_a_checkpoint_agree(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        with pytest.raises(ValueError, match='the state is at step 2, its position at 3'):
            checkpoints.save(state_at(2), Position(step=3))
        with pytest.raises(ValueError, match='position is at step 2, evaluated at 3'):
            checkpoints.save(state_at(2), Position(step=2, evaluated=3))
    with (
        Checkpoints(tmp_path, keep=None) as checkpoints,
        pytest.raises(ValueError, match='is open for reading only'),
    ):
        checkpoints.save(state_at(2), Position(step=2))
    assert not list(tmp_path.iterdir())


def test_an_earlier_step_can_be_saved(tmp_path):
    """As after the restoration of a step that is not the newest."""
    save(tmp_path, 2, 6, keep=1)
    save(tmp_path, 4, keep=1)
    assert steps(tmp_path) == [4, 6]


def save_state(folder, state):
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state, Position(int(state.step)))
        checkpoints.wait()


@contextlib.contextmanager
def largest_file(limit):
    """Lets this process write no file that is larger, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize('limit', [0, 100, 4000])
def test_a_disk_that_takes_no_more_is_one_line(tmp_path, limit, caplog):
    """The line names the folder and the cause; the checkpoints before it are whole."""
    save(tmp_path, 2)
    before, threads = contents(tmp_path / '2'), set(threading.enumerate())
    message = rf'^cannot write to the checkpoints in {tmp_path}: File too large.*; .* are intact$'
    state = state_at(4)
    state.params['fc8']['bias'] = jnp.asarray(np.random.default_rng(0).standard_normal(9999))
    with (
        caplog.at_level(logging.CRITICAL),
        largest_file(limit),
        pytest.raises(UserError, match=message) as error,
    ):
        save_state(tmp_path, state)
    assert len(str(error.value)) < 300
    assert_no_thread_is_left(threads)
    assert_is(restore(tmp_path), 2)
    assert contents(tmp_path / '2') == before


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'^cannot open the checkpoints in .*: Not a directory'):
        Checkpoints(tmp_path / 'file' / 'checkpoints', keep=2)


def test_what_a_killed_process_was_deleting_is_deleted(tmp_path, monkeypatch):
    """A checkpoint that is partly deleted does not have the name of a whole one."""

    def killed(folder):
        (folder / 'state' / 'manifest.ocdbt').unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.catalogue.shutil, 'rmtree', killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, 4, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {'2.deleted', '4'}
    assert_is(restore(tmp_path, keep=None), 4)
    assert_is(restore(tmp_path), 4)
    assert {path.name for path in tmp_path.iterdir()} == {'4'}


def test_all_files_are_on_the_disk_before_older_checkpoints_are_deleted(tmp_path, monkeypatch):
    """Orbax syncs the files of arrays, not those of JSON, nor the folders."""
    save(tmp_path, 2)
    synced, fsync = set(), os.fsync

    def noted(descriptor):
        synced.add(os.readlink(f'/proc/self/fd/{descriptor}'))
        fsync(descriptor)

    def deleting(*_):
        expected = {str(path) for path in [tmp_path, tmp_path / '4', *(tmp_path / '4').rglob('*')]}
        assert synced >= expected
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', noted)
    monkeypatch.setattr(checkpoint.catalogue.shutil, 'rmtree', deleting)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 4, keep=1)


def test_no_thread_is_left_by_saving(tmp_path):
    before = set(threading.enumerate())
    save(tmp_path, 2, 4, 6)
    assert_no_thread_is_left(before)


def test_a_folder_that_was_moved_away_is_not_begun_anew(tmp_path):
    """Otherwise a run would go on in a second folder that lacks its settings and its beginning."""
    folder, moved = tmp_path / 'run', tmp_path / 'moved'
    save(folder, 2)
    with Checkpoints(folder, keep=1) as checkpoints:
        folder.rename(moved)
        with pytest.raises(UserError, match='was moved or removed while this run was using it'):
            checkpoints.save(state_at(4), Position(step=4))
    assert not folder.exists()
    assert_is(restore(moved), 2)


def test_a_checkpoint_that_cannot_be_deleted_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    """As on a network disk, where the files that another process reads remain in their folder."""

    def fail(folder):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))

    monkeypatch.setattr(checkpoint.catalogue.shutil, 'rmtree', fail)
    save(tmp_path, 2)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (4, 6):
            checkpoints.save(state_at(step), Position(step=step))
        checkpoints.wait()
        assert checkpoints.steps == [6]
    err = capsys.readouterr().err
    assert f'cannot delete {tmp_path / "2.deleted"}: Directory not empty' in err
    assert_is(restore(tmp_path), 6)
    monkeypatch.undo()
    save(tmp_path, 8)
    assert not list(tmp_path.glob('*.deleted'))


def test_a_folder_that_cannot_be_written_is_refused_before_any_training(tmp_path, monkeypatch):
    save(tmp_path, 2)

    def fail(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(paths.tempfile, 'TemporaryFile', fail)
    with pytest.raises(UserError, match=f'cannot write to {tmp_path}: Permission denied'):
        Checkpoints(tmp_path, keep=1)
