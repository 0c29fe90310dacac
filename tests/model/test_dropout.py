import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nets
from alexnet_jax.model import alexnet, dropout, towers
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.model.layers import Dense
from devices import run

IMAGES = 8


def test_masks_are_the_same_where_jax_computes_with_64_bits(monkeypatch):
    monkeypatch.setattr(dropout, 'own_part', lambda x, split: x)  # outside of a mesh
    masks = dropout.Masks(jax.random.key(0), 8)
    expected = masks.draw(6, 2, 100, 0.5)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(masks.draw(6, 2, 100, 0.5), expected)
    assert 0.4 < expected.mean() < 0.6


@pytest.mark.parametrize(('tower', 'data'), [(1, 1), (2, 1), (1, 2)])
def test_masks_side_by_side_are_those_of_the_towers(tower, data):
    """On any mesh: the towers on a device are neighbours in each row, in order."""
    mesh = nets.mesh_of(tower, data)

    def both():
        masks = dropout.Masks(jax.random.key(0), IMAGES)
        one_by_one = masks.draw(6, 4, 100, 0.5)
        return jnp.concatenate([*one_by_one], axis=-1), masks.draw_side_by_side(6, 4, 100, 0.5)

    place = towers.partition(mesh, 'data', 'tower')
    parts = jax.shard_map(both, mesh=mesh, in_specs=(), out_specs=place, check_vma=False)
    expected, actual = run(parts)
    np.testing.assert_array_equal(actual, expected)
    assert actual.shape == (IMAGES, 400)
    assert 0.4 < actual.mean() < 0.6


def test_rectify_and_drop_is_relu_followed_by_dropout():
    """Values and derivatives, bit by bit, for special numbers too."""
    special = [0.0, -0.0, np.nan, np.inf, -np.inf]
    rng = np.random.default_rng(0)
    x = jnp.asarray([special * 2, rng.normal(size=10)], jnp.float32)
    g = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    mask = jnp.asarray([[True] * 5 + [False] * 5, rng.random(10) < 0.5])
    forms = [
        lambda x: dropout.rectify_and_drop(x, mask),
        lambda x: jnp.where(mask, jax.nn.relu(x), jnp.float32(0)),
    ]
    actual, expected = ((f(x), jax.vjp(f, x)[1](g)[0]) for f in forms)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def of_inputs(rate, **overrides):
    """Returns the small net with dropout of the inputs of fc6 alone."""
    rates = {f'model__{layer}__dropout': 0.0 for layer in ('fc6', 'fc7')}
    return nets.small(**rates, model__fc6__input_dropout=rate, **overrides)


def test_at_test_time_inputs_are_scaled():
    """By 0.5, which is exact: so are weights that are half as large."""
    params, x = alexnet.initialize(of_inputs(0.5)), nets.images(of_inputs(0.5), 2)
    half = params | {'fc6': params['fc6'] | {'kernel_TIO': 0.5 * params['fc6']['kernel_TIO']}}
    mesh = nets.mesh_of(1)
    compiled = functools.partial(nets.compiled_logits, mesh=mesh)
    actual, expected = compiled(of_inputs(0.5))(params, x), compiled(of_inputs(0.0))(half, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert not np.allclose(actual, compiled(of_inputs(0.0))(params, x), rtol=1e-2)


def used_inputs(reads, devices):
    """Finds the inputs of fc7 that its outputs depend on in a training step.

    Returns:
      (tower of the output, tower of the input, images, units) bool.
    """
    config = of_inputs(0.5, model__fc7__input_dropout=0.5, model__fc7__reads=reads)
    (row,) = (row for row in layer_table(config) if row.name == 'fc7')
    layer = Dense(row, config.model, rng=np.random.default_rng(0))
    graph, state = nnx.split(layer)
    mesh = nets.mesh_of(devices)
    spec = towers.partition(mesh, 'tower')

    @jax.shard_map(mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    def outputs(state, units_TBI):
        masks = dropout.Masks(jax.random.key(3), IMAGES)
        return jnp.stack(nnx.merge(graph, state)([*units_TBI], masks))

    def used(x_TBI, tower):
        return jax.grad(lambda x: outputs(state, x)[tower].sum())(x_TBI) != 0

    x_TBI = jnp.ones((2, IMAGES, row.maps))
    return run(lambda x: jnp.stack([used(x, tower) for tower in range(2)]), x_TBI)


def test_all_towers_read_the_same_inputs_on_any_mesh():
    one, two = (used_inputs('all', devices) for devices in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(*one)
    assert 0.45 < one.mean() < 0.55


def test_a_tower_that_reads_its_own_inputs_drops_the_same_ones():
    own, from_all = used_inputs('own', 2), used_inputs('all', 2)
    for tower in range(2):
        np.testing.assert_array_equal(own[tower, tower], from_all[tower, tower])
        assert not np.any(own[tower, 1 - tower])


def test_the_masks_of_inputs_are_their_own(monkeypatch):
    """They differ between towers and images, and from those of the outputs of fc6 and fc7."""
    monkeypatch.setattr(dropout, 'own_part', lambda x, split: x)  # outside of a mesh
    used_TBI = np.asarray(used_inputs('all', 1)[0])
    masks = dropout.Masks(jax.random.key(3), IMAGES)
    outputs = [masks.draw(layer, *np.array(used_TBI.shape)[[0, 2]], 0.5) for layer in (6, 7)]
    for other in (*outputs, used_TBI[::-1], used_TBI[:, ::-1]):
        assert 0.45 < np.mean(used_TBI == other) < 0.55
