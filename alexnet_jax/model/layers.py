"""The layers, from one GPU's point of view (§3.5, Figure 2).

Letters in names: B images, H rows, W columns, I maps (or units) in, O maps (or units) out, T towers
(inside the step, the towers that lie on this device), Y and X rows and columns of places, K
classes.

A layer takes and returns a list with one array for each tower on this device. Where its setting
`reads` is 'all' it calls `exchange` and works on the maps of all towers, otherwise on those of its
own tower. In the paper's net those are conv3, fc6 and fc7; fc8 sums the towers' products.

The dense layers also know what the replicas divide among themselves in their inputs and in their
outputs: the images, or with `mesh.dense='all'` the units (see `Split` in towers.py).
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from alexnet_jax.config import model_schema
from alexnet_jax.model.batch_normalization import BatchNormalization
from alexnet_jax.model.dropout import Masks, dropout, rectify_and_drop
from alexnet_jax.model.layer_table import Row
from alexnet_jax.model.operations import NONLINEARITIES, Operations
from alexnet_jax.model.parameters import (
    Bias,
    Rng,
    Weight,
    for_all_towers,
    for_each_tower,
    gaussian,
)
from alexnet_jax.model.towers import Split, combine, exchange, gather
from alexnet_jax.ops.convolution import (
    convolution,
    convolution_at_test_time,
    unshared_convolution,
)
from alexnet_jax.ops.implementations import Platform

# Added to a layer's number for the masks of its inputs: no layer has such a number.
INPUT_MASKS = 100


class Convolution(nnx.Module):
    """A convolution per tower, and the operations that follow it."""

    def __init__(
        self,
        row: Row,
        model: model_schema.Model,
        *,
        rng: Rng,
        platform: Platform | None = None,
        at_test_time: bool = False,
    ) -> None:
        layer = model.convolutions()[row.name]
        shape = (model.towers, layer.kernel, layer.kernel, row.reads, row.maps)
        bias_TO = np.full((model.towers, row.maps), layer.bias, np.float32)
        self.settings, self.at_test_time = layer, at_test_time
        self.operations = Operations.of_layer(
            layer.then,
            model,
            platform,
            follow_convolution=not layer.batch_normalization,
            follow_normalization=layer.batch_normalization,
        )
        self.kernel_THWIO = for_each_tower(Weight, gaussian(rng, shape, model.initial_std(layer)))
        self.bias_TO = for_each_tower(Bias, bias_TO)
        self.batch_normalization = (
            BatchNormalization(model.towers, row.maps, model.batch_normalization.epsilon)
            if layer.batch_normalization
            else None
        )

    def __call__(self, maps: list[Array], training: bool = False) -> list[Array]:
        """Maps (B, H, W, I) to (B, H', W', O) for each tower on this device."""
        if self.settings.reads == 'all':
            maps = exchange(maps)
        (kernel_THWIO,) = cast_like(maps[0], self.kernel_THWIO)
        convolve = convolution_at_test_time if self.at_test_time else convolution
        sums = [
            convolve(x_BHWI, kernel_THWIO[t], *steps(self.settings))
            for t, x_BHWI in enumerate(maps)
        ]
        if self.batch_normalization is not None:
            sums = self.batch_normalization(sums, training)
        return self.operations(sums, self.bias_TO[...][:, None, None, None])


class UnsharedConvolution(nnx.Module):
    """A convolution with separate weights for each place ('local' in the 2012 code)."""

    def __init__(
        self, row: Row, model: model_schema.Model, *, rng: Rng, platform: Platform | None = None
    ) -> None:
        layer = model.convolutions()[row.name]
        places = (model.towers, row.size, row.size)
        shape = (*places, layer.kernel, layer.kernel, row.reads, row.maps)
        bias_TYXO = np.full((*places, row.maps), layer.bias, np.float32)
        self.settings = layer
        self.operations = Operations.of_layer(layer.then, model, platform)
        self.kernel_TYXHWIO = for_each_tower(Weight, gaussian(rng, shape, model.initial_std(layer)))
        self.bias_TYXO = for_each_tower(Bias, bias_TYXO)

    def __call__(self, maps: list[Array], training: bool = False) -> list[Array]:
        """Maps (B, H, W, I) to (B, Y, X, O) for each tower on this device."""
        del training  # it does the same at test time
        if self.settings.reads == 'all':
            maps = exchange(maps)
        (kernel_TYXHWIO,) = cast_like(maps[0], self.kernel_TYXHWIO)
        sums = [
            unshared_convolution(x_BHWI, kernel_TYXHWIO[t], *steps(self.settings))
            for t, x_BHWI in enumerate(maps)
        ]
        return self.operations(sums, self.bias_TYXO[...][:, None])


class Dense(nnx.Module):
    """A fully-connected layer per tower, its nonlinearity and dropout (§4.2).

    Dropout of the inputs is drawn for the units of each tower before they are exchanged, so that
    all towers read the same ones.
    """

    def __init__(
        self,
        row: Row,
        model: model_schema.Model,
        *,
        rng: Rng,
        platform: Platform | None = None,
        inputs: Split = 'images',
        outputs: Split = 'images',
    ) -> None:
        layer = model.hidden()[row.name]
        self.settings, self.number_of_towers, self.platform = layer, model.towers, platform
        self.number = int(row.name.removeprefix('fc'))  # so that layers have different masks
        self.units, self.inputs, self.outputs = row.maps, inputs, outputs
        self.kernel_TIO, self.bias_TO = dense_parameters(row, model, layer, rng, outputs)

    def __call__(self, units: list[Array], masks: Masks | None) -> list[Array]:
        """Maps (B, I) to (B, O) for each tower on this device, or what the replicas leave of it."""
        layer, towers = self.settings, self.number_of_towers
        kernel_TIO, bias_TO = cast_like(units[0], self.kernel_TIO, self.bias_TO)
        number = INPUT_MASKS + self.number
        units = dropout(units, layer.input_dropout, number, towers, masks, self.inputs)
        units = gather_inputs(units, layer, self.inputs, self.outputs)
        if on_gpu(self.platform):
            return self._side_by_side(units, kernel_TIO, bias_TO, masks)
        nonlinear = NONLINEARITIES[layer.nonlinearity]
        units = [nonlinear(x_BI @ kernel_TIO[t] + bias_TO[t][None]) for t, x_BI in enumerate(units)]
        return dropout(units, layer.dropout, self.number, towers, masks, self.outputs)

    def _side_by_side(
        self, units: list[Array], kernel_TIO: Array, bias_TO: Array, masks: Masks | None
    ) -> list[Array]:
        """Computes the units of all towers on this device in one array, by one product.

        Otherwise XLA copies the weights of each tower out of the array of all towers, and
        concatenates the units of the towers for `exchange`.
        """
        layer, towers_here, towers = self.settings, len(bias_TO), self.number_of_towers
        sums_BU = multiply_side_by_side(units, kernel_TIO) + bias_TO.reshape(-1)[None]
        if masks is None or not layer.dropout or layer.nonlinearity != 'relu':
            outputs = NONLINEARITIES[layer.nonlinearity](sums_BU)
            outputs = jnp.split(outputs, towers_here, axis=-1)
            return dropout(outputs, layer.dropout, self.number, towers, masks, self.outputs)
        mask_BU = masks.draw_side_by_side(
            self.number, towers, self.units, 1 - layer.dropout, self.outputs
        )
        return jnp.split(rectify_and_drop(sums_BU, mask_BU), towers_here, axis=-1)


class Linear(nnx.Module):
    """A fully-connected layer per tower without a nonlinearity, after the hidden layers."""

    def __init__(
        self,
        row: Row,
        model: model_schema.Model,
        *,
        rng: Rng,
        platform: Platform | None = None,
        inputs: Split = 'images',
        outputs: Split = 'images',
    ) -> None:
        layer = model.bottleneck
        self.settings, self.platform = layer, platform
        self.inputs, self.outputs = inputs, outputs
        self.kernel_TIO, self.bias_TO = dense_parameters(row, model, layer, rng, outputs)

    def __call__(self, units: list[Array], masks: Masks | None) -> list[Array]:
        """Maps (B, I) to (B, O) for each tower on this device, or what the replicas leave of it."""
        del masks  # it has no dropout
        kernel_TIO, bias_TO = cast_like(units[0], self.kernel_TIO, self.bias_TO)
        units = gather_inputs(units, self.settings, self.inputs, self.outputs)
        if on_gpu(self.platform):
            sums_BU = multiply_side_by_side(units, kernel_TIO) + bias_TO.reshape(-1)[None]
            return jnp.split(sums_BU, len(units), axis=-1)
        return [x_BI @ kernel_TIO[t] + bias_TO[t][None] for t, x_BI in enumerate(units)]


class Output(nnx.Module):
    """The layer before the softmax, which sums the partial products of all towers."""

    def __init__(
        self,
        row: Row,
        model: model_schema.Model,
        *,
        rng: Rng,
        platform: Platform | None = None,
        inputs: Split = 'images',
    ) -> None:
        layer = model.fc8
        shape = (model.towers, row.reads, row.maps)
        self.settings, self.platform, self.inputs = layer, platform, inputs
        kernel_TIK = gaussian(rng, shape, model.initial_std(layer))
        self.kernel_TIK = for_each_tower(Weight, kernel_TIK, inputs, axis=1)
        self.bias = for_all_towers(Bias, np.full((row.maps,), layer.bias, np.float32))

    def __call__(self, units: list[Array]) -> Array:
        """Maps (B, I) for each tower on this device to logits (B, K), equal for all towers."""
        (kernel_TIK,) = cast_like(units[0], self.kernel_TIK)
        multiply = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        if on_gpu(self.platform):  # one product sums over the units of all towers on this device
            kernel_TIK = kernel_TIK.reshape(1, -1, kernel_TIK.shape[-1])
            units = [jnp.concatenate(units, axis=-1)]
        products = [multiply(x_BI, kernel_TIK[t]) for t, x_BI in enumerate(units)]
        return combine(products, self.inputs) + self.bias[...][None]


def dense_parameters(
    row: Row, model: model_schema.Model, layer: model_schema.Linear, rng: Rng, outputs: Split
) -> tuple[Any, Any]:
    """Makes the initial weights, (T, I, O), and biases, (T, O), of a dense layer.

    Args:
      row: the sizes of the layer.
      model, layer: the settings of the net and of the layer.
      rng: draws the weights.
      outputs: what the replicas divide in the outputs.
    """
    kernel_TIO = gaussian(rng, (model.towers, row.reads, row.maps), model.initial_std(layer))
    bias_TO = np.full((model.towers, row.maps), layer.bias, np.float32)
    return for_each_tower(Weight, kernel_TIO, outputs), for_each_tower(Bias, bias_TO, outputs)


def gather_inputs(
    units: list[Array], layer: model_schema.Linear, inputs: Split, outputs: Split
) -> list[Array]:
    """Returns what a dense layer multiplies by its weights, for each tower on this device.

    Args:
      units: the inputs that are on this device.
      layer: the settings of the layer.
      inputs, outputs: what the replicas divide in the inputs and in the outputs.
    """
    if outputs == 'units':  # computed for all images
        return gather(units, inputs, all_towers=layer.reads == 'all')
    return exchange(units) if layer.reads == 'all' else units


def on_gpu(platform: Platform | None) -> bool:
    """Returns whether the program is compiled for GPUs; None stands for JAX's default platform."""
    return Platform.or_default(platform).name == 'gpu'


def multiply_side_by_side(units: list[Array], kernel_TIO: Array) -> Array:
    """Multiplies the units of each tower by its weights, in one product with a batch of towers.

    Args:
      units: (B, I) for each tower on this device.
      kernel_TIO: the weights of these towers, of the same dtype.

    Returns:
      (B, T * O): the sums of these towers, tower after tower, of the same dtype.
    """
    x_BI = units[0]
    if all(x is x_BI for x in units):  # as `exchange` returns them
        x_TBI = jnp.broadcast_to(x_BI[None], (len(units), *x_BI.shape))
    else:
        x_TBI = jnp.stack(units)
    sums_TBO = x_TBI @ kernel_TIO
    return sums_TBO.transpose(1, 0, 2).reshape(len(x_BI), -1)


def steps(layer: model_schema.Convolution) -> tuple[int, int, bool]:
    """Returns the arguments of `convolution` after the arrays."""
    return layer.stride, layer.padding, layer.extra_padding


def cast_like(x: Array, *params: nnx.Variable) -> list[Array]:
    """Casts parameters to the dtype of the activations that they are combined with."""
    return [param[...].astype(x.dtype) for param in params]
