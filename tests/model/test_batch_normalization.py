import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.model import alexnet, batch_normalization, towers
from alexnet_jax.model.layer_table import parameter_count
from alexnet_jax.model.parameters import Average
from alexnet_jax.ops.convolution import convolution
from alexnet_jax.training.optimizer import Rates
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.step import make_train_step

SETTINGS = {
    f'model__{name}__{setting}': value
    for name in ('conv1', 'conv2')
    for setting, value in (('batch_normalization', True), ('then', ('relu', 'max_pooling')))
}


def config(**overrides):
    return nets.small(**SETTINGS, **overrides)


def moments(mesh, x):
    images, everywhere = towers.spec(mesh, 'images'), towers.spec(mesh, 'step')
    of = jax.shard_map(
        batch_normalization.moments,
        mesh=mesh,
        in_specs=(images,),
        out_specs=(everywhere, everywhere),
    )
    return jax.jit(of)(x)


@pytest.mark.parametrize('data', [1, 2])
def test_moments_are_those_of_the_whole_batch(data):
    x = np.random.default_rng(0).normal(5, 3, (4, 3, 3, 2)).astype(np.float32)
    mean, variance = moments(nets.mesh_of(1, data), x)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-4)


def test_a_batch_comes_out_with_mean_0_and_variance_1():
    x = jnp.asarray(np.random.default_rng(0).normal(5, 3, (4, 5, 5, 2)), jnp.float32)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = batch_normalization.normalize(x, mean, variance, jnp.asarray([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), [1, 2], rtol=1e-4)


def run(config, mesh, steps):
    step = make_train_step(config, mesh)
    state, losses = place_initial_state(config, mesh), []
    known = jax.device_put(nets.constants(), towers.shardings(mesh, towers.spec(mesh, 'constants')))
    for i in range(steps):
        batch = towers.put_batch(mesh, nets.batch(config, seed=i))
        state, metrics = step(state, batch, known, Rates.equal(0.01), jnp.float32(0))
        losses.append(float(metrics['loss']))
    return jax.device_get(state), losses


def smooth():
    """A net without ReLUs and pools, whose derivative has no jumps."""
    convolutions = {f'model__conv{i}__then': ('tanh',) for i in range(1, 6)}
    dense = {f'model__fc{i}__nonlinearity': 'tanh' for i in (6, 7)}
    normalized = {f'model__conv{i}__batch_normalization': True for i in (1, 2)}
    return nets.small(**convolutions, **dense, **normalized, model__conv1__stride=8)


def test_meshes_agree():
    """One device, two with a tower each, two that each have half of the batch.

    With ReLUs and pools, rounding can change which pixel a gradient goes to: the losses agree, but
    single weights of conv1 differ by up to 5e-4 after a step (measured on a CPU with AVX-512).
    """
    (one, losses), *others = (
        run(smooth(), mesh, 3) for mesh in (nets.mesh_of(1), nets.mesh_of(2), nets.mesh_of(1, 2))
    )
    for state, other_losses in others:
        assert other_losses == pytest.approx(losses, rel=1e-6)
        for x, other in zip(
            jax.tree.leaves(one.params), jax.tree.leaves(state.params), strict=True
        ):
            np.testing.assert_allclose(x, other, rtol=1e-5, atol=1e-6)


def test_meshes_agree_on_the_loss():
    """Of the net with ReLUs and pools, on one device and with half of the batch on each of two."""
    losses, other_losses = (
        run(config(), mesh, 2)[1] for mesh in (nets.mesh_of(1), nets.mesh_of(1, 2))
    )
    assert other_losses == pytest.approx(losses, rel=1e-4)


def test_averages_are_what_the_batch_has_where_nothing_is_remembered():
    """Neither decay nor velocity moves them."""
    ours = config(
        model__batch_normalization__memory=0.0,
        optimizer__weight_decay=0.5,
        augmentation__positions=1,
    )
    state, _ = run(ours, nets.mesh_of(2), 1)
    crops = nets.batch(ours, seed=0)['image'][:, 4:68, 4:68].astype(np.float32) - 127
    for kernel, mean, variance in zip(
        alexnet.initialize(ours)['conv1']['kernel_THWIO'],
        state.params['conv1']['batch_normalization']['average_mean_TO'],
        state.params['conv1']['batch_normalization']['average_variance_TO'],
        strict=True,
    ):
        sums = np.asarray(convolution(jnp.asarray(crops), jnp.asarray(kernel), 4, 0))
        np.testing.assert_allclose(mean, sums.mean((0, 1, 2)), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(variance, sums.var((0, 1, 2)), rtol=1e-3)


def test_a_memory_keeps_its_share():
    averages = batch_normalization.update_averages(
        {
            'conv1': {
                'batch_normalization': {'average_mean_TO': np.ones(3)},
                'bias_TO': np.ones(3),
            },
            'fc8': {},
        },
        {'conv1': {'batch_normalization': {'average_mean_TO': np.zeros(3)}}},
        memory=0.9,
    )
    moved = averages['conv1']['batch_normalization']['average_mean_TO']
    np.testing.assert_allclose(moved, 0.9)
    np.testing.assert_array_equal(averages['conv1']['bias_TO'], 1)


def test_tests_use_the_averages():
    """At test time an image's scores do not depend on the others in the batch."""
    ours, mesh = config(), nets.mesh_of(1)
    state, _ = run(ours, mesh, 2)
    logits = nets.compiled_logits(ours, mesh)
    x = nets.images(ours, 4)
    np.testing.assert_allclose(
        logits(state.params, x)[:1], logits(state.params, x[:1]), rtol=1e-4, atol=1e-5
    )


def test_averages_are_no_parameters():
    """They are not counted, have no velocity that moves them, and scales are counted."""
    ours = config()
    sizes = jax.tree.map(lambda x: x.size, alexnet.initialize(ours))
    infos = alexnet.parameter_info(ours)
    counts = jax.tree.map(lambda size, info: 0 if info.kind is Average else size, sizes, infos)
    assert parameter_count(ours) == sum(jax.tree.leaves(counts))
    assert parameter_count(ours) < sum(jax.tree.leaves(sizes))
