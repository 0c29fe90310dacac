"""The batch scheme: all layers are updated once in a step, or dense layers once per sub-batch.

The second is that of "One weird trick for parallelizing convolutional neural networks"
(Krizhevsky, 2014): the convolutions compute the whole batch once. The dense layers then pass over
its sub-batches in turn, and each pass begins with the parameters that the last one has left. The
gradient of the convolutions is the mean over all sub-batches.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.dropout import Masks
from alexnet_jax.ops.top_k_credit import softmax_cross_entropy
from alexnet_jax.training.state import State

ApplyTraining = Callable[[Any, Array, Masks], tuple[Array, Any]]
# From a state and gradients to the parameters and the velocities after the update.
Update = Callable[[State, Any], tuple[Any, Any]]


class Result(NamedTuple):
    """The results of a step on one device.

    Attributes:
      params, velocity: those after the step; averages of batch normalization are as before it.
      moments: nested dict of this batch's moments, for these averages.
      loss: the mean over the batch, nats.
      logits_BK: of the images on this device.
    """

    params: Any
    velocity: Any
    moments: Any
    loss: Array
    logits_BK: Array


class BatchScheme(Protocol):
    """Computes a step on one device from its images, (B, crop, crop, 3), and labels, (B,)."""

    def __call__(
        self, state: State, views_BHWC: Array, labels_B: Array, masks: Masks, update: Update
    ) -> Result:
        """Returns the results of the step; `masks` has the number of images on all devices."""
        ...


def update_once(net: ApplyTraining) -> BatchScheme:
    """Returns the scheme of the paper: one gradient of the whole batch, and one update.

    Args:
      net: computes logits and moments from parameters, images and masks.
    """

    def scheme(
        state: State, views_BHWC: Array, labels_B: Array, masks: Masks, update: Update
    ) -> Result:
        def loss(params: Any) -> tuple[Array, tuple[Array, Any]]:
            params = towers.replicate_over_data(params)
            logits_BK, moments = net(params, views_BHWC, masks)
            return _mean_loss(logits_BK, labels_B, masks.images), (logits_BK, moments)

        differentiate = jax.value_and_grad(loss, has_aux=True)
        (value, (logits_BK, moments)), gradients = differentiate(state.params)
        with jax.named_scope('update'):
            params, velocity = update(state, gradients)
        return Result(params, velocity, moments, value, logits_BK)

    return scheme


def update_by_sub_batches(config: Config, graph: nnx.GraphDef[alexnet.AlexNet]) -> BatchScheme:
    """Returns the scheme of 2014, with `optimizer.dense_updates` passes over the dense layers.

    Sub-batch i of n has the images i, i + n, i + 2 n and so on: on every mesh an equal part of the
    images of each device.

    Args:
      config: the settings of the run.
      graph: the net.
    """
    number = config.optimizer.dense_updates
    convolutions = tuple(config.model.convolutions())

    def scheme(
        state: State, views_BHWC: Array, labels_B: Array, masks: Masks, update: Update
    ) -> Result:
        def convolve(params: Any) -> tuple[list[Array], Any]:
            return alexnet.apply_convolutions(graph, towers.replicate_over_data(params), views_BHWC)

        units, pull_back, moments = jax.vjp(convolve, state.params, has_aux=True)

        def loss(params: Any, units: list[Array], i: int) -> tuple[Array, Array]:
            params = towers.replicate_over_data(params)
            own_masks = dataclasses.replace(masks, first=i, every=number)
            logits_BK = alexnet.apply_dense(graph, params, units, own_masks)
            return _mean_loss(logits_BK, labels_B[i::number], masks.images // number), logits_BK

        differentiate = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        losses, logits, gradients_of_units, dense = [], [], [], state
        for i in range(number):
            own_units = [x[i::number] for x in units]
            (value, logits_BK), (gradients, own_gradients) = differentiate(
                dense.params, own_units, i
            )
            with jax.named_scope('update'):
                dense = State(state.step, *update(dense, gradients))
            losses.append(value)
            logits.append(logits_BK)
            gradients_of_units.append(own_gradients)
        means = [_in_order(parts) / number for parts in zip(*gradients_of_units, strict=True)]
        (gradients,) = pull_back(means)
        with jax.named_scope('update'):
            updated = State(state.step, *update(state, gradients))
        params, velocity = (
            _choose_layers(convolutions, own, other)
            for own, other in ((updated.params, dense.params), (updated.velocity, dense.velocity))
        )
        return Result(params, velocity, moments, jnp.stack(losses).mean(), _in_order(logits))

    return scheme


def _mean_loss(logits_BK: Array, labels_B: Array, images: int) -> Array:
    """Computes the mean loss over so many images, those of all devices."""
    with jax.named_scope('loss'):
        losses = softmax_cross_entropy(logits_BK, labels_B)
        return towers.total_over_data(losses.sum()) / images


def _in_order(parts: Sequence[Array]) -> Array:
    """Joins arrays of sub-batches, so that the images are in the order of the batch."""
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _choose_layers(layers: Sequence[str], own: Any, other: Any) -> Any:
    """Takes the arrays of some layers from one tree, and those of the others from another."""

    def choose(path: Any, x: Array, y: Array) -> Array:
        return x if any(getattr(key, 'key', None) in layers for key in path) else y

    return jax.tree_util.tree_map_with_path(choose, own, other)
