import jax
import numpy as np
import pytest

import reference
from alexnet_jax.ops import winograd
from devices import run


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


@pytest.mark.parametrize(('kernel', 'tile'), [(3, 5), (5, 3)])
def test_rounding_errors_of_large_tiles_are_small(kernel, tile):
    """They are up to ten times those of a float32 convolution, whose error here is 3e-7."""
    rng = np.random.default_rng(kernel)
    shape = (2, 2 * tile + kernel - 1, 3 * tile + kernel - 1, 64)
    x = np.maximum(rng.normal(size=shape), 0).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, 64, 8)).astype(np.float32)
    assert winograd.outputs_of_large_tile(kernel) == tile
    y = run(winograd.convolution_in_large_tiles, x, w)
    assert y.shape == (2, 2 * tile, 3 * tile, 8)
    assert error(y, definition(x, w)) < 5e-6


@pytest.mark.parametrize('rows', [1, 12, 18])
def test_large_tiles_are_the_same_in_groups_of_images(monkeypatch, rows):
    """Six tiles an image and six images: in groups of one, two and three images."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 12, 17, 16)).astype(np.float32)
    w = rng.normal(size=(3, 3, 16, 4)).astype(np.float32)
    monkeypatch.setattr(winograd, '_MOST_ROWS', rows)
    in_groups = run(lambda x, w: winograd.convolution_in_large_tiles(x, w), x, w)
    assert error(in_groups, definition(x, w)) < 5e-6


def test_groups_have_equal_sizes():
    assert winograd._divisor(32, 4) == 4
    assert winograd._divisor(30, 4) == 3
    assert winograd._divisor(31, 30) == 1
    assert winograd._divisor(4, 56) == 4
    assert winograd._divisor(8, 0) == 1  # one image alone has more tiles than wanted


def test_counts_its_multiplications():
    assert winograd.multiplications(2, 2, 3) == 16  # by the definition 36
    assert winograd.multiplications(2, 2, 5) == 36  # by the definition 100
    assert winograd.multiplications(13, 13, 3) == 49 * 16  # 13 pixels are 7 tiles
    assert winograd.multiplications_in_large_tiles(13, 13, 3) == 9 * 49  # or 3 large ones
    assert winograd.multiplications_in_large_tiles(27, 27, 5) == 81 * 49
