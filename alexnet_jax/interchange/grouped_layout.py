"""The layout of a grouped PyTorch net: the towers as groups of convolutions (§3.2, §3.5).

A convolution that reads the maps of its own tower is a convolution with one group per tower, and
the maps of all towers lie one after the other. The arrays are named and shaped as in a PyTorch net
with modules of these names:

    convN.weight        (O of all towers, I of one group, kernel, kernel)
    convN.bias          (O of all towers,); a layer with batch normalization has bnN in its place
    bnN.weight, bnN.bias, bnN.running_mean, bnN.running_var   (O of all towers,)
    fcN.weight, bottleneck.weight   (O of all towers, I of all towers)
    fcN.bias, bottleneck.bias       (O of all towers,)
    fc8.weight, fc8.bias            (K, I of all towers), (K,)

The inputs of the first fully-connected layer are in the order maps, rows, columns, as PyTorch
flattens (B, maps, rows, columns). A fully-connected layer that reads its own tower alone has zeros
for the other towers' inputs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.model.layer_table import FIRST, layer_table
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.user_errors import UserError

# The arrays of batch normalization: the name in our layout, and that in PyTorch's BatchNorm2d.
_AVERAGES = {
    'scale_TO': 'weight',
    'average_mean_TO': 'running_mean',
    'average_variance_TO': 'running_var',
}


@dataclasses.dataclass(frozen=True)
class _Dense:
    """A fully-connected layer.

    Attributes:
      inputs: (towers, rows, columns, maps) of the inputs that one tower reads.
      units: outputs of one tower; for fc8 the classes.
      is_block_diagonal: whether each of several towers reads its own units alone.
    """

    inputs: tuple[int, int, int, int]
    units: int
    is_block_diagonal: bool


def groups(config: schema.Config) -> dict[str, int]:
    """Returns the number of groups of each convolutional layer, by name, in order."""
    return {
        name: config.model.towers if layer.reads == 'own' and name != FIRST else 1
        for name, layer in config.model.convolutions().items()
    }


def batch_normalization_name(convolution: str) -> str:
    """Returns the name of the batch normalization after a convolution: 'bn1' after 'conv1'."""
    return f'bn{convolution.removeprefix("conv")}'


def shapes(config: schema.Config) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays in the grouped layout, by name, in order.

    Raises:
      UserError: the net has a layer that this layout cannot express.
    """
    model, towers = config.model, config.model.towers
    rows, number_of_groups = {row.name: row for row in layer_table(config)}, groups(config)
    result: dict[str, tuple[int, ...]] = {}
    maps_in = 3
    for name, layer in model.convolutions().items():
        if not layer.shared:
            raise UserError(
                f'{name} has separate weights for each place (model.{name}.shared=False), which '
                'neither the PyTorch module nor ONNX can express: use --format=safetensors or '
                'stablehlo'
            )
        maps = towers * rows[name].maps
        weight = (maps, maps_in // number_of_groups[name], layer.kernel, layer.kernel)
        result[f'{name}.weight'] = weight
        if layer.batch_normalization:
            norm = batch_normalization_name(name)
            for key in ('weight', 'bias', 'running_mean', 'running_var'):
                result[f'{norm}.{key}'] = (maps,)
        else:
            result[f'{name}.bias'] = (maps,)
        maps_in = maps
    for name, dense in _dense_layers(config).items():
        inputs = int(np.prod(dense.inputs[1:])) * towers
        units = dense.units * (1 if name == 'fc8' else towers)
        result |= {f'{name}.weight': (units, inputs), f'{name}.bias': (units,)}
    return result


def dropout_factors(config: schema.Config) -> dict[str, float]:
    """Returns by how much dropout multiplies the inputs of each layer at test time (§4.2).

    Returns:
      The factors of the fully-connected layers by name, without those that are 1.
    """
    model, rate, factors = config.model, 0.0, {}
    for name in model.dense():
        hidden = model.hidden().get(name)
        factors[name] = (1 - rate) * (1 - hidden.input_dropout if hidden else 1)
        rate = hidden.dropout if hidden else 0.0
    factors['fc8'] = 1 - rate
    return {name: factor for name, factor in factors.items() if factor != 1}


def to_grouped(config: schema.Config, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts parameters to the grouped layout.

    Args:
      config: the settings of the net.
      params: nested dict of arrays, as `alexnet.initialize` returns it.

    Returns:
      Arrays of the same dtype with the names and shapes of `shapes`; `from_grouped` converts them
      back bit by bit.

    Raises:
      UserError: the net has a layer that this layout cannot express.
    """
    names, result = shapes(config), {}
    for name, layer in config.model.convolutions().items():
        arrays = params[name]
        weight_TOIHW = np.asarray(arrays['kernel_THWIO']).transpose(0, 4, 3, 1, 2)
        result[f'{name}.weight'] = _join_towers(weight_TOIHW)
        owner = name
        if layer.batch_normalization:
            owner = batch_normalization_name(name)
            for ours, theirs in _AVERAGES.items():
                result[f'{owner}.{theirs}'] = _join_towers(arrays['batch_normalization'][ours])
        result[f'{owner}.bias'] = _join_towers(arrays['bias_TO'])
    for name, dense in _dense_layers(config).items():
        arrays = params[name]
        if name == 'fc8':
            kernel_TIK = np.asarray(arrays['kernel_TIK'])
            towers, _, classes = kernel_TIK.shape
            _, *pixels, maps = dense.inputs
            weight_KTCHW = kernel_TIK.reshape(towers, *pixels, maps, classes).transpose(
                4, 0, 3, 1, 2
            )
            result['fc8.weight'] = np.ascontiguousarray(weight_KTCHW.reshape(classes, -1))
            result['fc8.bias'] = np.ascontiguousarray(arrays['bias'])
        else:
            result[f'{name}.weight'] = _dense_weight(np.asarray(arrays['kernel_TIO']), dense)
            result[f'{name}.bias'] = _join_towers(arrays['bias_TO'])
    return {name: result[name] for name in names}


def from_grouped(config: schema.Config, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts arrays in the grouped layout to parameters of a net.

    Args:
      config: the settings of the net.
      arrays: arrays with the names and shapes of `shapes`.

    Returns:
      A nested dict as `alexnet.initialize` returns it.

    Raises:
      UserError: the net has a layer that this layout cannot express; names or shapes are not those
        of the net; or the weights of a layer whose towers read their own units alone are not zero
        for the units of other towers.
    """
    _check_shapes(shapes(config), arrays)
    towers, result = config.model.towers, {}
    for name, layer in config.model.convolutions().items():
        weight_TOIHW = _split_towers(arrays[f'{name}.weight'], towers)
        owner = batch_normalization_name(name) if layer.batch_normalization else name
        params: dict[str, Any] = {
            'kernel_THWIO': np.ascontiguousarray(weight_TOIHW.transpose(0, 3, 4, 2, 1)),
            'bias_TO': _split_towers(arrays[f'{owner}.bias'], towers),
        }
        if layer.batch_normalization:
            params['batch_normalization'] = {
                ours: _split_towers(arrays[f'{owner}.{theirs}'], towers)
                for ours, theirs in _AVERAGES.items()
            }
        result[name] = params
    for name, dense in _dense_layers(config).items():
        weight, bias = arrays[f'{name}.weight'], arrays[f'{name}.bias']
        if name == 'fc8':
            _, *pixels, maps = dense.inputs
            weight_KTCHW = weight.reshape(dense.units, towers, maps, *pixels)
            kernel_TIK = weight_KTCHW.transpose(1, 3, 4, 2, 0).reshape(towers, -1, dense.units)
            result['fc8'] = {'kernel_TIK': np.ascontiguousarray(kernel_TIK), 'bias': bias.copy()}
        else:
            result[name] = {
                'kernel_TIO': _dense_kernel(name, weight, dense, towers),
                'bias_TO': _split_towers(bias, towers),
            }
    return result


def _dense_layers(config: schema.Config) -> dict[str, _Dense]:
    """Returns the fully-connected layers by name, fc8 included, in order."""
    model, towers = config.model, config.model.towers
    rows, result, size, maps = layer_table(config), {}, config.augmentation.crop, 3
    convolutions, dense_layers = model.convolutions(), model.dense()
    for row in rows:
        if row.name in convolutions:
            size, maps = row.pooled, row.maps
            continue
        reads_all = row.name in dense_layers and dense_layers[row.name].reads == 'all'
        is_block_diagonal = not reads_all and row.name != 'fc8' and towers > 1
        inputs = (towers if reads_all else 1, size, size, maps)
        result[row.name] = _Dense(inputs, row.maps, is_block_diagonal)
        size, maps = 1, row.maps
    return result


def _dense_weight(kernel_TIO: np.ndarray, dense: _Dense) -> np.ndarray:
    """Returns the (O of all towers, I of all towers) weight of a layer."""
    towers, _, units = kernel_TIO.shape
    weight_TOSCHW = kernel_TIO.reshape(towers, *dense.inputs, units).transpose(0, 5, 1, 4, 2, 3)
    blocks_TOI = weight_TOSCHW.reshape(towers, units, -1)
    if not dense.is_block_diagonal:
        return _join_towers(blocks_TOI)
    weight_TOSI = np.zeros((towers, units, towers, blocks_TOI.shape[2]), kernel_TIO.dtype)
    for tower, block_OI in enumerate(blocks_TOI):
        weight_TOSI[tower, :, tower] = block_OI
    return weight_TOSI.reshape(towers * units, -1)


def _dense_kernel(name: str, weight: np.ndarray, dense: _Dense, towers: int) -> np.ndarray:
    """Returns the (T, I, O) kernel of a layer from its weight; the inverse of `_dense_weight`."""
    sources, rows, columns, maps = dense.inputs
    if dense.is_block_diagonal:
        weight_TOSI = weight.reshape(towers, dense.units, towers, -1)
        between = weight_TOSI.transpose(0, 2, 1, 3)[~np.eye(towers, dtype=bool)]
        if between.any():
            raise UserError(
                f'{name}.weight connects each tower to the units of the others, which '
                f"model.{name}.reads='own' excludes: set it to 'all'"
            )
        blocks_TOI = np.stack([weight_TOSI[tower, :, tower] for tower in range(towers)])
    else:
        blocks_TOI = _split_towers(weight, towers)
    weight_TOSCHW = blocks_TOI.reshape(towers, dense.units, sources, maps, rows, columns)
    kernel_TSHWCO = weight_TOSCHW.transpose(0, 2, 4, 5, 3, 1)
    return np.ascontiguousarray(kernel_TSHWCO.reshape(towers, -1, dense.units))


def _join_towers(array_TO: Any) -> np.ndarray:
    """Joins the axes of towers and outputs, (T, O, ...) to (T * O, ...)."""
    array_TO = np.asarray(array_TO)
    joined = array_TO.reshape(array_TO.shape[0] * array_TO.shape[1], *array_TO.shape[2:])
    return np.ascontiguousarray(joined)


def _split_towers(array: np.ndarray, towers: int) -> np.ndarray:
    """Splits the axis of outputs, (T * O, ...) to (T, O, ...)."""
    return np.ascontiguousarray(array.reshape(towers, -1, *array.shape[1:]))


def _check_shapes(expected: Mapping[str, tuple], arrays: Mapping[str, np.ndarray]) -> None:
    missing = [name for name in expected if name not in arrays]
    if missing:
        raise UserError(f'the weights lack {list_names(missing)}, which the settings have')
    unknown = [name for name in arrays if name not in expected]
    if unknown:
        raise UserError(f'the weights have {list_names(unknown)}, which the settings do not have')
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(
                f'{name} has the shape {arrays[name].shape}, but the settings need {shape}'
            )
