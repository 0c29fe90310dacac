"""Dropout (§4.2), with masks that do not depend on where a tower or an image lies."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.model.towers import DATA, Split, own_part


@dataclasses.dataclass(frozen=True)
class Masks:
    """Draws the dropout masks of one training step.

    A mask depends on the key, the layer, the tower and the image, and not on the mesh.

    Attributes:
      key: the random key of this training step.
      images: the number of images in the batch on all devices.
      first, every: the sub-batch that masks are drawn for: of the images on this device the one
        with the number `first`, and each one that follows it by a multiple of `every`.
    """

    key: Array
    images: int
    first: int = 0
    every: int = 1

    def draw(
        self, layer: int, towers: int, units: int, keep: float, split: Split = 'images'
    ) -> Array:
        """Draws the masks of a layer for the towers and images, or units, on this device.

        Every device draws for all towers and the entire batch and takes its part. Each number
        depends only on its place, so what is not taken is not computed.

        Args:
          layer: the layer's number, so that layers have different masks.
          towers: the number of towers on all devices.
          units: the number of units per tower, on all replicas.
          keep: the probability of True.
          split: what the replicas divide among themselves.

        Returns:
          (towers here, images here, units) or (towers here, images, units here) bool.
        """
        return self._own(self._draw(layer, keep, (towers, self.images, units)), split)

    def draw_side_by_side(
        self, layer: int, towers: int, units: int, keep: float, split: Split = 'images'
    ) -> Array:
        """Draws the same masks as `draw`, and concatenates those of the towers on this device.

        Args:
          layer, towers, units, keep, split: as for `draw`.

        Returns:
          (images here, towers here * units) or (images, towers here * units here) bool.
        """
        # Each number depends only on its index in the flattened array. For an array of one
        # dimension, XLA does not store these indices: the step on a GPU has two launches fewer.
        masks_N = self._draw(layer, keep, (towers * self.images * units,))
        masks_TBO = self._own(masks_N.reshape(towers, self.images, units), split)
        return jnp.concatenate([*masks_TBO], axis=-1)

    def _own(self, masks_TBO: Array, split: Split) -> Array:
        own = own_part(masks_TBO, split)
        return own if self.every == 1 else own[:, self.first :: self.every]

    def _draw(self, layer: int, keep: float, shape: tuple[int, ...]) -> Array:
        key = jax.random.fold_in(self.key, layer)
        # In float32 also where JAX computes with 64 bits (JAX_ENABLE_X64): the same masks in both.
        return jax.random.bernoulli(key, jnp.float32(keep), shape)


def dropout(
    units: list[Array],
    rate: float,
    layer: int,
    towers: int,
    masks: Masks | None,
    split: Split = 'images',
) -> list[Array]:
    """Sets each unit to 0 with probability `rate` in training; scales by 1 - rate at test time.

    PyTorch divides by 1 - rate in training instead, and leaves the units as they are at test time:
    its weights of the next layer are 1 - rate times as large as ours.

    Args:
      units: for each tower here, (images here, units) or (images, units here).
      rate: the probability that a unit is dropped.
      layer: the layer's number, so that layers have different masks.
      towers: the number of towers on all devices.
      masks: draws the masks in training; None at test time.
      split: what the replicas divide in `units`.
    """
    if rate == 0:
        return units
    if masks is None:
        return [x * (1 - rate) for x in units]
    replicas = jax.lax.axis_size(DATA) if split == 'units' else 1
    masks_TBO = masks.draw(layer, towers, units[0].shape[1] * replicas, 1 - rate, split)
    return [
        jnp.where(mask_BO, x, jnp.zeros((), x.dtype))
        for mask_BO, x in zip(masks_TBO, units, strict=True)
    ]


@jax.custom_vjp
def rectify_and_drop(x: Array, mask: Array) -> Array:
    """Computes ReLU (§3.1), and sets units to 0 where their mask is False (§4.2).

    The derivative is 1 where the result is positive and 0 elsewhere, so the backward pass reads
    the result alone, and neither the mask nor x.

    Args:
      x: the sums of products and biases, (images, units) of any float dtype.
      mask: the dropout mask, bool, of the same shape.

    Returns:
      The units, of the shape and the dtype of x.
    """
    zero = jnp.zeros((), x.dtype)
    return jnp.where(mask, jnp.maximum(x, zero), zero)


def _forward(x: Array, mask: Array) -> tuple[Array, Array]:
    y = rectify_and_drop(x, mask)
    return y, y


def _backward(y: Array, g: Array) -> tuple[Array, None]:
    return jnp.where(y > 0, g, jnp.zeros((), g.dtype)), None


rectify_and_drop.defvjp(_forward, _backward)
