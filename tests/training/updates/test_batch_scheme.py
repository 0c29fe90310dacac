"""Dense layers that are updated once per sub-batch, in place of once per step."""

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.model import towers
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.step import make_train_step
from fake_devices import group

# conv1 and the dense layers: this compiles quickly.
SHORT = {f'model__conv{i}__maps': 0 for i in (2, 3, 4, 5)}
DENSE = ('fc6', 'fc7', 'fc8')


def config_of(**overrides):
    return nets.small(**(SHORT | dict(model__width=0.0625) | overrides))


def train(config, mesh, batches, rate=0.01):
    """Returns the arrays after a step for each batch by name, and the losses."""
    step, state, losses = nets.compiled_step(config, mesh), place_initial_state(config, mesh), []
    for batch in batches:
        data = towers.put_batch(mesh, batch)
        state, metrics = step(state, data, nets.constants(size=72), nets.hyperparameters(rate))
        losses.append(float(metrics['loss']))
    return leaves_by_name(jax.device_get((state.params, state.velocity))), losses


def assert_close(actual, expected):
    for name, x in expected.items():
        scale = np.abs(x).max()
        np.testing.assert_allclose(actual[name], x, rtol=1e-4, atol=2e-6 * scale, err_msg=name)


def test_a_step_is_one_step_of_the_dense_layers_for_each_sub_batch():
    """With conv1 frozen, and nothing random, two sub-batches are two batches of half the size."""
    fixed = dict(augmentation__crop=72, augmentation__mirror=False, model__conv1__rate_factor=0.0)
    fixed |= dict(model__fc6__dropout=0.0, model__fc7__dropout=0.0)
    batch, mesh = nets.batch(nets.small()), nets.mesh_of(1)
    actual, (loss,) = train(config_of(optimizer__dense_updates=2, **fixed), mesh, [batch])
    halves = [{name: x[i::2] for name, x in batch.items()} for i in range(2)]
    expected, losses = train(config_of(optimizer__batch_size=4, **fixed), mesh, halves)
    assert_close(actual, expected)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert abs(losses[0] - losses[1]) > 0.01 * losses[0]


@pytest.mark.slow
def test_the_convolutions_follow_the_gradient_of_the_whole_batch():
    """With the dense layers frozen, sub-batches change nothing: each image keeps its masks."""
    frozen = {f'model__{name}__rate_factor': 0.0 for name in DENSE}
    batch, mesh = nets.batch(nets.small()), nets.mesh_of(1)
    whole, parts = (
        train(config_of(optimizer__dense_updates=n, **frozen), mesh, [batch]) for n in (1, 4)
    )
    assert_close(parts[0], whole[0])
    assert parts[1] == pytest.approx(whole[1], rel=1e-5)


@pytest.mark.slow
def test_replicas_that_divide_the_units_update_them_as_one_device():
    config = config_of(optimizer__dense_updates=2, mesh__dense='all')
    batches = [nets.batch(config, seed=i) for i in range(2)]
    one, two = (train(config, nets.mesh_of(1, data=n), batches) for n in (1, 2))
    assert_close(two[0], one[0])
    assert two[1] == pytest.approx(one[1], rel=2e-5)


def test_sub_batches_are_equal_parts_of_the_images_of_each_device():
    with pytest.raises(UserError, match='batch_size=8 cannot be divided into') as error:
        nets.small(optimizer__dense_updates=4, mesh__data=4)
    assert 'dense_updates=4 equal sub-batches on each of mesh.data=4 devices' in str(error.value)
    four = dict(optimizer__dense_updates=4, model__towers=1)
    assert towers.choose_mesh(nets.small(**four), group([8], platform='gpu')).shape['data'] == 2
    with pytest.raises(UserError, match=r'batch_size=8 / optimizer\.dense_updates=4 and') as error:
        towers.choose_mesh(nets.small(**four), group([1] * 4, range(4)))
    advice = 'tower=1 --config.mesh.data=4 --config.optimizer.batch_size=16'
    assert str(error.value).endswith(advice)


def test_another_form_of_the_net_has_no_sub_batches():
    with pytest.raises(ValueError, match='has no sub-batches'):
        make_train_step(config_of(optimizer__dense_updates=2), nets.mesh_of(1), lambda *_: None)
