"""The rule 'lars' against `optax.lars`, and on meshes of one, two and four devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

import nets
from alexnet_jax.config.durations import durations
from alexnet_jax.config.model_schema import LAYERS
from alexnet_jax.data import sources
from alexnet_jax.data.loading import loader
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.training import small_updates
from alexnet_jax.training.optimizer import Progress, Rates
from alexnet_jax.training.state import make_optimizer, partitions, place_initial_state
from alexnet_jax.training.step import Hyperparameters

BIASES = {f'model__{name}__bias': 0.01 for name in ('conv1', 'conv3', 'fc8')}
LARS = {'optimizer__rule': 'lars', 'optimizer__trust_coefficient': 0.02, **BIASES}
NORMALIZED = {'model__conv1__batch_normalization': True}
STEPS = 3


def draw(config, seed, scale):
    """Returns random arrays like the parameters."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), alexnet.shapes(config)
    )


def updates_on(config, mesh):
    """Returns the parameters after some steps with random gradients, on the mesh."""
    optimizer, specs = make_optimizer(config), partitions(config, mesh)

    def update(params, velocity, gradients):
        rates = Rates.equal(0.5)
        change, velocity = optimizer.update(gradients, velocity, params, learning_rate=rates)
        return optax.apply_updates(params, change), velocity

    in_specs = specs.params, specs.velocity, specs.params
    sharded = jax.shard_map(update, mesh=mesh, in_specs=in_specs, out_specs=in_specs[:2])
    shardings = towers.shardings(mesh, specs)
    params = towers.put(draw(config, 0, 1.0), shardings.params)
    velocity = jax.jit(optimizer.init, out_shardings=shardings.velocity)(params)
    step = jax.jit(sharded)
    for seed in range(1, 1 + STEPS):
        gradients = towers.put(draw(config, seed, 0.1), shardings.params)
        params, velocity = step(params, velocity, gradients)
    return jax.device_get(params)


def test_it_is_that_of_optax():
    """The norms are those of both towers' arrays; the rate is inside the velocity in both."""
    config = nets.small(**LARS)
    optimizer = config.optimizer
    reference = optax.lars(
        learning_rate=0.5,
        weight_decay=optimizer.weight_decay,
        trust_coefficient=optimizer.trust_coefficient,
        momentum=optimizer.momentum,
    )
    expected = draw(config, 0, 1.0)
    state, update = reference.init(expected), jax.jit(reference.update)
    for seed in range(1, 1 + STEPS):
        change, state = update(draw(config, seed, 0.1), state, expected)
        expected = optax.apply_updates(expected, change)
    for name, x in leaves_by_name(updates_on(config, nets.mesh_of(1))).items():
        reference_x = leaves_by_name(expected)[name]
        np.testing.assert_allclose(x, reference_x, rtol=1e-5, atol=1e-6, err_msg=name)


def check_mesh(tower, data, dense):
    """Asserts that the result on a mesh is that of one device."""
    config = nets.small(**LARS, **NORMALIZED, mesh__dense=dense)
    one, several = (updates_on(config, nets.mesh_of(*n)) for n in ((1, 1), (tower, data)))
    for name, x in leaves_by_name(several).items():
        np.testing.assert_allclose(x, leaves_by_name(one)[name], 1e-5, 1e-6, err_msg=name)


@pytest.mark.parametrize(('tower', 'data', 'dense'), [(2, 1, 'tower'), (1, 2, 'all')])
def test_the_result_does_not_depend_on_the_mesh(tower, data, dense):
    """The averages of batch normalization have gradients here, which no rule scales."""
    check_mesh(tower, data, dense)


@pytest.mark.slow
def test_the_result_is_the_same_on_four_devices():
    paths = [str(nets.ROOT / folder) for folder in ('.', 'tests', 'tests/training')]
    code = f"""
import sys
sys.path[:0] = {paths}
import test_lars
assert len(test_lars.jax.devices()) == 4
for dense in ('tower', 'all'):
    test_lars.check_mesh(2, 2, dense)
"""
    environment = os.environ | {'JAX_NUM_CPU_DEVICES': '4'}
    subprocess.run([sys.executable, '-c', code], check=True, env=environment)


def test_an_array_of_zeros_moves_by_its_gradient():
    """There is no norm to scale by: optax has a ratio of 1 there."""
    config = nets.small(**LARS)
    optimizer, zeros = make_optimizer(config), draw(config, 0, 0.0)
    mesh, specs = nets.mesh_of(1), partitions(config, nets.mesh_of(1)).params
    gradients = draw(config, 1, 1.0)

    def update(params, gradients):
        rates = Rates.equal(0.5)
        return optimizer.update(gradients, optimizer.init(params), params, learning_rate=rates)[0]

    sharded = jax.shard_map(update, mesh=mesh, in_specs=(specs, specs), out_specs=specs)
    change = jax.jit(sharded)(zeros, gradients)
    for x, g in zip(*map(jax.tree.leaves, (change, gradients)), strict=True):
        np.testing.assert_allclose(x, -0.5 * g, rtol=1e-6)


def test_the_kernel_for_small_arrays_is_left_out(monkeypatch):
    """It has no sums over its arrays."""
    monkeypatch.setattr(small_updates, 'kernel_works', lambda platform: True)
    platform = Platform('gpu')
    assert small_updates.choose(nets.small(), platform)
    assert small_updates.choose(nets.small(**LARS), platform) is None


@pytest.mark.slow
def test_a_small_net_learns_digits_with_the_recipe(data_dir):
    """What the recipe for large batches changes is taken over, but for sizes and durations."""
    recipe = nets.load('ilsvrc2012_large_batch')
    settings = {
        f'model__{layer}__{name}': value
        for layer in LAYERS
        for name, value in recipe.model[layer].items()
        if name in ('batch_normalization', 'bias', 'then') and recipe.model[layer].get('maps') != 0
    }
    settings |= {
        'dataset__data_dir': data_dir,
        'learning_rate__initial': 8.0,
        'learning_rate__schedule': recipe.learning_rate.schedule,
        'learning_rate__warm_up__epochs': 0.3,
        'optimizer__batch_size': 64,
        'optimizer__epochs': 3.0,
        'optimizer__rule': recipe.optimizer.rule,
    }
    config, mesh = nets.small(**settings), nets.mesh_of(2)
    step, state = nets.compiled_step(config, mesh), place_initial_state(config, mesh)
    train, reading = sources.open_splits(config.dataset).train, loader.Reading.from_config(config)
    plan, losses = durations(config, len(train)), []
    batches = loader.training_batches(train, reading, config.seed, plan.batch_size, first_step=0)
    for number, batch in zip(range(plan.steps), batches, strict=False):
        numbers = Hyperparameters.at(config, plan.epoch(number), Progress()).pack()
        data = towers.put_batch(mesh, batch)
        state, metrics = step(state, data, nets.constants(0.0), numbers)
        losses.append(float(metrics['loss']))
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
