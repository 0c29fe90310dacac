"""The update rule with momentum (§5) for many small arrays at once, by a kernel for GPUs.

training/small_updates.py says which arrays it updates, and by which rules. The specification is
`paper_momentum` in training/optimizer.py, which updates these arrays on all other devices.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.ops.implementations import Platform, kernel_agrees
from alexnet_jax.ops.triton.rules import Rule


def update(
    params: Sequence[Array],
    velocities: Sequence[Array],
    gradients: Sequence[Array],
    rules: Sequence[Rule],
    hyperparameters: Array,
    momentum: float,
    interpret: bool = False,
) -> tuple[list[Array], list[Array]]:
    """Applies the rules to arrays by the kernel, in place.

    Args:
      params, velocities, gradients: float32 arrays, convolution kernels (T, H, W, I, O) or biases
        with fewer axes.
      rules: for each array, how it is updated.
      hyperparameters: (n,) float32, with the learning rates that the rules name.
      momentum: the factor of the velocity.
      interpret: whether the CPU interprets the kernel, which is slow.

    Returns:
      The new parameters and the new velocities, of the same shapes.
    """
    from alexnet_jax.ops.triton import momentum as kernel  # only GPUs need it

    return kernel.update(
        params, velocities, gradients, rules, hyperparameters, momentum, interpret=interpret
    )


@functools.cache
def kernel_works(platform: Platform) -> bool:
    """Returns whether the kernel compiles and agrees with the formula; tries it once."""
    fallback = 'convolution kernels and biases are updated without the kernel'
    return kernel_agrees(platform, fallback, _updated, _updated_by_formula, (2, 3, 3, 20, 40))


_RULE_OF_CHECK = Rule(decay=0.5, rate=0, factor=2.0, may_freeze=False)


def _updated(w: Array, **options: Any) -> Array:
    """Applies _RULE_OF_CHECK by the kernel; velocity and gradient are w in other orders."""
    w = jax.lax.stop_gradient(w)
    rates = jnp.full(1, 0.25, w.dtype)
    (new_w,), (new_v,) = update(
        [w], [w[::-1]], [w[:, ::-1]], [_RULE_OF_CHECK], rates, momentum=0.5, **options
    )
    return jnp.stack([new_w, new_v])


def _updated_by_formula(w: Array) -> Array:
    """Computes the same as `_updated` in plain JAX."""
    w = jax.lax.stop_gradient(w)
    new_v = 0.5 * w[::-1] - 2 * 0.25 * (w[:, ::-1] + 0.5 * w)
    return jnp.stack([w + new_v, new_v])
