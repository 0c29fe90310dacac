"""Local response normalization (§3.3): its constants, and what several kernels compute alike."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Formula(NamedTuple):
    """The constants of §3.3, and whether the operation normalizes max(x, 0) in place of x.

    Attributes:
      size: n, the number of adjacent maps in a window.
      k, alpha, beta: the constants; `alpha` multiplies the sum of squares.
      rectify: whether a ReLU comes first.
    """

    size: int
    k: float
    alpha: float
    beta: float
    rectify: bool

    @property
    def before(self) -> int:
        """The number of maps in a window that precede its own map."""
        return self.size // 2

    @property
    def after(self) -> int:
        """The number of maps in a window that follow its own map."""
        return self.size - 1 - self.before


# The paper's constants after a ReLU, with which kernels are tried before they are used.
PAPER = Formula(5, 2.0, 1e-4, 0.75, rectify=True)

# What one tower of the paper normalizes, (rows, columns, maps) per image, for tests and benchmarks.
SHAPES = {'conv1': (55, 55, 48), 'conv2': (27, 27, 128)}

# Pixels across a pool: the mask of the kernel that normalizes and pools has one bit of an int32 for
# each pixel of a window.
LARGEST_WINDOW = 5


def add_bias(x: Array, bias: Array | None) -> Array:
    """Adds a bias, rounded to the dtype of x, before an operation; None adds nothing."""
    return x if bias is None else x + bias.astype(x.dtype)


# The elementwise parts of the kernels that Mosaic compiles, for TPUs and GPUs, in float32.


def activations(x: Array, formula: Formula) -> Array:
    """Returns the activations r, which are x or max(x, 0)."""
    x = x.astype(jnp.float32)
    # A NaN stays, which jnp.maximum would not promise in every compiler for kernels.
    return jnp.where(x < 0, 0.0, x) if formula.rectify else x


def powers(squares: Array, formula: Formula) -> tuple[Array, Array]:
    """Computes S^-beta and 1 / S from the sum of the squares in a window."""
    denominator = formula.k + formula.alpha * squares
    if formula.beta == 0.75:
        root = jax.lax.rsqrt(denominator)
        # The square root of `root` by a second reciprocal root, one instruction on GPUs and TPUs.
        return root * (root * jax.lax.rsqrt(root)), root * root
    return jnp.exp(-formula.beta * jnp.log(denominator)), 1 / denominator


def derivative(r: Array, scaled: Array, mirrored: Array, formula: Formula) -> Array:
    """Computes dx from g S^-beta and the mirrored window's sum of g r S^(-beta - 1)."""
    d_r = scaled - (2 * formula.alpha * formula.beta) * (r * mirrored)
    return jnp.where(r > 0, d_r, 0.0) if formula.rectify else d_r
