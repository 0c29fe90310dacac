"""Nets that several processes train together, as a user starts them: the same as those of one.

Faults are injected at turns of the training loop, see `faults`. The run of `runs.SHORT` has 23
steps with a turn each; its evaluations and saves have turns of their own.
"""

import shutil

import pytest

import groups
import runs
from groups import SLACK, seconds_from_fault
from runs import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.groups]

TOWERS = {'mesh__tower': 2, 'mesh__data': 1}


def test_two_processes_with_a_tower_each_train_as_one_process_does(tmp_path, data_dir, trained_run):
    """Parameters, velocity and metrics are the same bits; process 0 alone prints.

    A signal to one process when all is done changes nothing.
    """
    group = groups.run(2, tmp_path, data_dir, faults={1: {'kind': 'term', 'end': 1}}, **TOWERS)
    assert group.codes == [0, 0], group.err
    assert_same_run(tmp_path, trained_run)
    assert 'top-1 error' in group.out[0]
    assert 'top-1 error' not in group.out[1]
    assert group.lines(1) == []


def test_an_exception_in_one_process_ends_all_at_once(tmp_path, data_dir):
    """The last line of each names the process that failed, which does not wait to save alone."""
    faults = {1: {'kind': 'raise', 'evaluation': 2}}
    group = groups.run(2, tmp_path, data_dir, faults=faults, **TOWERS)
    assert group.codes == [1, 1], group.err
    assert seconds_from_fault(group) < 2 + SLACK
    assert group.lines(0)[-1] == (
        'alexnet_jax: process 0 ends with process 1: ZeroDivisionError: a fault of the program'
    )
    assert 'Traceback' in group.err[1]
    assert 'Traceback' not in group.err[0]


def test_an_image_that_one_process_cannot_read_ends_all_after_a_save(tmp_path, data_dir):
    """The others wait for that process, which has batches for as long as they need to learn it."""
    shutil.copytree(data_dir, tmp_path / 'data')
    name = runs.spoil(tmp_path / 'data', 'train', 700)
    replicas = {'mesh__tower': 1, 'mesh__data': 2, 'checkpoint__every_epochs': 2.0}
    group = groups.run(2, tmp_path / 'run', tmp_path / 'data', **replicas)
    assert group.codes == [2, 2], group.err
    assert f'process 0 ends with process 1: {name} is damaged' in group.lines(0)[-1]
    assert f'process 1: {name} is damaged' in group.lines(1)[-1]
    saved = runs.final(tmp_path / 'run')[0]
    assert 0 < saved < 23


def test_a_full_disk_of_process_0_ends_all_with_one_line(tmp_path, data_dir):
    faults = {0: {'kind': 'disk', 'save': 2}}
    group = groups.run(2, tmp_path, data_dir, faults=faults, **TOWERS)
    assert group.codes == [2, 2], group.err
    assert seconds_from_fault(group) < 5 + SLACK
    assert 'File too large' in group.lines(0)[-1]
    assert 'ends with process 0' in group.lines(1)[-1]
    assert 'Traceback' not in ''.join(group.err)


def test_a_process_that_hangs_is_named(tmp_path, data_dir):
    faults = {1: {'kind': 'hang', 'turn': 12}}
    group = groups.run(2, tmp_path, data_dir, ['--hang_timeout=8'], faults, **TOWERS)
    assert group.codes == [69, 69], group.err
    assert 'process 1: it has made no step for more than 8 s' in group.lines(0)[-1]
    assert seconds_from_fault(group) < 8 + SLACK


def test_two_and_four_processes_on_a_mesh_of_four_train_as_one_process_does(tmp_path, data_dir):
    """With the same mesh, two and four processes compute the same bits.

    In one process XLA adds the numbers of four devices in another order than Gloo does between
    processes. The parameters differ by 1e-8 after one step, and by 3e-6 after 11 steps.
    """
    mesh = {'mesh__tower': 2, 'mesh__data': 2, 'optimizer__epochs': 0.5}
    code, _, err = runs.run(runs.command(tmp_path / 'one', data_dir, **mesh))
    assert code == 0, err
    for count in (2, 4):
        group = groups.run(count, tmp_path / str(count), data_dir, **mesh)
        assert group.codes == [0] * count, group.err
    assert_same_run(tmp_path / '2', tmp_path / '4')
    assert_same_run(tmp_path / '2', tmp_path / 'one', tolerance=2e-5)
