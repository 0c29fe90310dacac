import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.ops.spatial_normalization import spatial_normalization


def by_hand(x, size, k, alpha, beta):
    """Computes the formula pixel by pixel, in float64."""
    y, (_, rows, columns, _) = np.empty_like(x), x.shape
    for i in range(rows):
        for j in range(columns):
            top, left = i - size // 2, j - size // 2
            window = x[:, max(0, top) : top + size, max(0, left) : left + size]
            y[:, i, j] = x[:, i, j] * (k + alpha * (window**2).sum((1, 2))) ** -beta
    return y


@pytest.mark.parametrize(('size', 'alpha'), [(5, 4e-5), (3, 1.0), (4, 0.1)])
def test_agrees_with_the_formula(size, alpha):
    x = np.random.default_rng(0).normal(0, 30, (2, 7, 6, 3))
    y = spatial_normalization(jnp.asarray(x, jnp.float32), size, 1.0, alpha, 0.75)
    np.testing.assert_allclose(y, by_hand(x, size, 1.0, alpha, 0.75), rtol=1e-5)


def test_maps_do_not_mix():
    """A result depends on the neighbouring pixels of its own map, and not on the other maps."""
    x = jnp.asarray(np.random.default_rng(0).normal(0, 30, (1, 5, 5, 4)), jnp.float32)
    gradient = jax.grad(lambda x: spatial_normalization(x, alpha=1e-2)[0, 2, 2, 1])(x)
    assert not np.any(np.asarray(gradient)[..., [0, 2, 3]])
    assert gradient[0, 1, 2, 1] != 0


def test_the_derivative_agrees_with_differences():
    rng = np.random.default_rng(1)
    x, g, step = rng.normal(0, 3, (1, 4, 4, 2)), rng.normal(size=(1, 4, 4, 2)), 1e-5
    _, vjp = jax.vjp(lambda x: spatial_normalization(x, alpha=0.1), jnp.asarray(x, jnp.float32))
    (gradient,) = vjp(jnp.asarray(g, jnp.float32))
    for index in np.ndindex(x.shape):
        values = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            values.append((by_hand(moved, 5, 1.0, 0.1, 0.75) * g).sum())
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[index] == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_the_dtype_of_the_result_is_that_of_the_maps():
    assert spatial_normalization(jnp.ones((1, 3, 3, 2), jnp.bfloat16)).dtype == jnp.bfloat16
