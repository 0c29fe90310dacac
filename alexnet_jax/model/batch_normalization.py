"""Batch normalization (Ioffe and Szegedy, 2015), where a config puts it in place of §3.3.

In training each map is normalized by its mean and variance over the whole batch and all places;
what was seen so is averaged over the steps, for test time. These averages lie beside the
parameters, so that they are placed and saved with them, but have no gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.model import towers

MEAN, VARIANCE = 'average_mean_TO', 'average_variance_TO'


def moments(x_BHWO: Array) -> tuple[Array, Array]:
    """Mean and variance of each map over the batch, on all devices that share it; (O,) float32."""
    x_BHWO = x_BHWO.astype(jnp.float32)
    axes = (0, 1, 2)
    shares = jax.lax.axis_size(towers.DATA)
    mean_O = towers.total_over_data(x_BHWO.mean(axes)) / shares
    square = jnp.square(x_BHWO - mean_O[None, None, None])
    return mean_O, towers.total_over_data(square.mean(axes)) / shares


def normalize(x_BHWO: Array, mean_O: Array, variance_O: Array, scale_O: Array, eps: float) -> Array:
    """scale (x - mean) / sqrt(variance + eps), of x's dtype; the layer's bias comes after it."""
    factor_O = scale_O * jax.lax.rsqrt(variance_O + eps)
    x = (x_BHWO.astype(jnp.float32) - mean_O[None, None, None]) * factor_O[None, None, None]
    return x.astype(x_BHWO.dtype)


def remember(params: dict[str, Any], seen: dict[str, Any], memory: float) -> dict[str, Any]:
    """The parameters with the averages moved toward what a step has seen.

    Args:
      seen: like `params`, with what is averaged alone; empty for a net without this layer.
      memory: share of the averages that stays.
    """
    return params | {
        layer: params[layer]
        | {name: memory * params[layer][name] + (1 - memory) * x for name, x in now.items()}
        for layer, now in seen.items()
    }
