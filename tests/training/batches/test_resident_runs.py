"""Whole runs with images on the devices, beside runs with the loader."""

import pytest

import nets
import runs
from alexnet_jax.training.batches import memory_plan
from alexnet_jax.training.workdir import Workdir


@pytest.mark.slow
def test_a_run_that_falls_back_to_the_loader_ends_with_the_same_bits(
    trained_run, data_dir, tmp_path
):
    config, needs = Workdir(trained_run).read_config(), memory_plan.Needs(1442, 1442)
    assert memory_plan.decide(config, nets.mesh_of(2), None, needs).has_training
    arguments = runs.command(tmp_path / 'run', data_dir, loader__resident_gib=0.01)
    code, out, err = runs.run(arguments)
    assert code == 0, err
    assert 'the loader reads the training images in every epoch: 1,442 training images need' in out
    runs.assert_same_run(tmp_path / 'run', trained_run)
