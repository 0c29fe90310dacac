"""Makes nets from the files of other programs and from our exports."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.config import loading, schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.data.pixel_statistics import COLOURS_2012, COLOURS_TORCHVISION, Colours
from alexnet_jax.interchange import safetensors_files
from alexnet_jax.interchange.incoming import caffe_net, class_names, torchvision_net
from alexnet_jax.interchange.incoming.weights import Weights, to_params
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors
from alexnet_jax.training.run_files import config_file
from alexnet_jax.training.run_files.inputs_file import Inputs

# Of the files that Berkeley published (models/*/readme.md in BVLC/caffe).
_PUBLISHED_SHA1 = {
    '9116a64c0fbe4459d18f4bb6b56d647b63920377': 'bvlc_alexnet.caffemodel',
    '4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46': 'bvlc_reference_caffenet.caffemodel',
}
_NO_MEAN = (
    'no mean image was given (--mean=FILE): the colour 123, 117, 104 (red, green, blue) is '
    "subtracted, as Caffe's users do without one"
)
_SETTINGS_OF_NET = (
    'model.',
    'dataset.classes',
    'dataset.image_size',
    'augmentation.crop',
    'augmentation.deviations',
)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """The options of an import besides the file of weights.

    Attributes:
      config: the config file; None for the one that the weights belong to.
      overrides: values of settings in place of those of the config file, by name.
      classes: the file with the names of the classes; None for none.
      mean: the file with Caffe's mean image; None for none.
    """

    config: Path | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: Path | None = None
    mean: Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Imported:
    """A net that was read from a file.

    Attributes:
      net: the net.
      recipe: the name of its config, or the path.
      origin: plain values for the record of the run.
      shapes: the shape of each layer's weights: that in the file, or ours for an export.
      mean: where the mean image comes from.
      classes: where the names of the classes come from.
      notes: further remarks for the user.
    """

    net: PortableNet
    recipe: str
    origin: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    mean: str
    classes: str
    notes: tuple[str, ...] = ()


def import_caffe(path: Path, request: Request) -> Imported:
    """Reads a .caffemodel, and the mean image that belongs to it.

    Raises:
      UserError: a file cannot be read or is damaged, or does not suit the config.
    """
    weights, net = caffe_net.read_weights(path)
    # Without a mean image, one colour is subtracted everywhere.
    implied = {} if request.mean else {'augmentation.mean': 'colour'}
    config, recipe = _config(weights, request, implied)
    caffe_net.check_settings(weights, net, config)
    mean, text = np.asarray(caffe_net.MEAN_COLOUR, np.float32), _NO_MEAN
    if request.mean is not None:
        mean = caffe_net.read_mean(request.mean, config.dataset.image_size)
        text = f'that of {printable(str(request.mean))}'
    mean_colour = mean.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    colours = dataclasses.replace(COLOURS_2012, mean=mean_colour)
    sha1 = _sha1(path)
    notes = ['Caffe squashes pictures to squares, this program crops them']
    if sha1 in _PUBLISHED_SHA1:
        notes.insert(0, f'the file is {_PUBLISHED_SHA1[sha1]} as Berkeley published it (SHA-1)')
    origin = {'format': 'caffe', 'net': net.name, 'mean': str(request.mean or ''), 'sha1': sha1}
    return _imported(weights, config, recipe, (mean, colours, text), request, origin, notes)


def import_torchvision(path: Path, request: Request) -> Imported:
    """Reads a state dict of torchvision's AlexNet.

    Raises:
      UserError: a file cannot be read or is damaged, or does not suit the config.
    """
    weights = torchvision_net.read_weights(path)
    config, recipe = _config(weights, request, {})
    mean = COLOURS_TORCHVISION.mean.astype(np.float32)
    text = "torchvision's mean colour of ImageNet, (0.485, 0.456, 0.406) * 255"
    origin = {'format': 'torchvision', 'sha1': _sha1(path)}
    return _imported(
        weights, config, recipe, (mean, COLOURS_TORCHVISION, text), request, origin, []
    )


def import_export(path: Path, request: Request) -> Imported:
    """Reads a net that alexnet_jax.export has written as safetensors, in either layout.

    Args:
      path: the file, or the folder of the export.
      request: overrides may change what does not belong to the net itself; class names are
        compared with those of the export.

    Raises:
      UserError: the file cannot be read, is damaged, or does not fit the request.
    """
    names = safetensors_files.FILES.values()
    files = [path / name for name in names] if path.is_dir() else [path]
    files = [file for file in files if file.is_file()]
    if not files:
        raise UserError(
            f'there is no file {printable(str(path))}: give the .safetensors file that '
            f'alexnet_jax.export has written, or a folder with {" or ".join(names)}'
        )
    file = files[0]
    exported = safetensors_files.read(file)
    raw = ConfigDict(config_file.plain(exported.config))
    loading.override(raw, request.overrides)
    config = resolve(raw)
    old, new = (schema.flatten(config_file.plain(c)) for c in (exported.config, config))
    for name in request.overrides:
        if name.startswith(_SETTINGS_OF_NET) and old[name] != new[name]:
            raise UserError(
                f'--config.{name} would change the net itself, whose weights are in '
                f'{printable(str(file))}: leave it out'
            )
    inputs = exported.inputs
    if request.classes is not None:
        names, descriptions = class_names.read_names(request.classes, len(inputs.classes))
        different = [pair for pair in zip(names, inputs.classes, strict=True) if len({*pair}) > 1]
        if different:
            theirs, ours = (printable(name) for name in different[0])
            raise UserError(
                f'{printable(str(request.classes))} names {len(different):,} classes otherwise '
                f'than the export, such as {theirs} in place of {ours}: leave --classes out'
            )
        inputs = dataclasses.replace(inputs, descriptions=descriptions)
    net = PortableNet(config, exported.params, inputs, exported.step)
    shapes = {
        name: next(x.shape for key, x in arrays.items() if key.startswith('kernel'))
        for name, arrays in exported.params.items()
    }
    origin = {'format': 'export', 'file': str(file.absolute()), 'step': exported.step}
    return Imported(net, '', origin, shapes, 'that of the export', 'those of the export')


def _config(
    weights: Weights, request: Request, implied: Mapping[str, Any]
) -> tuple[schema.Config, str]:
    """Returns the settings of a net, and the name or path of its config file.

    Args:
      weights: decide the number of classes, and the recipe if the user has named none.
      request: what the user has asked for.
      implied: other settings that replace those of the config file; overrides replace them.
    """
    if request.config is None and not weights.recipe:
        raise UserError(
            f'{printable(str(weights.path))} does not say whether its net normalizes before it '
            'pools: pass --config=bvlc_alexnet if it does, else --config=bvlc_reference_caffenet'
        )
    path = request.config or loading.find_config(weights.recipe)
    raw = loading.execute(path)
    loading.override(raw, {'dataset.classes': weights.classes, **implied, **request.overrides})
    is_recipe = path.resolve().parent == loading.RECIPES.resolve()
    return resolve(raw), path.stem if is_recipe else str(path)


def _imported(
    weights: Weights,
    config: schema.Config,
    recipe: str,
    statistics: tuple[np.ndarray, Colours, str],
    request: Request,
    origin: dict[str, Any],
    notes: Sequence[str],
) -> Imported:
    """Returns the net of some weights.

    Args:
      weights: the arrays of a file.
      config: the settings of the net.
      recipe: the name or the path of its config file.
      statistics: the mean image or the mean colour, the colours, and where they come from.
      request: what the user has asked for.
      origin: plain values for the record of the run.
      notes: what the user should know.
    """
    mean, colours, text = statistics
    params, number = to_params(weights, config), config.dataset.classes
    size = config.dataset.image_size
    if request.classes is not None:
        classes, descriptions = class_names.read_names(request.classes, number)
        source = f'those of {printable(str(request.classes))}'
    else:
        classes, descriptions = class_names.default_names(number), ()
        source = 'the WordNet ids of ILSVRC-2012, sorted' if number == 1000 else 'class_0, ...'
        source += '; --classes=FILE gives them other names'
    if note := class_names.order_note(classes):
        notes = [*notes, note]
    try:
        mean_HWC = np.ascontiguousarray(np.broadcast_to(mean, (size, size, 3)), np.float32)
        net = PortableNet(config, params, Inputs(mean_HWC, colours, classes, descriptions))
    except ValueError as error:
        raise UserError(
            f'{printable(str(weights.path))} cannot be used: {error}; give another file'
        ) from error
    shapes = {
        name.removesuffix('.weight'): array.shape
        for name, array in weights.arrays.items()
        if name.endswith('.weight')
    }
    origin = origin | {'file': str(weights.path.absolute()), 'config': recipe}
    return Imported(net, recipe, origin, shapes, text, source, tuple(notes))


def _sha1(path: Path) -> str:
    with explain_os_errors(f'read {path}'), path.open('rb') as file:
        return hashlib.file_digest(file, 'sha1').hexdigest()
