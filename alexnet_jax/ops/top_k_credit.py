"""Top-k credit, shared between labels that tie (2012: layer_kernels.cu:96)."""

import jax.numpy as jnp
from jax import Array


def credit(scores_BK: Array, labels_B: Array, top: int) -> Array:
    """Which images have their label among the `top` highest scores; (B,) float32 of 0 to 1.

    Labels that tie for the last places share them (2012: layer_kernels.cu:96), so constant scores
    earn what guessing would. Scores that are no numbers earn nothing.
    """
    own = jnp.take_along_axis(scores_BK, labels_B[:, None], axis=1)
    above = (scores_BK > own).sum(axis=1)
    equal = (scores_BK == own).sum(axis=1)
    places = jnp.clip(top - above, 0, equal)
    return places.astype(jnp.float32) / jnp.maximum(equal, 1).astype(jnp.float32)
