"""Caffe's nets: layout, colours and settings, compared with those of our net.

Each group of a convolution is a tower. Caffe's nets take images in the order blue, green, red;
therefore the first kernels and the mean image are reversed here.

Sources: BVLC/caffe, models/bvlc_alexnet and models/bvlc_reference_caffenet (the two nets differ in
the order of normalization and pooling), src/caffe/layers/lrn_layer.cpp (alpha is divided by the
number of maps; the maps of all groups are normalized together), src/caffe/layers/pooling_layer.cpp.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.config.model_schema import Model
from alexnet_jax.interchange import grouped_layout
from alexnet_jax.interchange.incoming import caffe_file
from alexnet_jax.interchange.incoming.caffe_file import Layer, Net
from alexnet_jax.interchange.incoming.weights import Weights, check_names
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.ops.convolution import convolved_size
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError

# The mean colour that Caffe's users subtract where they have no mean image: red, green, blue. In
# models/bvlc_reference_caffenet/train_val.prototxt the order is blue, green, red.
MEAN_COLOUR = (123.0, 117.0, 104.0)

_NORMALIZE_FIRST, _POOL_FIRST = 'bvlc_alexnet', 'bvlc_reference_caffenet'
# A fully-connected layer that was trained anew has a new name in Caffe, such as fc8_flickr.
_LAYER = re.compile(r'(conv[1-6])|(fc[678])(?:[^0-9].*)?', re.DOTALL)
_OPERATIONS = {
    'ReLU': 'relu',
    'TanH': 'tanh',
    'LRN': 'response_normalization',
    'Pooling': 'max_pooling',
}


def read_weights(path: Path) -> tuple[Weights, Net]:
    """Reads a .caffemodel.

    Returns:
      Its arrays, and the net for `check_settings`.

    Raises:
      UserError: the file cannot be read, is damaged, or has no AlexNet.
    """
    net = caffe_file.read_net(path)
    layers: dict[str, Layer] = {}
    for layer in net.layers:
        if not layer.blobs:
            continue
        match = _LAYER.fullmatch(layer.name)
        name = (match[1] or match[2]) if match else ''
        if not name or name in layers:
            reason = 'a second time' if name else 'which no AlexNet has'
            raise UserError(
                f'{printable(str(path))} has the layer {printable(layer.name)} with weights, '
                f'{reason}: only nets with the layers conv1 to conv5 and fc6 to fc8 can be imported'
            )
        layers[name] = layer
    arrays: dict[str, np.ndarray] = {}
    for name, layer in layers.items():
        arrays |= _arrays(path, name, layer)
    names = {f'{name}.weight': layer.name for name, layer in layers.items()}
    names |= {f'{name}.bias': f'the bias of {layer.name}' for name, layer in layers.items()}
    names.setdefault('fc8.weight', 'fc8')
    return Weights(path, arrays, names, _recipe(net)), net


def read_mean(path: Path, size: int) -> np.ndarray:
    """Reads a mean image.

    Args:
      path: a .binaryproto file with one array.
      size: pixels across the images of the net.

    Returns:
      (size, size, 3) float32, red, green, blue.

    Raises:
      UserError: the file cannot be read, is damaged, or has another size.
    """
    blob = caffe_file.read_blob(path)
    shape = blob.shape
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if shape != (3, size, size):
        raise UserError(
            f'{printable(str(path))} has the shape {blob.shape}, but the images of this net have '
            f'(3, {size}, {size}): give the mean image of that size, or change '
            '--config.dataset.image_size'
        )
    blob_CHW = blob.reshape(shape)[::-1]
    with np.errstate(over='ignore', invalid='ignore'):  # such values are refused
        mean_HWC = np.require(blob_CHW.transpose(1, 2, 0), np.float32, ['C', 'A', 'W'])
    if not (mean_HWC.min() >= 0 and mean_HWC.max() <= 255):
        raise UserError(
            f'{printable(str(path))} has values outside of 0 to 255, which no mean of images has: '
            'give another file'
        )
    return mean_HWC


def check_settings(weights: Weights, net: Net, config: schema.Config) -> None:
    """Compares what a .caffemodel says about its layers with the settings of our net.

    Raises:
      UserError: something differs; old files do not state everything.
    """
    check_names(weights, config)
    hint = f'; the recipe of this net is {weights.recipe}' if weights.recipe else ''
    for problem in _problems(net, config):
        raise UserError(f'{printable(str(weights.path))}: {problem}{hint}')


def _recipe(net: Net) -> str:
    """Returns the recipe of a net by the order of its layers or its name; '' if neither says."""
    for layer in net.layers:
        if layer.type in ('LRN', 'Pooling'):
            return _NORMALIZE_FIRST if layer.type == 'LRN' else _POOL_FIRST
    name = net.name.lower()
    return _POOL_FIRST if 'caffenet' in name else _NORMALIZE_FIRST if 'alexnet' in name else ''


def _arrays(path: Path, name: str, layer: Layer) -> dict[str, np.ndarray]:
    """Returns the weights and biases of a layer in the grouped layout, red, green and blue."""
    axes = 4 if name.startswith('conv') else 2
    weight, *biases = layer.blobs
    if len(biases) > 1:
        raise UserError(
            f'{printable(layer.name)} in {printable(str(path))} has {len(layer.blobs)} arrays, but '
            'an AlexNet has weights and biases alone: only such nets can be imported'
        )
    shape = weight.shape
    while len(shape) > axes and shape[0] == 1:  # old files have four sizes for every array
        shape = shape[1:]
    weight = weight.reshape(shape)
    if name == 'conv1' and weight.ndim == axes:
        weight = weight[:, ::-1]
    bias = biases[0] if biases else np.zeros(shape[:1], np.float32)
    if bias.size == max(bias.shape, default=1):
        bias = bias.reshape(-1)
    return {f'{name}.weight': weight, f'{name}.bias': bias}


def _problems(net: Net, config: schema.Config) -> Iterator[str]:
    """Yields a line for each difference between a net's layers and the settings."""
    model, name = config.model, ''
    groups, after = grouped_layout.groups(config), {}
    for layer in net.layers:
        match = _LAYER.fullmatch(layer.name) if layer.blobs else None
        if match:
            name = match[1] or match[2]
            after[name] = []
        elif name in model.convolutions() and layer.type in _OPERATIONS:
            after[name].append(_OPERATIONS[layer.type])
        if layer.type == 'Convolution' and name in model.convolutions() and layer.settings:
            convolution = model.convolutions()[name]
            expected = {
                'group': groups[name],
                'pad': convolution.padding,
                'stride': convolution.stride,
                'dilation': 1,
            }
            yield from _differences(layer, expected, f'model.{name}')
        elif layer.type == 'Pooling' and layer.settings:
            pooling = model.max_pooling
            expected = {
                'pool': 0,
                'kernel_size': pooling.window,
                'stride': pooling.stride,
                'pad': 0,
            }
            yield from _differences(layer, expected, 'model.max_pooling')
        elif layer.type == 'LRN':
            yield from _normalization_problems(layer, model)
    for name in _layers_rounded_up(config):
        yield (
            f'Caffe rounds the size of the maps of {name} down, the config up: set '
            f'--config.model.{name}.extra_padding=False'
        )
    if any(after.values()):
        for name, layer in model.convolutions().items():
            if tuple(after.get(name, ())) != layer.then:
                yield (
                    f'{name} is followed by {", ".join(after.get(name, ())) or "nothing"}, but in '
                    f'the config by {", ".join(layer.then) or "nothing"}: choose another --config, '
                    f'or set --config.model.{name}.then'
                )


