"""A resumed run ends with the same bits as an uninterrupted one."""

import logging
import os
import random
import signal
import time

import jax
import numpy as np
import pytest

import nets
import runs
from alexnet_jax.training.checkpoint import Checkpoints, Position
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import place_initial_state, state_shapes
from endurance.comparison import differences


def assert_same_end(workdir, uninterrupted):
    """Parameters, velocity, metrics and curves are those of the uninterrupted run."""
    step, arrays = runs.final(workdir)
    assert step == 23
    assert len(arrays) == 1 + 2 * 16  # the step, and a velocity for each of 16 parameters
    assert differences(workdir, uninterrupted) == []


@pytest.mark.slow
def test_killed_twice(tmp_path, data_dir, trained_run):
    """SIGKILL comes shortly after a step, and the same command resumes the run each time.

    The first checkpoint is that of step 5, so that it may be incomplete at the first SIGKILL.
    """
    for step in (4, 20):
        process = runs.start(runs.command(tmp_path, data_dir))
        runs.wait_for_step(tmp_path, step, process)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # it had not ended before
    code, _, err = runs.run(runs.command(tmp_path, data_dir))
    assert code == 0, err
    assert_same_end(tmp_path, trained_run)
    assert not list((tmp_path / 'checkpoints').glob('*tmp*'))  # no incomplete checkpoint remains


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_run_loses_nothing(tmp_path, data_dir):
    """As a scheduler or Ctrl-C sends it: the readers end first, and the run still saves."""
    command = runs.command(tmp_path, data_dir, loader__workers=1, optimizer__epochs=40.0)
    process = runs.start(command)
    runs.wait_for_step(tmp_path, 8, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert 'stopped by SIGINT after step' in out
    assert runs.final(tmp_path)[0] >= 8


@pytest.mark.slow
def test_a_run_that_is_stopped_saves_and_can_be_resumed(tmp_path, data_dir, trained_run):
    """SIGTERM: a checkpoint, an exit code of its own and a line of text; then the same end."""
    process = runs.start(runs.command(tmp_path, data_dir))
    runs.wait_for_step(tmp_path, 4, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert 'stopped by SIGTERM after step' in out
    code, out, err = runs.run(runs.command(tmp_path, data_dir))
    assert code == 0, err
    assert 'resuming in' in out
    assert_same_end(tmp_path, trained_run)


@pytest.mark.slow
def test_a_run_can_be_resumed_on_other_devices(tmp_path, data_dir, trained_run):
    """On two devices in place of one, and then on one again."""
    step = 0
    for towers in (1, 2):
        process = runs.start(runs.command(tmp_path, data_dir, mesh__tower=towers))
        runs.wait_for_step(tmp_path, step + 1, process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 75
        assert ('resuming in' in out) == (towers == 2)
        step = runs.final(tmp_path)[0]
    code, out, err = runs.run(runs.command(tmp_path, data_dir, mesh__tower=1))
    assert code == 0, err
    assert 'resuming in' in out
    (_, arrays), (_, expected) = runs.final(tmp_path), runs.final(trained_run)
    for name, x in arrays.items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


POSITION = Position(7, 5, Progress(0.1, 2, 1), 3, {'loss': 1 / 3, 'top1_error': 0.1 + 0.2})


@pytest.fixture
def saved(tmp_path):
    """A folder with a checkpoint of step 7, and the state that was saved."""
    state = runs.at_step(place_initial_state(nets.small(), nets.mesh_of(2)), 7)
    with Checkpoints(tmp_path / 'checkpoints', keep=2) as checkpoints:
        checkpoints.save(state, POSITION)
        checkpoints.wait()
    return tmp_path / 'checkpoints', state


def restore(folder, tower, keep=2):
    with Checkpoints(folder, keep) as checkpoints:
        return checkpoints.restore(state_shapes(nets.small(), nets.mesh_of(tower)))


@pytest.mark.parametrize('tower', [1, 2])
def test_what_was_saved_is_restored(saved, tower):
    folder, state = saved
    restored, position = restore(folder, tower)
    assert position == POSITION  # floats have the same bits
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    kernel = restored.params['conv1']['kernel_THWIO']
    assert len(kernel.sharding.device_set) == tower


def test_reading_warns_of_nothing(saved, caplog):
    """Orbax lists all options that reading turns off, six lines in a notebook."""
    caplog.set_level(logging.WARNING, logger='absl')  # a program in another test may silence it
    folder, _ = saved
    restore(folder, 1, keep=None)
    with Checkpoints(folder, keep=None) as checkpoints:
        checkpoints.restore_params()
    logging.getLogger('absl').warning('other warnings are shown')
    assert [record.getMessage() for record in caplog.records] == ['other warnings are shown']


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert restore(tmp_path / 'checkpoints', 2, keep=None) is None
    assert not (tmp_path / 'checkpoints').exists()
    assert restore(tmp_path / 'checkpoints', 2) is None
