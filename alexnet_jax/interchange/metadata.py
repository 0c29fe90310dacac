"""The texts in exported files: settings, classes and preprocessing of their net."""

import dataclasses
import json
from pathlib import Path

from alexnet_jax.config import schema
from alexnet_jax.data.pixel_statistics import Colours
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.training.run_files import config_file


def describe_net(net: PortableNet) -> dict[str, str]:
    """Returns what safetensors and ONNX files have as metadata, in ASCII.

    Returns:
      'config', the settings as JSON, without paths of this machine; 'classes' and 'descriptions',
      JSON lists in the order of the logits; 'step', the training steps done.
    """
    return {
        'config': json.dumps(config_file.plain(portable_config(net.config))),
        'classes': json.dumps(net.inputs.classes),
        'descriptions': json.dumps(net.inputs.descriptions),
        'step': str(net.step),
    }


def colours_as_json(colours: Colours) -> str:
    """Formats the distribution of the colours as a JSON object with a list for each array."""
    return json.dumps({name: x.tolist() for name, x in dataclasses.asdict(colours).items()})


def portable_config(config: schema.Config) -> schema.Config:
    """Returns the settings without paths of this machine.

    Of a folder of images, its name remains.
    """
    dataset = dataclasses.replace(
        config.dataset, data_dir='', folder=Path(config.dataset.folder).name
    )
    pretrained = dataclasses.replace(config.pretrained, workdir='')
    return dataclasses.replace(config, dataset=dataset, pretrained=pretrained)


def describe_scaling(config: schema.Config) -> str:
    """Describes in words how a picture becomes an image of the run; see `images.square`."""
    size, filter = config.dataset.image_size, config.dataset.resize
    enlarged = '' if filter in ('bicubic', 'nearest') else ', or bicubic if it is smaller'
    return (
        f'Take the central square of the picture, in RGB with {config.dataset.background} behind '
        f'transparent pixels, and scale it to {size} x {size} pixels with the filter {filter}'
        f'{enlarged}.'
    )
