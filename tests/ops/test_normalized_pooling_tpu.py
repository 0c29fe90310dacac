"""The TPU's kernel interpreted and lowered, compared with the layers in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import nets
from alexnet_jax.model.operations import Operations
from alexnet_jax.ops.formula import SHAPES, Formula
from alexnet_jax.ops.implementations import LITTLE_VECTOR_MEMORY, Platform
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.normalized_pooling import normalized_pooling, pooling
from alexnet_jax.ops.tpu import normalized_pooling as module
from alexnet_jax.ops.tpu import pools
from devices import lowered, run
from ops.test_normalized_pooling import PAPER, POOL, assert_agrees, cotangent, draw, exact

# A device that is not attached: kernels are chosen and lowered, but not tried.
TPU = Platform('tpu', is_local=False)
CALL = 'custom_call @tpu_custom_call('


@pytest.fixture
def small_blocks(monkeypatch):
    """Divides also small arrays: each grid step has as few rows of pools as it can have."""
    monkeypatch.setattr(pools, 'BLOCK_ELEMENTS', 1)
    monkeypatch.setattr(pools, 'ITERATION_ELEMENTS', 2**11)


def both(formula, pool):
    """Returns the function from x, bias and g to y, dx and dbias of the interpreted kernel."""

    def value_and_derivative(x, bias, g):
        y, pull_back = jax.vjp(
            lambda *args: module.pool(*args, formula, *pool.values(), True), x, bias
        )
        return y, *pull_back(g)

    return value_and_derivative


SMALL = dict(size=3, k=2.0, alpha=1e-4, beta=0.75)
EVEN = dict(size=4, k=1.0, alpha=2e-5, beta=0.5)
WIDE = dict(size=9, k=2.0, alpha=1e-4, beta=0.75)


@pytest.mark.usefixtures('small_blocks')
@pytest.mark.parametrize(
    ('shape', 'constants', 'pool', 'rectify', 'dtype', 'grid_rows'),
    [
        ((2, 7, 6, 4), SMALL, POOL, True, 'float32', 4),
        ((1, 9, 8, 12), PAPER, dict(window=5, stride=2), True, 'bfloat16', 3),
        pytest.param(
            *((2, 8, 7, 5), EVEN, dict(window=2, stride=3), False, 'float32', 3),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *((2, 5, 6, 9), WIDE, dict(window=3, stride=1), True, 'bfloat16', 3),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_agrees_with_the_layers(shape, constants, pool, rectify, dtype, grid_rows):
    """Pools beyond the edges, ties, windows of maps beyond the first and the last."""
    x = draw(shape, dtype=dtype)
    g = cotangent(x, pool)
    assert pools.Pools.of_array(x, **pool).grid_rows == grid_rows
    bias = draw((1, 1, 1, shape[-1]), seed=4)
    formula = Formula(**constants, rectify=rectify)
    y, dx, dbias = run(both(formula, pool), x - bias.astype(dtype), bias, g)
    x = x - bias.astype(dtype) + bias.astype(dtype)
    assert_agrees((y, dx), x, g, constants, pool, rectify)
    expected = exact(x, g, constants, pool, rectify)[1].sum((0, 1, 2), keepdims=True)
    np.testing.assert_allclose(dbias, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.usefixtures('small_blocks')
def test_pooling_alone_agrees_with_plain_jax():
    """130 images fill a block and a part of another; there are ties, and a NaN."""
    x = draw((130, 5, 6, 2)).at[129, 2, 3, 1].set(jnp.nan)
    g = cotangent(x, POOL)
    y, pull_back = jax.vjp(max_pooling, x)
    actual_y, actual_dx, _ = run(both(None, POOL), x, None, g)
    np.testing.assert_array_equal(actual_y, y)
    np.testing.assert_allclose(actual_dx, pull_back(g)[0], rtol=0, atol=1e-6)


def test_suits_batches_that_fill_half_of_the_lanes():
    def suited(shape, window=3, dtype=jnp.float32, platform=TPU):
        return pools.is_suited(
            jax.ShapeDtypeStruct(shape, dtype), window, 2, platform.vector_memory
        )

    assert all(suited((128, *shape)) for shape in SHAPES.values())
    assert suited((64, 13, 13, 128))
    assert not suited((63, 13, 13, 128))
    assert suited((64, 13, 13, 128), window=5)
    assert not suited((64, 13, 13, 128), window=6)
    assert not suited((64, 0, 13, 128))
    v4 = TPU._replace(vector_memory=LITTLE_VECTOR_MEMORY['TPU v4'])
    assert all(suited((128, *shape), 3, jnp.bfloat16, v4) for shape in SHAPES.values())
    assert not any(suited((128, *shape), 3, jnp.float32, v4) for shape in SHAPES.values())
    # Two rows of 224 pixels with 64 maps of 128 images fit into vector memory in neither dtype.
    assert not suited((128, 224, 224, 64), dtype=jnp.bfloat16)


def steps(function, *arrays):
    """Lowers a function and its derivative for a TPU, and returns the text."""

    def value_and_derivative(x, g):
        y, pull_back = jax.vjp(function, x)
        return y, pull_back(g)[0]

    return lowered(value_and_derivative, 'tpu', *arrays)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_a_tpu_uses_one_kernel_for_normalization_and_pooling(shape, dtype):
    x = jax.ShapeDtypeStruct((128, *shape), dtype)
    g = jax.eval_shape(max_pooling, x)
    text = steps(functools.partial(normalized_pooling, **PAPER, **POOL, platform=TPU), x, g)
    assert text.count(CALL) == 2
    assert 'normalized_pooling_forward' in text
    assert 'normalized_pooling_backward' in text


def test_a_tpu_uses_a_kernel_for_pooling_alone():
    operations = Operations.of_layer(('relu', 'max_pooling'), nets.full().model, TPU)
    x = jax.ShapeDtypeStruct((128, 13, 13, 128), jnp.bfloat16)
    text = steps(lambda x: operations([x])[0], x, jax.eval_shape(max_pooling, x))
    assert text.count(CALL) == 2
    assert 'max_pooling_forward' in text
    assert 'max_pooling_backward' in text
    plain = functools.partial(pooling, **POOL, platform=TPU, implementation='jax')
    assert CALL not in lowered(plain, 'tpu', x)


def test_small_batches_use_other_implementations():
    x, g = jnp.zeros((8, 7, 7, 12)), jnp.zeros((8, 3, 3, 12))
    text = steps(functools.partial(normalized_pooling, **PAPER, **POOL, platform=TPU), x, g)
    assert text.count(CALL) == 2
    assert 'normalized_pooling' not in text
    assert CALL not in steps(functools.partial(pooling, **POOL, platform=TPU), x, g)


def test_lowers_inside_a_checked_shard_map():
    """With check_vma=True, a kernel must declare over which axes of the mesh its result varies."""
    mesh = jax.sharding.AbstractMesh((2,), ('tower',), (AxisType.Auto,))
    function = functools.partial(normalized_pooling, **PAPER, **POOL, platform=TPU)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P('tower'), out_specs=P('tower'))
    x = jax.ShapeDtypeStruct((128, 5, 5, 48), jnp.float32)
    text = steps(mapped, x, jax.ShapeDtypeStruct((128, 2, 2, 48), x.dtype))
    assert text.count(CALL) == 2
