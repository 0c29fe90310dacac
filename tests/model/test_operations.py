"""Response normalization that reads the maps of the neighbouring towers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.model.operations import Operations
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.response_normalization import response_normalization
from devices import run


@pytest.mark.parametrize('devices', [1, 2])
@pytest.mark.parametrize(
    ('number', 'maps', 'size'),
    [
        (2, 6, 5),
        (2, 6, 4),  # one map fewer is read from the tower after than from the one before
        (4, 1, 7),  # a window reaches beyond the neighbours: three maps on either side
        (2, 3, 2),  # none is read from the tower after
        (2, 3, 1),  # no neighbours
    ],
)
def test_towers_that_read_their_neighbours_are_one_tower(devices, number, maps, size):
    """Values and gradients equal those of one tower that holds the maps of all."""
    overrides = dict(size=size, k=2.0, alpha=0.3, beta=0.75, reads='all')
    model = nets.small(model__towers=number, model__response_normalization=overrides).model
    operations = Operations.of_layer(('relu', 'max_pooling', 'response_normalization'), model)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(number, 2, 5, 5, maps)), jnp.float32)
    g = jnp.asarray(rng.normal(size=(number, 2, 2, 2, maps)), jnp.float32)
    mesh = nets.mesh_of(devices)
    spec = towers.partition(mesh, 'tower')

    @jax.shard_map(mesh=mesh, in_specs=spec, out_specs=spec)
    def of_towers(x):
        return jnp.stack(operations([*x]))

    def of_one_tower(x):
        joined = jnp.concatenate([*jax.nn.relu(x)], axis=-1)
        y = response_normalization(max_pooling(joined), size, 2.0, 0.3, 0.75)
        return jnp.stack(jnp.split(y, number, axis=-1))

    def value_and_gradient(function, x, g):
        y, vjp = jax.vjp(function, x)
        return y, vjp(g)[0]

    actual = run(lambda x, g: value_and_gradient(of_towers, x, g), x, g)
    expected = run(lambda x, g: value_and_gradient(of_one_tower, x, g), x, g)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # sums in another order


@pytest.mark.parametrize('names', [('relu',), ('relu', 'max_pooling'), ('max_pooling', 'relu')])
def test_relu_has_the_same_values_and_derivatives_on_a_gpu(names):
    """It has another form there, which XLA can leave to cuDNN (ops/convolution.py)."""
    model = nets.small().model
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, 7, 3)), jnp.float32)

    def value_and_gradient(platform):
        operations = Operations.of_layer(names, model, platform, follow_convolution=True)
        y, vjp = jax.vjp(lambda x: operations([x])[0], x)
        return y, vjp(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32))[0]

    actual, expected = (value_and_gradient(Platform(name, False)) for name in ('gpu', 'cpu'))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_the_maps_at_the_edges_cross():
    """One gather more for each layer that is normalized; the layer table has its size."""
    config, mesh = nets.small(model__response_normalization__reads='all'), nets.mesh_of(2)
    logits = nets.compiled_logits(config, mesh)
    compiled = logits.lower(alexnet.shapes(config), nets.images(config, 8)).compile()
    assert nets.collectives(compiled) == {'all-gather': 5, 'all-reduce': 1}
    crossing = {row.name: row.crossing for row in layer_table(config)}
    own = {row.name: row.crossing for row in layer_table(nets.small())}
    # Two maps of 15 x 15 pixels, and of 7 x 7, at either edge.
    assert crossing == own | {'conv1': 15**2 * 4, 'conv2': 7**2 * 4}
    one = nets.small(model__response_normalization__reads='all', model__towers=1)
    assert not any(row.crossing for row in layer_table(one))
