import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
from alexnet_jax.ops.max_pooling import max_pooling, pooled_size


@pytest.mark.parametrize('across', [55, 27, 13, 15, 7, 3])
def test_agrees_with_the_definition(across):
    x = np.random.default_rng(0).normal(size=(2, across, across, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pooling(x), reference.max_pooling(x, 3, 2).astype(np.float32))


@pytest.mark.parametrize(('window', 'stride'), [(3, 2), (2, 2), (3, 1), (5, 2), (2, 3)])
def test_the_gradient_goes_to_the_largest_value(window, stride):
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * 14 * 14 * 3).reshape(2, 14, 14, 3).astype(np.float32)  # no ties
    if (14 - window) % stride:
        x = x[:, :13, :13]
    y, vjp = jax.vjp(lambda x: max_pooling(x, window, stride), x)
    g = rng.normal(size=y.shape).astype(np.float32)
    expected = reference.max_pooling_vjp(x, g, window, stride)
    np.testing.assert_allclose(vjp(g)[0], expected, rtol=1e-6, atol=1e-6)


def test_all_values_that_tie_get_the_gradient():
    """The 2012 code computes (img == ma) * mg for each pixel separately."""
    _, vjp = jax.vjp(max_pooling, np.ones((1, 5, 5, 1), np.float32))
    gradient = np.asarray(vjp(np.ones((1, 2, 2, 1), np.float32))[0])[0, :, :, 0]
    pools_of_a_pixel = np.outer([1, 1, 2, 1, 1], [1, 1, 2, 1, 1])
    np.testing.assert_array_equal(gradient, pools_of_a_pixel)


def test_no_gradient_is_lost_to_rounding():
    """Inside a program, the pooled values may be computed with more digits than are stored."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.normal(size=(2, 15, 15, 8)), jnp.bfloat16)
    b = jnp.asarray(rng.uniform(0.5, 1.5, size=a.shape), jnp.bfloat16)
    g = jnp.ones((2, 7, 7, 8), jnp.bfloat16)
    gradient = jax.jit(lambda a: jax.vjp(lambda a: max_pooling(a * b), a)[1](g)[0])(a)
    pooling_gradient = np.asarray(gradient, np.float32) / np.asarray(b, np.float32)
    assert pooling_gradient.sum() >= g.size - 1  # ties, which bfloat16 has, may add to it


@pytest.mark.parametrize(
    ('size', 'window', 'stride', 'pooled'),
    # The paper's three layers, and those of net #147 without overlap (2/2), with 28 pools in 55.
    [(55, 3, 2, 27), (27, 3, 2, 13), (13, 3, 2, 6), (55, 2, 2, 28), (26, 2, 2, 13), (11, 2, 2, 6)],
)
def test_sizes_round_up(size, window, stride, pooled):
    assert pooled_size(size, window, stride) == pooled
    x = np.random.default_rng(0).normal(size=(1, size, size, 1)).astype(np.float32)
    x -= 9  # so all values are negative
    y = np.asarray(max_pooling(x, window, stride))
    assert y.shape == (1, pooled, pooled, 1)
    last = x[0, (pooled - 1) * stride :, (pooled - 1) * stride :, 0]
    assert y[0, -1, -1, 0] == last.max()  # pixels beyond the edge do not count as 0


def ceiling_mode_size(size, window, stride):
    """The documented rule of PyTorch's MaxPool2d with ceil_mode=True and no padding."""
    pools = int(np.ceil((size - window) / stride)) + 1
    return pools - 1 if (pools - 1) * stride >= size else pools


def test_sizes_are_those_of_other_frameworks_and_every_pool_begins_inside():
    for size, window, stride in itertools.product(range(1, 40), range(1, 12), range(1, 15)):
        pooled = pooled_size(size, window, stride)
        assert pooled >= 1
        assert (pooled - 1) * stride < size, (size, window, stride)
        if window <= size:  # PyTorch refuses larger windows
            assert pooled == ceiling_mode_size(size, window, stride), (size, window, stride)


@pytest.mark.parametrize('stride', [1, 2, 3, 4, 7])
@pytest.mark.parametrize('window', [1, 2, 3, 5])
def test_no_pool_is_empty(window, stride):
    """Each pool has the largest of its pixels, and gives its gradient to a pixel."""
    rng = np.random.default_rng(0)
    for rows, columns in [(9, 8), (4, 15)] if stride > window else [(5, 8)]:
        x = rng.permutation(rows * columns).reshape(1, rows, columns, 1).astype(np.float32) - 99
        y, vjp = jax.vjp(lambda x: max_pooling(x, window, stride), x)
        expected = np.array(
            [
                [
                    x[0, i * stride : i * stride + window, j * stride : j * stride + window].max()
                    for j in range(pooled_size(columns, window, stride))
                ]
                for i in range(pooled_size(rows, window, stride))
            ]
        )
        np.testing.assert_array_equal(np.asarray(y)[0, :, :, 0], expected)
        assert vjp(jnp.ones_like(y))[0].sum() == y.size


def test_a_window_larger_than_the_maps_has_one_pool():
    x = np.arange(-6, 0, dtype=np.float32).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(max_pooling(x, 5, 2), [[[[-1.0]]]])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_nan_is_the_largest_value_of_its_pools(dtype):
    x = np.zeros((1, 7, 7, 1), np.float32)
    x[0, 4, 3] = np.nan
    y = np.asarray(max_pooling(jnp.asarray(x, dtype)), np.float32)
    assert {tuple(place) for place in np.argwhere(np.isnan(y))[:, 1:3]} == {(1, 1), (2, 1)}


def test_is_a_compiled_primitive():
    (outer,) = jax.make_jaxpr(max_pooling)(np.ones((1, 5, 5, 1), np.float32)).eqns
    assert outer.primitive.name == 'custom_vjp_call'
    (inner,) = outer.params['call_jaxpr'].eqns
    assert inner.params['name'] == 'max_pooling'
