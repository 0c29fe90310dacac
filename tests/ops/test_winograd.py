import jax
import numpy as np
import pytest

import reference
from alexnet_jax.ops import winograd


def arrays(kernel, maps_in=64):
    """Returns activations after a ReLU, and weights."""
    rng = np.random.default_rng(kernel)
    x = np.maximum(rng.normal(size=(2, kernel + 5, kernel + 9, maps_in)), 0).astype(np.float32)
    return x, rng.normal(size=(kernel, kernel, maps_in, 8)).astype(np.float32)


def error(actual, expected):
    """Returns the largest difference, in units of the largest value."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


def definition(x, w):
    """Computes the convolution from its definition, in float64."""
    return reference.convolution(x, w, np.zeros(w.shape[-1]), 1, ((0, 0), (0, 0)), groups=1)


@pytest.mark.parametrize(('kernel', 'tolerance'), [(3, 1e-6), (5, 3e-6)])
def test_rounding_errors_are_small(kernel, tolerance):
    x, w = arrays(kernel)
    expected = definition(x, w)
    assert expected.shape == (2, 6, 10, 8)
    assert error(winograd.convolution(x, w), expected) < tolerance


@pytest.mark.parametrize('kernel', winograd.KERNELS)
def test_derivative_is_the_transpose(kernel):
    """A convolution is linear in each argument, so unit arguments give its derivative."""
    x, w = arrays(kernel, maps_in=2)
    y, vjp = jax.vjp(winograd.convolution, x, w)
    g = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    d_x, d_w = vjp(g)
    rng = np.random.default_rng(2)
    for shape, gradient, place in ((x.shape, d_x, 0), (w.shape, d_w, 1)):
        for _ in range(20):
            unit = np.zeros(shape, np.float32)
            index = tuple(rng.integers(n) for n in shape)
            unit[index] = 1
            expected = np.vdot(definition(*((unit, w) if place == 0 else (x, unit))), g)
            np.testing.assert_allclose(gradient[index], expected, rtol=1e-4, atol=1e-4)


def test_counts_its_multiplications():
    assert winograd.multiplications(2, 2, 3) == 16  # by the definition 36
    assert winograd.multiplications(2, 2, 5) == 36  # by the definition 100
    assert winograd.multiplications(13, 13, 3) == 49 * 16  # 13 pixels are 7 tiles
