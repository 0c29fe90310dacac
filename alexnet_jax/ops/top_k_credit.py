"""Top-k credit, shared between labels that tie (2012: layer_kernels.cu:96)."""

import jax.numpy as jnp
from jax import Array


def credit(scores_BK: Array, labels_B: Array, top: int) -> Array:
    """Computes how far each image's label is among the `top` highest scores.

    Labels that tie for the last places share the credit (2012: layer_kernels.cu:96), so that
    constant scores get the credit of guessing. NaN scores count as wrong.

    Args:
      scores_BK: (B, K), of any float dtype.
      labels_B: (B,) int32.
      top: the number of places that count.

    Returns:
      (B,) float32, from 0 to 1.
    """
    own = jnp.take_along_axis(scores_BK, labels_B[:, None], axis=1)
    above = (scores_BK > own).sum(axis=1)
    equal = (scores_BK == own).sum(axis=1)
    places = jnp.clip(top - above, 0, equal)
    return places.astype(jnp.float32) / jnp.maximum(equal, 1).astype(jnp.float32)
