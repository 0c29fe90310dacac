"""Response normalization (§3.3) of the maps of a pixel, in float32, within a kernel for TPUs.

The sum over a window of maps adds shifted loads of the squares from a small buffer with zeros
around them. By count (TPU v5e, scheduled instructions) that is faster than the product with a
matrix of zeros and ones, which must be exact in float32, and than shifting registers.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.ops.formula import Formula
from alexnet_jax.ops.tpu.pools import SUBLANES


def buffer_rows(maps: int, formula: Formula) -> int:
    """Returns the rows of a buffer: the maps, and zeros before and after them."""
    return -(-maps // SUBLANES) * SUBLANES + 2 * _margin(formula.before + formula.after)


def _margin(neighbours: int) -> int:
    return neighbours // SUBLANES * SUBLANES + SUBLANES


def normalize(
    x: Array, formula: Formula | None, buffers: Any, number: int
) -> tuple[Array, Callable[[Array], Array]]:
    """Normalizes a pixel's maps, (maps, images), in float32, with the buffer of this number.

    Returns:
      The normalized values, and the function that maps their cotangent to that of x.
    """
    if formula is None:
        return x.astype(jnp.float32), lambda g: g
    r = x.astype(jnp.float32)
    if formula.rectify:
        r = jnp.maximum(r, 0.0)
    squares = _window_sum(r * r, formula.before, formula.after, buffers, number)
    power, inverse = _powers(squares, formula, x.dtype)

    def pull_back(g: Array) -> Array:
        scaled = g * power
        inner = scaled * r * inverse
        mirrored = _window_sum(inner, formula.after, formula.before, buffers, number)
        dr = scaled - (2 * formula.alpha * formula.beta) * (r * mirrored)
        return jnp.where(r > 0, dr, 0.0) if formula.rectify else dr

    return r * power, pull_back


def _powers(squares: Array, formula: Formula, dtype: Any) -> tuple[Array, Array]:
    """Computes S^-beta and 1 / S from the sum of the squares in a window.

    A TPU refines its approximate roots and reciprocals by ten operations each, but not its
    logarithms and exponentials, which are precise enough for bfloat16.
    """
    denominator = formula.k + formula.alpha * squares
    if dtype == jnp.float32 and formula.beta == 0.75:
        root = jax.lax.rsqrt(denominator)
        return root * jnp.sqrt(root), root * root
    logarithm = jnp.log(denominator)
    inverse = 1 / denominator if dtype == jnp.float32 else jnp.exp(-logarithm)
    return jnp.exp(-formula.beta * logarithm), inverse


def _window_sum(values: Array, before: int, after: int, buffers: Any, number: int) -> Array:
    """Sums, for each map i, the values of maps i - before to i + after, clipped at the edges."""
    maps, first = len(values), _margin(before + after)
    buffer = buffers.at[number]
    buffer[first : first + maps] = values
    shifted = (buffer[first + i : first + i + maps] for i in range(-before, after + 1))
    return functools.reduce(operator.add, shifted)
