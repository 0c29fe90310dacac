"""Local response normalization (§3.3): the formula, its derivative by hand, and who computes it.

    b^i = a^i / S_i^beta,   S_i = k + alpha * sum_{j in window(i)} (a^j)^2

The window is `size` adjacent maps around map i, clipped at the first and last map given: a tower
normalizes over its own maps alone. `alpha` multiplies the sum as the paper prints it; the 2012 code
divides it by the size (layer.py:1183), which is the caller's to do.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def response_normalization(
    x: Array, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> Array:
    """Normalizes each activation by its neighbours in the last axis.

    Args:
      x: (..., maps), any float dtype.
      size: n, the number of adjacent maps; from i - size // 2 on.
      k, alpha, beta: the constants of the paper.

    Returns:
      An array like `x`. The derivative saves `x` alone and computes S again.
    """
    return x * _power(_denominator(x, size, k, alpha), -beta)


def _forward(x: Array, size: int, k: float, alpha: float, beta: float) -> tuple[Array, Array]:
    return response_normalization(x, size, k, alpha, beta), x


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _backward(
    size: int, k: float, alpha: float, beta: float, x: Array, cotangent: Array
) -> tuple[Array]:
    """dx_j = g_j S_j^-beta - 2 alpha beta x_j sum_{i : j in window(i)} g_i x_i S_i^(-beta - 1)."""
    x, cotangent = jax.lax.optimization_barrier((x, cotangent))
    denominator = _denominator(x, size, k, alpha)
    scaled = cotangent * _power(denominator, -beta)
    inner = scaled * x / denominator
    # j is in the window of i where i is in the mirrored window of j.
    mirrored = _window_sum(inner, before=size - 1 - size // 2, after=size // 2)
    return (scaled - 2 * alpha * beta * x * mirrored,)


response_normalization.defvjp(_forward, _backward)


def _denominator(x: Array, size: int, k: float, alpha: float) -> Array:
    return k + alpha * _window_sum(x * x, before=size // 2, after=size - 1 - size // 2)


def _window_sum(x: Array, before: int, after: int) -> Array:
    """Sums over `before` maps to the left, the map itself and `after` to the right."""
    maps = x.shape[-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
    return sum(padded[..., i : i + maps] for i in range(1, before + 1 + after)) + padded[..., :maps]


def _power(x: Array, exponent: float) -> Array:
    """x ** exponent; the paper's -3/4 by two reciprocal roots, which are several times faster."""
    if exponent == -0.75:
        root = jax.lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**exponent
