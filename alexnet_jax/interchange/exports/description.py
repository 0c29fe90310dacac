"""The contents of an export's `config.json`: layers, class names, preprocessing, as plain values.

The first entries are those that users of model hubs know from timm. 'preprocessing' says the same
in the units of this project, and in words. 'layers' lists the net for programs in other frameworks,
such as alexnet_torch.py. 'alexnet_jax' has the settings of the run, and the SHA-256 of its weights
and mean image, by which two nets with the same settings are told apart.
"""

import dataclasses
import hashlib
from typing import Any

from alexnet_jax.config import model_schema, schema
from alexnet_jax.data import augmentation
from alexnet_jax.interchange import grouped_layout, metadata
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model.layer_table import CHANNELS, layer_table
from alexnet_jax.model.layers import steps
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.ops.convolution import padding_after
from alexnet_jax.training.run_files import config_file


def describe(net: PortableNet) -> dict[str, Any]:
    """Returns the contents of `config.json`, as plain values."""
    config, inputs = net.config, net.inputs
    descriptions = zip(inputs.classes, inputs.descriptions, strict=True)
    return {
        'architecture': 'alexnet',
        'num_classes': config.dataset.classes,
        'label_names': list(inputs.classes),
        'label_descriptions': {name: text for name, text in descriptions if text},
        'pretrained_cfg': _timm(net),
        'preprocessing': _preprocessing(net),
        'layers': _layers(config),
        'alexnet_jax': {
            'step': net.step,
            'weights_sha256': _sha256(net),
            'settings': config_file.plain(metadata.portable_config(config)),
        },
    }


def _sha256(net: PortableNet) -> str:
    """Returns the SHA-256 of all that the logits depend on beside the settings."""
    result = hashlib.sha256(net.inputs.mean_HWC.tobytes())
    for _, x in sorted(leaves_by_name(net.params).items()):
        result.update(x.tobytes())
    return result.hexdigest()


def _timm(net: PortableNet) -> dict[str, Any]:
    """Returns the preprocessing in timm's names and units: pixels are on a scale of 0 to 1."""
    config = net.config
    crop, size = config.augmentation.crop, config.dataset.image_size
    return {
        'input_size': [CHANNELS, crop, crop],
        'fixed_input_size': True,
        'num_classes': config.dataset.classes,
        'interpolation': config.dataset.resize,
        'crop_pct': crop / size,
        'crop_mode': 'center',
        'mean': [float(x) / 255 for x in _mean_colour(net)],
        'std': [deviation / 255 for deviation in config.augmentation.deviations],
        'first_conv': 'conv1',
        'classifier': 'fc8',
    }


def _mean_colour(net: PortableNet) -> Any:
    """Returns the mean over the central crop of what is subtracted: red, green, blue."""
    crop = net.config.augmentation.crop
    return augmentation.central(net.inputs.mean_HWC, crop).mean((0, 1), float)


def _preprocessing(net: PortableNet) -> dict[str, Any]:
    config = net.config
    size, crop = config.dataset.image_size, config.augmentation.crop
    is_image = bool((net.inputs.mean_HWC != net.inputs.mean_HWC[:1, :1]).any())
    mean = 'the mean image' if is_image else 'the mean colour'
    deviations = list(config.augmentation.deviations)
    steps = [
        f'1. {metadata.describe_scaling(config)}',
        f'2. Take the central {crop} x {crop} pixels, on the scale of 0 to 255.',
        f'3. Subtract the central {crop} x {crop} pixels of {mean}, which the file of the weights '
        'has.',
    ]
    if deviations != [1.0] * CHANNELS:
        steps.append(f'4. Divide red, green and blue by {deviations}.')
    return {
        'image_size': size,
        'crop': crop,
        'resize': config.dataset.resize,
        'background': config.dataset.background,
        'mean': 'image' if is_image else 'colour',
        'mean_colour': [float(x) for x in _mean_colour(net)],
        'deviations': deviations,
        'in_words': steps,
    }


def _layers(config: schema.Config) -> list[dict[str, Any]]:
    """Returns the layers of all towers together, with the towers as groups.

    'then' has the operations after a layer, in order, with their constants.
    """
    model, towers = config.model, config.model.towers
    groups, convolutions, dense = (
        grouped_layout.groups(config),
        model.convolutions(),
        model.dense(),
    )
    layers: list[dict[str, Any]] = []
    size, maps, pixels = config.augmentation.crop, CHANNELS, 1
    for row in layer_table(config):
        layer: dict[str, Any] = {'name': row.name}
        if row.name in convolutions:
            settings = convolutions[row.name]
            kind = 'convolution' if settings.shared else 'unshared_convolution'
            outputs = towers * row.maps
            layer |= {'kind': kind, 'inputs': maps, 'outputs': outputs}
            layer |= {'kernel': settings.kernel, 'stride': settings.stride}
            after = padding_after(size, settings.kernel, *steps(settings))
            layer |= {'padding': [settings.padding, after], 'groups': groups[row.name]}
            norm = model.batch_normalization
            layer['batch_normalization'] = (
                dataclasses.asdict(norm) if settings.batch_normalization else None
            )
            layer['then'] = [_operation(name, model) for name in settings.then]
            size, maps, pixels = row.pooled, outputs, row.pooled**2
        else:
            outputs = row.maps * (1 if row.name == 'fc8' else towers)
            layer |= {'kind': 'fully_connected', 'inputs': maps * pixels, 'outputs': outputs}
            settings = dense.get(row.name)
            layer['input_dropout'], layer['then'] = 0.0, []
            if isinstance(settings, model_schema.Dense):
                layer['input_dropout'] = settings.input_dropout
                layer['then'] = [
                    {'kind': settings.nonlinearity},
                    {'kind': 'dropout', 'fraction': settings.dropout},
                ]
            maps, pixels = outputs, 1
        layers.append(layer)
    return layers


def _operation(name: str, model: model_schema.Model) -> dict[str, Any]:
    """Returns the name and the constants of an operation after a convolution."""
    match name:
        case 'response_normalization':
            norm = model.response_normalization
            constants = {'size': norm.size, 'k': norm.k, 'alpha': norm.alpha, 'beta': norm.beta}
            constants['groups'] = model.towers if norm.reads == 'own' else 1
        case 'spatial_normalization':
            constants = dataclasses.asdict(model.spatial_normalization)
        case 'max_pooling':
            constants = dataclasses.asdict(model.max_pooling)
        case _:
            constants = {}
    return {'kind': name} | constants
