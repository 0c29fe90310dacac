"""The spatial normalization of the 2012 code, which the paper leaves out: over pixels, not maps.

It follows response normalization at layer 2 (layers-145.cfg, cnorm2a; 'type=rnorm'):

    b(y, x) = a(y, x) / (k + alpha sum_{window around (y, x)} a^2)^beta

for each map separately, with the window clipped at the borders. `alpha` multiplies the sum; the
2012 code's scale of 0.001 is divided by the window's 25 pixels (layer.py:1183), which gives 4e-5.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def spatial_normalization(
    x_BHWC: Array, size: int = 5, k: float = 1.0, alpha: float = 4e-5, beta: float = 0.75
) -> Array:
    """Normalizes each activation by the size x size pixels around it, of the same map.

    Args:
      x_BHWC: (images, rows, columns, maps), float32 or bfloat16; the arithmetic is float32.
      size: pixels across the window, from y - size // 2 on.
      k, alpha, beta: the constants.

    Returns:
      An array like `x_BHWC`.
    """
    a = x_BHWC.astype(jnp.float32)
    total = _window_sum(_window_sum(a * a, size, axis=1), size, axis=2)
    return (a * (k + alpha * total) ** -beta).astype(x_BHWC.dtype)


def _window_sum(x: Array, size: int, axis: int) -> Array:
    before = size // 2
    around = [(0, 0)] * x.ndim
    around[axis] = (before, size - 1 - before)
    padded, pixels = jnp.pad(x, around), x.shape[axis]
    parts = (jax.lax.slice_in_dim(padded, i, i + pixels, axis=axis) for i in range(size))
    return functools.reduce(jnp.add, parts)
