"""Overlapping max-pooling (§3.4)."""

import functools

import jax
import jax.numpy as jnp
from jax import Array


@functools.partial(jax.jit, static_argnums=(1, 2))
def max_pooling(x_BHWC: Array, window: int = 3, stride: int = 2) -> Array:
    """The largest value in each window of `window` x `window` pixels, `stride` pixels apart.

    The pools overlap where stride < window. As in the 2012 code (layer.py:1164) there are
    ceil((n - window) / stride) + 1 of them across n pixels; one that hangs over the right or bottom
    edge takes the largest of what is there. Written as a maximum of strided slices because its
    gradient is several times faster on CPU than that of a window reduction; where values tie, the
    gradient is shared among them.

    Args:
      x_BHWC: (images, rows, columns, maps).

    Returns:
      (images, rows', columns', maps), of the same dtype.
    """
    rows, columns = (pooled_size(n, window, stride) for n in x_BHWC.shape[1:3])
    missing = [
        max(0, (out - 1) * stride + window - n)
        for out, n in zip((rows, columns), x_BHWC.shape[1:3], strict=True)
    ]
    x = jnp.pad(
        x_BHWC, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), constant_values=-jnp.inf
    )
    slices = (
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(window)
        for j in range(window)
    )
    return functools.reduce(jnp.maximum, slices)


def pooled_size(size: int, window: int, stride: int) -> int:
    """Pixels across after pooling `size` pixels."""
    return -(-max(0, size - window) // stride) + 1
