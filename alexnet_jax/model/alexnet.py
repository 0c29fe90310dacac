"""AlexNet: eight layers in two towers (§3.5, Figure 2)."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from alexnet_jax.config import schema
from alexnet_jax.model import parameters, towers
from alexnet_jax.model.dropout import Masks
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.model.layers import Convolution, Dense, Linear, Output, UnsharedConvolution
from alexnet_jax.model.parameters import Rng
from alexnet_jax.ops.implementations import Platform

# The arrays of a net: its parameters, and the averages of batch normalization.
ARRAYS = nnx.Any(nnx.Param, nnx.BatchStat)


class AlexNet(nnx.Module):
    """The towers on one device, which meet those on other devices in `exchange` and `combine`.

    It is called inside a shard_map over the mesh of towers.py; model/net.py has a net that can be
    called from anywhere.

    Args:
      config: the settings of a run.
      rng: the source of initial weights; None leaves them zero.
      platform: the platform that the program is compiled for; None for JAX's default.
      at_test_time: whether convolutions are computed in the form for test time (see
        `ops.convolution.convolution_at_test_time`), whose derivative would be slow.
    """

    def __init__(
        self,
        config: schema.Config,
        *,
        rng: Rng,
        platform: Platform | None = None,
        at_test_time: bool = False,
    ) -> None:
        model = config.model
        self.dtype = model.dtype
        self.convolutions, self.dense_layers = tuple(model.convolutions()), tuple(model.dense())
        # What the replicas divide: the images, up to the first layer whose units they divide.
        inputs: towers.Split = 'images'
        outputs: towers.Split = 'units' if config.mesh.dense == 'all' else 'images'
        for row in layer_table(config):
            options: dict[str, Any] = dict(rng=rng, platform=platform)
            if row.name in self.convolutions:
                if model.convolutions()[row.name].shared:
                    layer = Convolution(row, model, **options, at_test_time=at_test_time)
                else:
                    layer = UnsharedConvolution(row, model, **options)
                setattr(self, row.name, layer)
            elif row.name in self.dense_layers:
                kind = Linear if row.name == 'bottleneck' else Dense
                layer = kind(row, model, **options, inputs=inputs, outputs=outputs)
                setattr(self, row.name, layer)
                inputs = outputs
            else:
                self.fc8 = Output(row, model, **options, inputs=inputs)

    def __call__(self, images_BHWC: Array, masks: Masks | None = None) -> Array:
        """Computes the logits.

        Args:
          images_BHWC: (B, crop, crop, 3) float32, as `augmentation.take_view` returns them: mean
            subtracted, on the scale of 0 to 255 unless the settings have deviations.
          masks: draws the dropout masks in training; None at test time.

        Returns:
          (B, K) float32 logits, equal for all towers.
        """
        return self.classify(self.convolve(images_BHWC, training=masks is not None), masks)

    def convolve(self, images_BHWC: Array, *, training: bool) -> list[Array]:
        """Returns the inputs of the dense layers, (B, units) for each tower on this device."""
        maps = self._maps(images_BHWC, training)
        return [x.reshape(x.shape[0], -1) for x in maps]

    def classify(self, units: list[Array], masks: Masks | None) -> Array:
        """Computes the logits from what `convolve` returns, or from some of its images."""
        units = self._units(units, masks)
        with jax.named_scope('fc8'):
            return self.fc8(units)

    def hidden(self, images_BHWC: Array, layer: str | None = None) -> list[Array]:
        """Computes the outputs of a layer at test time, for each tower on this device.

        Args:
          images_BHWC: as for `__call__`.
          layer: the name of the layer; None for the last one before fc8.

        Returns:
          (B, units) for a fully-connected layer, (B, H, W, maps) for a convolution and the
          operations that follow it, for each tower.
        """
        if layer in self.convolutions:
            return self._maps(images_BHWC, training=False, last=layer)
        units = self._units(self.convolve(images_BHWC, training=False), None, layer)
        return towers.return_images(units) if self.fc8.inputs == 'units' else units

    def _maps(self, images_BHWC: Array, training: bool, last: str | None = None) -> list[Array]:
        """Computes the outputs of a convolutional layer, by default the last one."""
        # The scopes put each layer's name into the metadata of the compiled program, for profilers
        # and for the counts of benchmarks/compile_for.py.
        towers_here = len(self.fc8.kernel_TIK[...])
        maps = towers.show_to_all(images_BHWC.astype(self.dtype), towers_here)
        for name in self.convolutions:
            with jax.named_scope(name):
                maps = getattr(self, name)(maps, training=training)
            if name == last:
                break
        return maps

    def _units(
        self, units: list[Array], masks: Masks | None, last: str | None = None
    ) -> list[Array]:
        """Computes the outputs of a dense layer before fc8, by default the last one."""
        for name in self.dense_layers:
            with jax.named_scope(name):
                units = getattr(self, name)(units, masks)
            if name == last:
                break
        return units


def initialize(config: schema.Config) -> dict[str, Any]:
    """Returns the initial parameters, which depend on the settings alone.

    Weights are Gaussian with mean 0, biases constant (§5).

    Returns:
      A nested dict of float32 arrays on the host. Every array but the bias of fc8 begins with the
      axis of towers.
    """
    net = AlexNet(config, rng=np.random.default_rng(config.seed))
    return nnx.to_pure_dict(nnx.state(net, ARRAYS))


def shapes(config: schema.Config) -> dict[str, Any]:
    """Returns the shapes and dtypes of the parameters, as a nested dict like `initialize`."""
    return nnx.to_pure_dict(nnx.state(_abstract(config), ARRAYS))


@functools.cache
def parameter_info(config: schema.Config) -> dict[str, Any]:
    """Describes the parameters: a nested dict like `initialize`, of ParameterInfo."""
    return parameters.parameter_info(_abstract(config))


def partitions(config: schema.Config, mesh: Mesh) -> dict[str, Any]:
    """Returns how the parameters are sharded: a nested dict like `initialize`, of PartitionSpec."""
    return jax.tree.map(lambda info: towers.partition(mesh, *info.axes), parameter_info(config))


def graph(
    config: schema.Config, mesh: Mesh | None = None, at_test_time: bool = False
) -> nnx.GraphDef[AlexNet]:
    """Returns the net without its parameters, for `apply`.

    Args:
      config: the settings of a run.
      mesh: the devices that the program is compiled for; None for JAX's default.
      at_test_time: as for `AlexNet`.
    """
    platform = None if mesh is None else Platform.of_devices(mesh.devices.flat)
    return nnx.split(_abstract(config, platform, at_test_time))[0]


def _abstract(
    config: schema.Config, platform: Platform | None = None, at_test_time: bool = False
) -> AlexNet:
    return nnx.eval_shape(
        lambda: AlexNet(config, rng=None, platform=platform, at_test_time=at_test_time)
    )


def apply(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, masks: Masks | None = None
) -> Array:
    """Computes `AlexNet.__call__` as a pure function of the parameters on this device."""
    return nnx.merge(graph, params)(images_BHWC, masks)


def apply_training(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, masks: Masks
) -> tuple[Array, dict[str, Any]]:
    """Computes `apply` in training, and the batch's moments for batch normalization.

    Returns:
      The logits, and a nested dict like `params` with only the averages of batch normalization,
      which are the moments of this batch.
    """
    net = nnx.merge(graph, params)
    logits_BK = net(images_BHWC, masks)
    return logits_BK, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))


def apply_convolutions(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array
) -> tuple[list[Array], dict[str, Any]]:
    """Computes `AlexNet.convolve` in training, and the batch's moments as `apply_training`."""
    net = nnx.merge(graph, params)
    units = net.convolve(images_BHWC, training=True)
    return units, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))


def apply_dense(
    graph: nnx.GraphDef[AlexNet], params: Any, units: list[Array], masks: Masks
) -> Array:
    """Computes `AlexNet.classify` in training, as a pure function of the parameters."""
    return nnx.merge(graph, params).classify(units, masks)


def apply_hidden(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, layer: str | None = None
) -> list[Array]:
    """Computes `AlexNet.hidden` at test time, as a pure function of the parameters."""
    return nnx.merge(graph, params).hidden(images_BHWC, layer=layer)
