"""The program for test time computes the same net as the one for training."""

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.model import alexnet, inference, towers
from alexnet_jax.ops import winograd
from alexnet_jax.training import validation
from alexnet_jax.training.state import place_initial_state

# Wide enough for large tiles in every convolution.
WIDE = nets.small(model__width=0.34)


def log_probabilities(mesh, images, at_test_time):
    params = alexnet.initialize(WIDE)
    placed = jax.device_put(params, towers.shardings(mesh, alexnet.partitions(WIDE, mesh)))
    compute = inference.make_log_probabilities(WIDE, mesh, at_test_time)
    size = WIDE.dataset.image_size
    mean = np.full((size, size, 3), 127.5, np.float32)
    return np.asarray(compute(placed, mean, images, inference.test_views(WIDE)[0]))


@pytest.mark.parametrize('tower', [1, 2])
def test_the_forms_of_test_time_and_training_agree(tower):
    images = nets.batch(WIDE)['image']
    mesh = nets.mesh_of(tower)
    expected = log_probabilities(mesh, images, at_test_time=False)
    actual = log_probabilities(mesh, images, at_test_time=True)
    assert not np.array_equal(actual, expected)  # the forms are different programs
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_test_error_in_training_keeps_the_form_of_training(monkeypatch):
    """It decides when the learning rate falls, so it must not depend on a faster form."""

    def fail(*_):
        raise AssertionError('large tiles')

    monkeypatch.setattr(winograd, 'convolution_in_large_tiles', fail)
    mesh, batch = nets.mesh_of(2), nets.batch(WIDE)
    size, number = WIDE.dataset.image_size, len(batch['label'])
    batch['weight'] = np.ones(number, np.float32)
    mean = np.zeros((size, size, 3), np.float32)
    inference.make_log_probabilities.cache_clear()  # programs that are compiled already
    evaluate = validation.make_evaluate(WIDE, mesh)
    params = place_initial_state(WIDE, mesh).params
    assert evaluate(params, mean, [batch], 1, number)['images'] == number
    with pytest.raises(AssertionError, match='large tiles'):
        log_probabilities(mesh, batch['image'], at_test_time=True)
