"""Weights of another program in the grouped layout, and how they become parameters of our net.

In training, Caffe and PyTorch divide the units that dropout keeps by 1 - rate; at test time they
change nothing. Our net, like the 2012 code, multiplies all units by 1 - rate at test time (§4.2).
Therefore the weights that read such units are divided by 1 - rate on import, which is exact for a
rate of 0.5.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.interchange import grouped_layout
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.user_errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The arrays of a file of weights.

    Attributes:
      path: the file.
      arrays: in the grouped layout (grouped_layout.py), of any float dtype; conv1 reads red, green
        and blue in this order. They may be views of the file.
      names: the names of the arrays in the file, for messages.
      recipe: the config that describes this net; '' if the file does not say.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    names: Mapping[str, str]
    recipe: str

    @property
    def classes(self) -> int:
        """The number of classes of the net."""
        weight = self.arrays.get('fc8.weight')
        if weight is None:
            raise UserError(
                f'{printable(str(self.path))} has no last layer, {self.names["fc8.weight"]}: only '
                'all layers of an AlexNet can be imported'
            )
        return len(weight)


def to_params(weights: Weights, config: schema.Config) -> dict[str, Any]:
    """Converts weights to the parameters of a net.

    Args:
      weights: the arrays of a file.
      config: the settings of the net.

    Returns:
      A nested dict of float32 arrays as `alexnet.initialize` returns it; what is too large for
      float32 is infinite.

    Raises:
      UserError: an array is missing, or has another shape.
    """
    arrays = {name: np.asarray(array) for name, array in weights.arrays.items()}
    expected = grouped_layout.shapes(config)
    check_names(weights, config)
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(
                f'{printable(weights.names[name])} in {printable(str(weights.path))} has the shape '
                f'{arrays[name].shape}, but the net of the config has {shape}: '
                f'{_advice(name, arrays, config, expected)}'
            )
    # What is not finite, or too large for float32, is refused when the net is complete.
    with np.errstate(over='ignore', invalid='ignore'):
        for name, factor in grouped_layout.dropout_factors(config).items():
            weight = _own_float32(arrays[f'{name}.weight'])
            arrays[f'{name}.weight'] = weight / np.float32(factor)
        return jax.tree.map(_own_float32, grouped_layout.from_grouped(config, arrays))


def _own_float32(array: np.ndarray) -> np.ndarray:
    """Returns a native float32 array that can be written to: no view of a file, and aligned."""
    return np.require(array, np.float32, ['C', 'A', 'W'])


def check_names(weights: Weights, config: schema.Config) -> None:
    """Checks that a file has the layers of a net.

    Raises:
      UserError: an array is missing, or the net has no such array.
    """
    expected = grouped_layout.shapes(config)
    missing = [weights.names.get(name, name) for name in expected if name not in weights.arrays]
    if missing:
        raise UserError(
            f'{printable(str(weights.path))} lacks {list_names(missing, 4)}, which the net of the '
            'config has: choose the --config of the net that these weights belong to'
        )
    unknown = [weights.names[name] for name in weights.arrays if name not in expected]
    if unknown:
        raise UserError(
            f'{printable(str(weights.path))} has {list_names(unknown, 4)}, which the net of the '
            'config lacks: choose the --config of the net that these weights belong to'
        )


def _advice(
    name: str,
    arrays: Mapping[str, np.ndarray],
    config: schema.Config,
    expected: Mapping[str, tuple[int, ...]],
) -> str:
    """Returns what to change where the shape of an array is not that of the net."""
    layer, _, kind = name.partition('.')
    actual, needed, model = arrays[name].shape, expected[name], config.model
    other = 'choose another --config, or change'
    if name == 'fc8.weight' and actual[1:] == needed[1:]:
        return 'leave --config.dataset.classes out, which follows from the weights'
    if len(actual) != len(needed) or kind != 'weight':
        return 'choose the --config of the net that these weights belong to'
    if actual[0] != needed[0]:
        width = _width(arrays, config)
        if width is not None:
            return f'pass --config.model.width={width:g}'
        size = 'units' if layer in model.dense() else 'maps'
        return f'{other} --config.model.{layer}.{size} or --config.model.towers'
    if actual[2:] != needed[2:]:
        return f'{other} --config.model.{layer}.kernel'
    if layer in model.convolutions():
        return f'{other} --config.model.{layer}.reads or --config.model.towers'
    return f'{other} the sizes before it: --config.augmentation.crop, strides, padding or pooling'


def _width(arrays: Mapping[str, np.ndarray], config: schema.Config) -> float | None:
    """Returns the width at which all layers have as many maps as in the file; None for none."""
    model = config.model
    layers = {name: layer.maps for name, layer in model.convolutions().items()}
    layers |= {name: layer.units for name, layer in model.dense().items()}
    outputs = {name: len(arrays[f'{name}.weight']) for name in layers}
    largest = max(layers, key=lambda name: layers[name])
    width = outputs[largest] / (model.towers * layers[largest])
    if not 0.001 <= width <= 64:
        return None
    at_width = dataclasses.replace(model, width=float(f'{width:g}'))
    sizes = {name: model.towers * at_width.scale_to_width(maps) for name, maps in layers.items()}
    return at_width.width if sizes == outputs else None
