"""A run that diverges says so in its workdir, for the study that started it."""

import pytest

from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import divergence


def diverge(folder):
    with pytest.raises(UserError), divergence.record_divergence(folder):
        raise divergence.Diverged('the loss is nan at step 3', 'lower the learning rate')


def test_the_problem_is_recorded_and_the_next_start_removes_it(tmp_path):
    diverge(tmp_path)
    assert divergence.read(tmp_path) == 'the loss is nan at step 3'
    with divergence.record_divergence(tmp_path):
        assert divergence.read(tmp_path) == ''


def test_another_mistake_is_not_recorded(tmp_path):
    with pytest.raises(UserError), divergence.record_divergence(tmp_path):
        raise UserError('the disk is full')
    assert divergence.read(tmp_path) == ''


def test_where_it_cannot_be_recorded_the_error_is_the_same(tmp_path):
    diverge(tmp_path / 'there is no such folder')
