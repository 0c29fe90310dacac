"""Dropout (§4.2), with masks that do not depend on where a tower or an image lives."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.model.towers import own_part


@dataclasses.dataclass(frozen=True)
class Masks:
    """Draws dropout masks that depend on the key, layer, tower and image; not on where they are.

    Attributes:
      key: of this training step.
      images: in the whole batch.
    """

    key: Array
    images: int

    def draw(self, layer: int, towers: int, units: int, keep: float) -> Array:
        """(towers here, images here, units) bool, True with probability `keep`.

        Every device draws for the whole net and batch and takes its part; each number follows from
        its place alone, so what is not taken is not computed.
        """
        key = jax.random.fold_in(self.key, layer)
        everywhere = jax.random.bernoulli(key, keep, (towers, self.images, units))
        return own_part(everywhere)


def dropout(
    units: list[Array], rate: float, layer: int, towers: int, masks: Masks | None
) -> list[Array]:
    """Each output zero with probability `rate` in training, times 1 - rate at test (§4.2).

    Args:
      units: for each tower here, (images here, units).
      layer: its number, so that layers do not share masks.
      towers: in the whole net.
    """
    if rate == 0:
        return units
    if masks is None:
        return [x * (1 - rate) for x in units]
    drawn = masks.draw(layer, towers, units[0].shape[1], 1 - rate)
    return [
        jnp.where(mask, x, jnp.zeros((), x.dtype)) for mask, x in zip(drawn, units, strict=True)
    ]