def _layers_rounded_up(config: schema.Config) -> list[str]:
    """Returns the convolutions whose maps are larger than Caffe's because of `extra_padding`."""
    rows, rounded_up = {row.name: row for row in layer_table(config)}, []
    size = config.augmentation.crop
    for name, layer in config.model.convolutions().items():
        windows = (layer.kernel, layer.stride, layer.padding)
        if rows[name].size > convolved_size(size, *windows, extra_padding=False):
            rounded_up.append(name)
        size = rows[name].pooled
    return rounded_up


def _normalization_problems(layer: Layer, model: Model) -> Iterator[str]:
    ours = model.response_normalization
    if model.towers > 1 and ours.reads != 'all':
        yield (
            f'{printable(layer.name)} normalizes the maps of all groups together, but in the '
            "config model.response_normalization.reads is 'own': set it to all"
        )
    if layer.settings:
        expected = {
            'local_size': ours.size,
            'alpha': ours.alpha * ours.size,
            'beta': ours.beta,
            'norm_region': 0,
            'k': ours.k,
        }
        yield from _differences(layer, expected, 'model.response_normalization')


def _differences(layer: Layer, expected: Mapping[str, float], section: str) -> Iterator[str]:
    for name, value in expected.items():
        stated = layer.settings[name]
        if not math.isclose(stated, value, rel_tol=1e-5):  # float32 in the file
            yield (
                f'{printable(layer.name)} has {name}={stated:g}, but the config corresponds to '
                f'{value:g}: change the settings {section}, or choose another --config'
            )
