"""The eight layers, from one GPU's point of view (§3.5, Figure 2).

Letters in names: B images, H rows, W columns, I maps (or units) in, O maps (or units) out, T towers
(inside the step, the towers that live on this device), K classes.

A layer takes and returns a list with one array per tower on this device. Where its settings say
reads='all' it reads `exchange(...)`, the maps of all towers; else its own tower's alone. In the
paper's net those are conv3, fc6 and fc7; in fc8 the towers' products are summed.
"""

from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from alexnet_jax.config import schema
from alexnet_jax.model.dropout import Masks
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.model.layers import Convolution, Hidden, Output, Rng
from alexnet_jax.model.towers import shown_to_all

# What a net holds: what is learned, and what batch normalization remembers for test time.
HELD = nnx.Any(nnx.Param, nnx.BatchStat)


class AlexNet(nnx.Module):
    """The towers that live on one device, in step with those that do not."""

    def __init__(self, config: schema.Config, *, rng: Rng) -> None:
        model = config.model
        self.dtype, self.convolutions = model.dtype, tuple(model.convolutions())
        self.hiddens = tuple(model.hidden())
        for row in layer_table(config):
            if row.name in self.convolutions:
                setattr(self, row.name, Convolution(row, model, rng=rng))
            elif row.name in self.hiddens:
                setattr(self, row.name, Hidden(row, model, rng=rng))
            else:
                self.fc8 = Output(model, row.reads, config.dataset.classes, rng=rng)

    def __call__(self, images_BHWC: Array, masks: 'Masks | None' = None) -> Array:
        """Class scores.

        Args:
          images_BHWC: float32 images, mean subtracted, on the scale of 0 to 255.
          masks: where training draws its dropout masks from; None at test time.

        Returns:
          (B, K) float32 logits, the same for all towers.
        """
        return self.fc8(self.hidden(images_BHWC, masks))

    def hidden(self, images_BHWC: Array, masks: 'Masks | None' = None) -> list[Array]:
        """What fc8 reads: for each tower here (B, units), as `__call__` has them."""
        towers_here = len(self.fc8.kernel_TIK[...])
        maps = shown_to_all(images_BHWC.astype(self.dtype), towers_here)
        for name in self.convolutions:
            maps = getattr(self, name)(maps, training=masks is not None)
        units = [x.reshape(len(x), -1) for x in maps]
        for name in self.hiddens:
            units = getattr(self, name)(units, masks)
        return units


def initialize(config: schema.Config) -> dict[str, Any]:
    """The initial parameters: nested dict of float32 arrays on the host, a function of the seed.

    Weights are Gaussian with mean 0, biases constant (§5). Every array but fc8's bias begins with
    the axis of towers.
    """
    net = AlexNet(config, rng=np.random.default_rng(config.seed))
    return nnx.to_pure_dict(nnx.state(net, HELD))


def shapes(config: schema.Config) -> dict[str, Any]:
    """The shapes and dtypes of the parameters."""
    return nnx.to_pure_dict(nnx.state(_abstract(config), HELD))


def graph(config: schema.Config) -> nnx.GraphDef[AlexNet]:
    """The net without its parameters, for `apply`."""
    return nnx.split(_abstract(config))[0]


def _abstract(config: schema.Config) -> AlexNet:
    return nnx.eval_shape(lambda: AlexNet(config, rng=None))


def apply(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, masks: Masks | None = None
) -> Array:
    """`AlexNet.__call__` as a pure function of the parameters on this device."""
    return nnx.merge(graph, params)(images_BHWC, masks)


def apply_training(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, masks: Masks
) -> tuple[Array, dict[str, Any]]:
    """`apply` in training, and what batch normalization has seen of this batch.

    Returns:
      The logits, and like `params` the moments of the layers that have batch normalization.
    """
    net = nnx.merge(graph, params)
    logits_BK = net(images_BHWC, masks)
    return logits_BK, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))


def apply_hidden(graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array) -> list[Array]:
    """`AlexNet.hidden` at test time, as a pure function of the parameters on this device."""
    return nnx.merge(graph, params).hidden(images_BHWC)
