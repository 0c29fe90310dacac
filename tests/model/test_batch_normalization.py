import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.model import alexnet, batch_normalization, towers
from alexnet_jax.model.layer_table import parameter_count
from alexnet_jax.model.operations import POOLED
from alexnet_jax.model.parameters import Average
from alexnet_jax.ops.convolution import convolution

SETTINGS = {
    f'model__{name}__{setting}': value
    for name in ('conv1', 'conv2')
    for setting, value in (('batch_normalization', True), ('then', ('relu', 'max_pooling')))
}


def config(**overrides):
    return nets.small(**SETTINGS, **overrides)


def moments(mesh, x):
    """Computes the moments of a batch that is sharded over a mesh."""
    images, replicated = towers.spec(mesh, 'images'), towers.spec(mesh, 'step')
    function = jax.shard_map(
        batch_normalization.moments,
        mesh=mesh,
        in_specs=(images,),
        out_specs=(replicated, replicated),
    )
    return jax.jit(function)(x)


@pytest.mark.parametrize('data', [1, 2])
def test_moments_are_those_of_the_entire_batch(data):
    x = np.random.default_rng(0).normal(5, 3, (4, 3, 3, 2)).astype(np.float32)
    mean, variance = moments(nets.mesh_of(1, data), x)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-4)


def test_a_normalized_batch_has_mean_0_and_the_given_deviation():
    x = jnp.asarray(np.random.default_rng(0).normal(5, 3, (4, 5, 5, 2)), jnp.float32)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = batch_normalization.normalize(x, mean, variance, jnp.asarray([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), [1, 2], rtol=1e-4)


def run(config, mesh, steps):
    """Trains on random batches, and returns the parameters and the losses."""
    state, metrics = nets.run_steps(config, mesh, steps)
    return jax.device_get(state.params), [values['loss'] for values in metrics]


def smooth():
    """Returns a net without ReLUs and pools, whose derivative has no jumps."""
    convolutions = {f'model__conv{i}__then': ('tanh',) for i in range(1, 6)}
    dense = {f'model__fc{i}__nonlinearity': 'tanh' for i in (6, 7)}
    normalized = {f'model__conv{i}__batch_normalization': True for i in (1, 2)}
    return nets.small(**convolutions, **dense, **normalized, model__conv1__stride=8)


@pytest.mark.slow
def test_meshes_agree():
    """The meshes are one device, two with a tower each, and two with half of the batch each.

    The net is smooth: with ReLUs and pools, rounding can change which pixel a gradient goes to.
    """
    (params, losses), *others = (
        run(smooth(), mesh, 3) for mesh in (nets.mesh_of(1), nets.mesh_of(2), nets.mesh_of(1, 2))
    )
    for other_params, other_losses in others:
        assert other_losses == pytest.approx(losses, rel=1e-6)
        for x, other in zip(jax.tree.leaves(params), jax.tree.leaves(other_params), strict=True):
            np.testing.assert_allclose(x, other, rtol=1e-5, atol=1e-6)


def test_without_memory_the_averages_are_the_moments_of_the_batch():
    """Neither weight decay nor the velocity changes them."""
    settings = config(
        model__batch_normalization__memory=0.0,
        optimizer__weight_decay=0.5,
        augmentation__positions=1,
    )
    params, _ = run(settings, nets.mesh_of(2), 1)
    crops = nets.batch(settings, seed=0)['image'][:, 4:68, 4:68].astype(np.float32) - 127
    for kernel, mean, variance in zip(
        alexnet.initialize(settings)['conv1']['kernel_THWIO'],
        params['conv1']['batch_normalization']['average_mean_TO'],
        params['conv1']['batch_normalization']['average_variance_TO'],
        strict=True,
    ):
        sums = np.asarray(convolution(jnp.asarray(crops), jnp.asarray(kernel), 4, 0))
        np.testing.assert_allclose(mean, sums.mean((0, 1, 2)), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(variance, sums.var((0, 1, 2)), rtol=1e-3)


def test_the_memory_is_the_weight_of_the_old_average():
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
    np.testing.assert_allclose(averages['conv1']['batch_normalization']['average_mean_TO'], 0.9)
    np.testing.assert_array_equal(averages['conv1']['bias_TO'], 1)


def test_averages_are_used_at_test_time():
    """An image's logits therefore do not depend on the other images in the batch."""
    settings, mesh = config(), nets.mesh_of(1)
    params, _ = run(settings, mesh, 2)
    logits = nets.compiled_logits(settings, mesh)
    x = nets.images(settings, 4)
    np.testing.assert_allclose(logits(params, x)[:1], logits(params, x[:1]), rtol=1e-4, atol=1e-5)


def test_averages_are_not_counted_as_parameters():
    """The scales are counted."""
    settings = config()
    sizes = jax.tree.map(lambda x: x.size, alexnet.initialize(settings))
    infos = alexnet.parameter_info(settings)
    counts = jax.tree.map(lambda size, info: 0 if info.kind is Average else size, sizes, infos)
    assert parameter_count(settings) == sum(jax.tree.leaves(counts))
    assert parameter_count(settings) < sum(jax.tree.leaves(sizes))


@pytest.mark.parametrize('then', [('relu', 'max_pooling'), POOLED])
def test_no_gradient_is_lost_in_the_pools_after_it(then):
    """XLA computes the pixels again for the derivative, and may round them in another way.

    The gradient of a pool must reach its largest pixel nevertheless. The constants of response
    normalization make it the identity, so that a bias has the sum over the positive pools.
    """
    config = nets.small(
        model__width=0.0625,
        model__conv1__batch_normalization=True,
        model__conv1__then=then,
        model__response_normalization__alpha=0.0,
        model__response_normalization__k=1.0,
    )
    graph, params = alexnet.graph(config), jax.device_put(alexnet.initialize(config))
    x, weight = nets.images(config, 8), jnp.float32(0.7)

    def pools(bias_TO, x):
        conv1 = params['conv1'] | {'bias_TO': bias_TO}
        net = alexnet.nnx.merge(graph, params | {'conv1': conv1})
        maps = net.conv1([x, x], training=True)
        positive_TO = jnp.stack([(y > 0).sum((0, 1, 2)) for y in maps])
        return weight * sum(y.sum() for y in maps), positive_TO

    def differentiate(bias_TO, x):
        return jax.grad(pools, has_aux=True)(bias_TO, x)

    spec = towers.PartitionSpec()
    options = dict(mesh=nets.mesh_of(1), in_specs=(spec, spec), out_specs=spec)
    sharded = jax.jit(jax.shard_map(differentiate, **options))
    gradient_TO, positive_TO = sharded(params['conv1']['bias_TO'], x)
    np.testing.assert_allclose(gradient_TO, 0.7 * np.asarray(positive_TO), rtol=1e-4)
