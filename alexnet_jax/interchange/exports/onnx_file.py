"""A trained net as an ONNX file, with all that is needed to use it (https://onnx.ai).

The file holds the net at test time for one view of a picture: the graph of onnx_graph.py, class
names and settings. It is written directly, without a converter: the graph has an operator for each
layer of the paper. Everything is computed in float32, also for a net that was trained in bfloat16.
"""

import base64
import math
from pathlib import Path
from typing import Any

from alexnet_jax.config import schema
from alexnet_jax.data import augmentation
from alexnet_jax.interchange import grouped_layout, metadata
from alexnet_jax.interchange.extras import import_extra
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.runtime import VERSION, atomic_files
from alexnet_jax.runtime.user_errors import UserError

# A protobuf message has at most 2 GiB; the rest is for the graph and the names of the classes.
LARGEST = 2**31 - 2**26  # bytes of all weights


def check(config: schema.Config) -> None:
    """Checks that a net can be written, before its weights are read.

    Raises:
      UserError: the package onnx is missing, a layer has no ONNX operator, or the weights are too
        large for one file.
    """
    import_extra('onnx', 'an ONNX file')
    size = 4 * _weights(config)
    if size > LARGEST:
        raise UserError(
            f'the weights have {size / 2**30:.1f} GiB, and an ONNX file can hold 2: use '
            '--format=safetensors'
        )


def _weights(config: schema.Config) -> int:
    """Counts the weights in the graph, those of response normalization included."""
    model = config.model
    towers = model.towers if model.response_normalization.reads == 'own' else 1
    counts = [math.prod(shape) for shape in grouped_layout.shapes(config).values()]
    for layer in model.convolutions().values():
        if 'response_normalization' in layer.then:
            maps = model.towers * model.scale_to_width(layer.maps)
            counts.append(maps * maps // towers)
    return sum(counts)


def write(net: PortableNet, file: Path, preprocessing: bool = True) -> None:
    """Writes a net as an ONNX file.

    Args:
      net: the net.
      file: the file to create or to replace.
      preprocessing: whether the graph takes images, 'images' of shape (batch, size, size, 3) uint8,
        and crops them and subtracts the mean itself; otherwise it takes 'crops', (batch, 3, crop,
        crop) float32, which is what `augmentation.take_view` returns, with the colours first.

    Raises:
      UserError: see `check`.
      OSError: the file cannot be written.
    """
    check(net.config)
    from alexnet_jax.interchange.exports import onnx_graph  # it imports onnx

    onnx: Any = import_extra('onnx', 'an ONNX file')
    model = onnx_graph.build(net, preprocessing)
    model.producer_name, model.producer_version = 'alexnet_jax', VERSION
    onnx.helper.set_model_props(model, properties(net, preprocessing))
    onnx.checker.check_model(model, full_check=True)
    with atomic_files.replace(file) as partial:
        partial.write_bytes(model.SerializeToString())
    atomic_files.sync_folder(file.parent)


def properties(net: PortableNet, preprocessing: bool) -> dict[str, str]:
    """Returns the properties of the file, which runtimes show by name.

    Returns:
      Those of `metadata.describe_net`; 'colours' (JSON), 'preprocessing' and 'arithmetic' (in
      words), and without the preprocessing 'mean_image'.
    """
    dtype = net.config.model.dtype
    trained = '' if dtype == 'float32' else f'; the net was trained in {dtype}'
    result = metadata.describe_net(net) | {
        'colours': metadata.colours_as_json(net.inputs.colours),
        'preprocessing': describe_preprocessing(net.config, preprocessing),
        'arithmetic': f'float32{trained}',
    }
    if not preprocessing:
        mean_HWC = augmentation.central(net.inputs.mean_HWC, net.config.augmentation.crop)
        mean_CHW = mean_HWC.transpose(2, 0, 1).astype('<f4')
        result['mean_image'] = base64.b64encode(mean_CHW.tobytes()).decode()
    return result


def describe_preprocessing(config: schema.Config, preprocessing: bool) -> str:
    """Describes in words what the graph takes."""
    size, crop = config.dataset.image_size, config.augmentation.crop
    deviations = config.augmentation.deviations
    is_scaled = any(deviation != 1 for deviation in deviations)
    picture = metadata.describe_scaling(config)
    if preprocessing:
        divides = f', and divides them by {deviations}' if is_scaled else ''
        return (
            f'{picture} These pixels are the input, images: (batch, {size}, {size}, 3), uint8. The '
            f'graph takes the central {crop} x {crop} of them and subtracts the mean{divides}.'
        )
    divided = f', divided by {deviations}' if is_scaled else ''
    return (
        f'{picture} The input is crops: (batch, 3, {crop}, {crop}), float32. They are the central '
        f'{crop} x {crop} pixels, on the scale of 0 to 255, minus mean_image (base64 of '
        f'(3, {crop}, {crop}) float32, little-endian){divided}.'
    )
