"""The fully-connected layers on GPUs, where one product computes all towers of a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nets
import reference
from alexnet_jax.model import alexnet, dropout, towers
from alexnet_jax.model.layers import multiply_side_by_side
from alexnet_jax.ops.implementations import Platform
from devices import run

GPU = Platform('gpu', is_local=False)
TOWERS, IMAGES = 4, 6
KEY = jax.random.key(3)


def config(reads, nonlinearity='relu'):
    """Returns settings of four towers, so that two lie on each of two devices."""
    layer = dict(units=160, reads=reads, std=1.0, bias=0.0, decay_factor=1.0, rate_factor=1.0)
    fc7 = layer | dict(nonlinearity=nonlinearity, input_dropout=0.0, dropout=0.25)
    return nets.small(model__towers=TOWERS, model__fc7=fc7, model__bottleneck=layer)


def random_layer(settings, name):
    """Returns a layer of the net for GPUs with random parameters: its graph and its state."""
    net = alexnet.AlexNet(settings, rng=None, platform=GPU)
    graph, state = nnx.split(getattr(net, name))
    rng = np.random.default_rng(0)

    def draw(x):
        scale = 0.5 / np.sqrt(x.shape[-2]) if x.ndim == 3 else 0.5
        return jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32)

    return graph, jax.tree.map(draw, state)


def value_and_gradients(layer, state, x_TBI, g, devices):
    """Computes a layer of all towers on one or two devices, and its derivatives."""
    mesh = nets.mesh_of(devices)
    by_tower = towers.partition(mesh, 'tower')
    specs = jax.tree.map(lambda x: by_tower if x.ndim > 1 else towers.partition(mesh), state)
    out = by_tower if g.ndim == 3 else towers.partition(mesh)
    mapped = jax.shard_map(layer, mesh=mesh, in_specs=(specs, by_tower), out_specs=out)

    def function(state, x, g):
        y, vjp = jax.vjp(mapped, state, x)
        d_state, d_x = vjp(g)
        return y, nnx.to_pure_dict(d_state), d_x

    return run(function, state, x_TBI, g)


def random_arrays(*shapes):
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def assert_close(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.abs(b).max())


def in_float64(state, x_TBI, g_TBO, reads, slope, activate, mask_TBO):
    """Computes a layer's outputs and derivatives from the formulas, tower by tower."""
    params = nnx.to_pure_dict(state)
    w_TIO, b_TO, x_TBI, g_TBO = map(
        reference.float64, (params['kernel_TIO'], params['bias_TO'], x_TBI, g_TBO)
    )
    inputs = [np.concatenate([*x_TBI], axis=-1)] * TOWERS if reads == 'all' else [*x_TBI]
    sums = [x @ w + b for x, w, b in zip(inputs, w_TIO, b_TO, strict=True)]
    g = [mask * slope(s) * g for mask, s, g in zip(mask_TBO, sums, g_TBO, strict=True)]
    d_x = [g_t @ w.T for g_t, w in zip(g, w_TIO, strict=True)]
    d_x_TBI = np.stack(np.split(sum(d_x), TOWERS, axis=-1) if reads == 'all' else d_x)
    d_w_TIO = np.stack([x.T @ g_t for x, g_t in zip(inputs, g, strict=True)])
    y_TBO = np.stack([mask * activate(s) for mask, s in zip(mask_TBO, sums, strict=True)])
    return (
        y_TBO,
        {'bias_TO': np.stack([g_t.sum(axis=0) for g_t in g]), 'kernel_TIO': d_w_TIO},
        d_x_TBI,
    )


FUNCTIONS = {
    'relu': (lambda s: s > 0, lambda s: np.maximum(s, 0)),
    'tanh': (lambda s: 1 - np.tanh(s) ** 2, np.tanh),
    'linear': (np.ones_like, lambda s: s),
}


@pytest.mark.parametrize(
    ('name', 'function', 'reads', 'training', 'devices'),
    [
        ('fc7', 'relu', 'all', True, 1),
        ('fc7', 'relu', 'all', True, 2),
        ('fc7', 'relu', 'own', True, 1),
        ('fc7', 'tanh', 'all', True, 1),
        ('fc7', 'relu', 'all', False, 1),
        ('bottleneck', 'linear', 'own', True, 2),
        ('bottleneck', 'linear', 'all', True, 1),
    ],
)
def test_towers_side_by_side_agree_with_the_formulas(
    monkeypatch, name, function, reads, training, devices
):
    """Values and derivatives, with the dropout masks that the towers have one by one."""
    settings = config(reads, function if name == 'fc7' else 'relu')
    graph, state = random_layer(settings, name)
    units, maps = state['kernel_TIO'].shape[1:]
    units = units // TOWERS if reads == 'all' else units
    x_TBI, g_TBO = random_arrays((TOWERS, IMAGES, units), (TOWERS, IMAGES, maps))
    masks = dropout.Masks(KEY, IMAGES) if training else None

    def layer(state, x_TBI):
        return jnp.stack(nnx.merge(graph, state)([*x_TBI], masks))

    actual = value_and_gradients(layer, state, x_TBI, g_TBO, devices)
    mask_TBO = np.ones((TOWERS, IMAGES, maps))
    if name == 'fc7':
        monkeypatch.setattr(dropout, 'own_part', lambda x, split: x)  # outside of a mesh
        drawn = dropout.Masks(KEY, IMAGES).draw(7, TOWERS, maps, 0.75)
        mask_TBO = np.float64(drawn) if training else 0.75 * mask_TBO
    expected = in_float64(state, x_TBI, g_TBO, reads, *FUNCTIONS[function], mask_TBO)
    assert_close(actual, expected)


@pytest.mark.parametrize('devices', [1, 2])
def test_fc8_sums_the_towers_in_one_product(devices):
    graph, state = random_layer(config('all'), 'fc8')
    w_TIK, b_K = (
        reference.float64(nnx.to_pure_dict(state)[name]) for name in ('kernel_TIK', 'bias')
    )
    x_TBI, g_BK = random_arrays((TOWERS, IMAGES, w_TIK.shape[1]), (IMAGES, w_TIK.shape[2]))

    def layer(state, x_TBI):
        return nnx.merge(graph, state)([*x_TBI])

    actual = value_and_gradients(layer, state, x_TBI, g_BK, devices)
    x, g = reference.float64(x_TBI), reference.float64(g_BK)
    d_state = {'bias': g.sum(axis=0), 'kernel_TIK': np.einsum('tbi,bk->tik', x, g)}
    y = np.einsum('tbi,tik->bk', x, w_TIK) + b_K
    assert_close(actual, (y, d_state, np.einsum('bk,tik->tbi', g, w_TIK)))


def test_an_input_of_all_towers_is_not_copied():
    """It is broadcast over the towers; a matrix product reads it without a copy."""

    def operations(*units):
        kernel_TIO = jax.ShapeDtypeStruct((2, 5, 7), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda k, *x: multiply_side_by_side([x[i] for i in units], k))(
            kernel_TIO, *[jax.ShapeDtypeStruct((3, 5), jnp.float32)] * 2
        )
        return [equation.primitive.name for equation in jaxpr.eqns]

    assert 'stack' not in operations(0, 0)
    assert 'stack' in operations(0, 1)
