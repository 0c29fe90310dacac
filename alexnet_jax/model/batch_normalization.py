"""Batch normalization (Ioffe and Szegedy, 2015), which a config may use in place of §3.3.

In training, each map is normalized by its mean and variance over the batch and all pixels. The
running averages of these over the steps are used at test time. They lie beside the parameters, so
that they are placed and saved with them, but they have no gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from alexnet_jax.model import towers
from alexnet_jax.model.parameters import Average, Bias, for_each_tower


class BatchNormalization(nnx.Module):
    """Normalizes the sums of a convolution with shared weights; the layer's bias comes after it."""

    def __init__(self, number_of_towers: int, maps: int, epsilon: float) -> None:
        shape = (number_of_towers, maps)
        self.epsilon = epsilon
        self.scale_TO = for_each_tower(Bias, np.ones(shape, np.float32))
        self.average_mean_TO = for_each_tower(Average, np.zeros(shape, np.float32))
        self.average_variance_TO = for_each_tower(Average, np.ones(shape, np.float32))

    def __call__(self, sums: list[Array], training: bool) -> list[Array]:
        """Normalizes (B, H, W, O) for each tower on this device.

        In training, the averages are set to the moments of this batch; `update_averages` then
        combines them with the averages before.
        """
        mean_TO, variance_TO = self.average_mean_TO[...], self.average_variance_TO[...]
        if training:
            batch_moments = [moments(x_BHWO) for x_BHWO in sums]
            mean_TO, variance_TO = (jnp.stack(x) for x in zip(*batch_moments, strict=True))
            self.average_mean_TO[...], self.average_variance_TO[...] = mean_TO, variance_TO
        scale_TO = self.scale_TO[...]
        return [
            normalize(x_BHWO, mean_TO[t], variance_TO[t], scale_TO[t], self.epsilon)
            for t, x_BHWO in enumerate(sums)
        ]


def moments(x_BHWO: Array) -> tuple[Array, Array]:
    """Computes mean and variance of each map over the batch on all data shards; (O,) float32."""
    x_BHWO = x_BHWO.astype(jnp.float32)
    axes = (0, 1, 2)
    shards = jax.lax.axis_size(towers.DATA)
    mean_O = towers.total_over_data(x_BHWO.mean(axes)) / shards
    square = jnp.square(x_BHWO - mean_O[None, None, None])
    return mean_O, towers.total_over_data(square.mean(axes)) / shards


def normalize(x_BHWO: Array, mean_O: Array, variance_O: Array, scale_O: Array, eps: float) -> Array:
    """Computes scale (x - mean) / sqrt(variance + eps), in the dtype of x."""
    factor_O = scale_O * jax.lax.rsqrt(variance_O + eps)
    x = (x_BHWO.astype(jnp.float32) - mean_O[None, None, None]) * factor_O[None, None, None]
    return x.astype(x_BHWO.dtype)


def update_averages(
    params: dict[str, Any], batch_moments: dict[str, Any], memory: float
) -> dict[str, Any]:
    """Moves the running averages toward the moments of a batch.

    Args:
      params: nested dict of arrays.
      batch_moments: nested dict with the averages' entries of `params` alone; empty for a net
        without batch normalization.
      memory: the fraction of the averages that stays.

    Returns:
      `params` with the averages replaced.
    """
    updates = {
        name: update_averages(params[name], value, memory)
        if isinstance(value, dict)
        else memory * params[name] + (1 - memory) * value
        for name, value in batch_moments.items()
    }
    return params | updates
