"""A restart ends where an uninterrupted run ends, bit for bit."""

import os
import random
import signal
import time

import jax
import numpy as np
import pytest

import nets
import runs
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Checkpoints, Position
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import place_initial_state, state_shapes


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_dir):
    """A run that nothing interrupts."""
    workdir = tmp_path_factory.mktemp('whole')
    code, _, err = runs.run(runs.command(workdir, data_dir))
    assert code == 0, err
    return workdir


def assert_same_end(workdir, whole):
    (step, ours), (expected_step, theirs) = runs.final(workdir), runs.final(whole)
    assert step == expected_step == 23
    assert ours.keys() == theirs.keys()
    assert len(ours) == 1 + 2 * 16  # the step, and a velocity for each of 16 parameters
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name], err_msg=name)
    assert runs.metrics(workdir) == runs.metrics(whole)


@pytest.mark.slow
@pytest.mark.parametrize('step', [4, 12, 20])
def test_killed(tmp_path, data_dir, whole, step):
    """kill -9 at some moment from a step on, then the same command."""
    process = runs.start(runs.command(tmp_path, data_dir))
    runs.wait_for_step(tmp_path, step, process)
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # it had not ended by itself
    code, _, err = runs.run(runs.command(tmp_path, data_dir))
    assert code == 0, err
    assert_same_end(tmp_path, whole)
    assert not list((tmp_path / 'checkpoints').glob('*tmp*'))  # nothing torn stays


@pytest.mark.slow
def test_a_signal_to_all_its_processes_loses_nothing(tmp_path, data_dir):
    """As a scheduler or Ctrl-C sends it: those that read for the run end first, and it saves."""
    command = runs.command(tmp_path, data_dir, loader__workers=1, optimizer__epochs=40.0)
    process = runs.start(command)
    runs.wait_for_step(tmp_path, 8, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert 'stopped by SIGINT after step' in out
    assert runs.final(tmp_path)[0] >= 8


def test_told_to_stop(tmp_path, data_dir, whole):
    """SIGTERM: one save, a code of its own, a line that says so; then the same end."""
    process = runs.start(runs.command(tmp_path, data_dir))
    runs.wait_for_step(tmp_path, 4, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert 'stopped by SIGTERM after step' in out
    code, out, err = runs.run(runs.command(tmp_path, data_dir))
    assert code == 0, err
    assert 'resuming in' in out
    assert_same_end(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(('before', 'after'), [(1, 2), (2, 1)])
def test_goes_on_with_another_number_of_devices(tmp_path, data_dir, whole, before, after):
    process = runs.start(runs.command(tmp_path, data_dir, mesh__tower=before))
    runs.wait_for_step(tmp_path, 8, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    code, out, err = runs.run(runs.command(tmp_path, data_dir, mesh__tower=after))
    assert code == 0, err
    assert 'resuming in' in out
    (_, ours), (_, theirs) = runs.final(tmp_path), runs.final(whole)
    for name, x in ours.items():
        np.testing.assert_allclose(x, theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


POSITION = Position(7, 5, Progress(0.1, 2, 1), 3, {'loss': 1 / 3, 'top1_error': 0.1 + 0.2})


@pytest.fixture
def saved(tmp_path):
    """A folder with one checkpoint, at step 7, and the state in it."""
    state = place_initial_state(nets.small(), nets.mesh_of(2))
    checkpoints = Checkpoints(tmp_path / 'checkpoints', keep=2)
    checkpoints.save(state, POSITION)
    checkpoints.wait()
    checkpoints.close()
    return tmp_path / 'checkpoints', state


def restore(folder, tower):
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.restore(state_shapes(nets.small(), nets.mesh_of(tower)))
    finally:
        checkpoints.close()


@pytest.mark.parametrize('tower', [1, 2])
def test_gives_back_what_it_took(saved, tower):
    folder, state = saved
    restored, position = restore(folder, tower)
    assert position == POSITION  # floats too, to the last bit
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    kernel = restored.params['conv1']['kernel_THWIO']
    assert len(kernel.sharding.device_set) == tower


def test_a_broken_checkpoint_is_one_line(saved):
    folder, _ = saved
    for file in (folder / '7' / 'state').rglob('*'):
        if file.is_file():
            file.write_bytes(b'')
    with pytest.raises(UserError, match=r'checkpoint 7 in .* cannot be read'):
        restore(folder, 2)


def test_an_empty_folder_has_none(tmp_path):
    assert restore(tmp_path / 'checkpoints', 2) is None
