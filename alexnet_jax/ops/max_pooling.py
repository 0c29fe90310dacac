"""Overlapping max-pooling (§3.4) with a derivative written by hand."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# For arrays that a compiler may compute once for the pools and once more for their derivative, with
# sums and products rounded in another way: batch normalization is such a computation.
RECOMPUTED = 2.0**-16


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def max_pooling(x_BHWC: Array, window: int = 3, stride: int = 2, tolerance: float = 0.0) -> Array:
    """Computes the largest value in each pool of `window` x `window` pixels, `stride` pixels apart.

    The pools overlap where stride < window. As in the 2012 code (layer.py:1164) there are
    ceil((n - window) / stride) + 1 pools across n pixels; a pool that extends beyond the right or
    bottom edge takes the largest of the pixels inside, and one that has none inside is left out
    (`pooled_size`). A NaN is the largest value of every pool that it lies in.

    A pixel's gradient is the sum over the pools whose largest value it holds; values that tie each
    get the gradient, as in the 2012 code (conv_util.cu, kLocalMaxUndo).

    Args:
      x_BHWC: (images, rows, columns, maps), of any float dtype.
      window, stride: z and s of §3.4, in pixels.
      tolerance: the fraction by which a pixel may be less than the largest value and still count as
        equal to it in the derivative.

    Returns:
      (images, rows', columns', maps), of the same dtype.
    """
    x = _pad(
        x_BHWC,
        [
            (0, max(0, (pooled_size(n, window, stride) - 1) * stride + window - n))
            for n in x_BHWC.shape[1:3]
        ],
        -jnp.inf,
    )
    # The maximum of strided slices is several times faster on CPUs than a window reduction.
    rows, columns = (n - window + 1 for n in x.shape[1:3])
    slices = (
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(window)
        for j in range(window)
    )
    return functools.reduce(jnp.maximum, slices)


def pooled_size(size: int, window: int, stride: int) -> int:
    """Returns the pixels across after pooling `size` pixels.

    Where stride > window, the last of ceil((size - window) / stride) + 1 pools may begin beyond the
    edge. It would have no largest value, so it is left out, as in other frameworks' ceiling mode.
    """
    pools = -(-max(0, size - window) // stride) + 1
    return pools - 1 if (pools - 1) * stride >= size else pools


def _forward(
    x: Array, window: int, stride: int, tolerance: float
) -> tuple[Array, tuple[Array, Array]]:
    # The derivative compares x with y, so x is rounded to its stored precision: a compiler may
    # otherwise keep more digits of one than of the other.
    precision = jnp.finfo(x.dtype)
    x = jax.lax.reduce_precision(x, precision.nexp, precision.nmant)
    y = max_pooling(x, window, stride, tolerance)
    return y, (x, y)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(
    window: int,
    stride: int,
    tolerance: float,
    residuals: tuple[Array, Array],
    g_BhwC: Array,
) -> tuple[Array]:
    """Gives each pixel the cotangents of the pools whose largest value it holds.

    The pixels of a block of stride x stride lie in the same pools: the one that begins there, and
    those that begin up to (window - 1) // stride blocks before, as far as their window extends. So
    nothing is scattered, unlike in JAX's derivative of a window reduction.
    """
    x, y_BhwC = residuals
    if tolerance:
        y_BhwC *= jnp.where(y_BhwC > 0, 1 - tolerance, 1 + tolerance).astype(y_BhwC.dtype)
    images, height, width, maps = x.shape
    before = (window - 1) // stride
    pooled = y_BhwC.shape[1:3]
    down, across = (max(-(-n // stride), m) for n, m in zip((height, width), pooled, strict=True))
    around = [(before, down - pooled[0]), (before, across - pooled[1])]
    y, g = _pad(y_BhwC, around, jnp.inf), _pad(g_BhwC, around, 0)
    blocks = _pad(x, [(0, down * stride - height), (0, across * stride - width)], 0)
    blocks = blocks.reshape(images, down, stride, across, stride, maps)
    pixel = np.arange(stride)
    compare = jnp.greater_equal if tolerance else jnp.equal
    total = jnp.zeros_like(blocks)
    for i, j in itertools.product(
        range(before + 1), repeat=2
    ):  # i blocks up and j blocks to the left
        rows, columns = slice(before - i, before - i + down), slice(before - j, before - j + across)
        inside = np.outer(pixel + i * stride < window, pixel + j * stride < window)
        largest = compare(blocks, y[:, rows, None, columns, None])
        largest &= inside[None, None, :, None, :, None]
        total += jnp.where(largest, g[:, rows, None, columns, None], jnp.zeros((), g.dtype))
    return (total.reshape(images, down * stride, across * stride, maps)[:, :height, :width],)


max_pooling.defvjp(_forward, _backward)


def _pad(x: Array, around: Sequence[tuple[int, int]], value: float) -> Array:
    """Adds rows and columns with a constant value."""
    return jnp.pad(x, ((0, 0), *around, (0, 0)), constant_values=value)
