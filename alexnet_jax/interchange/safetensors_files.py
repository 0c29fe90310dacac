"""Nets as safetensors files: in our own layout, and in that of a grouped PyTorch net.

The metadata hold what a net needs besides its arrays: 'format', the layout of the arrays; 'version'
of this form; 'config', the settings as JSON; 'classes' and 'descriptions', JSON lists; 'step', the
training steps done. Paths of the machine that wrote the file are left out of the settings.

In our layout the arrays are called 'params.conv1.kernel_THWIO' and so on, 'inputs.mean_HWC', and
'inputs.colours.mean', '.eigenvalues' and '.eigenvectors', which are float64. In the layout of
PyTorch (grouped_layout.py) two arrays are added to those of the state dict: 'mean', (3, size,
size), and 'deviations', (3, 1, 1). The principal colours, which only training needs, lie in the
metadata as 'colours'.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.data.pixel_statistics import Colours
from alexnet_jax.interchange import grouped_layout, metadata
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model import alexnet
from alexnet_jax.model.layer_table import parameter_count
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line
from alexnet_jax.training.run_files import config_file
from alexnet_jax.training.run_files.inputs_file import Inputs

OURS, TORCH = 'alexnet_jax', 'torch'  # layouts, as the metadata name them
# The file of each layout in the folder of an export.
FILES = {OURS: 'alexnet_jax.safetensors', TORCH: 'model.safetensors'}
VERSION = '1'

MEAN, DEVIATIONS = 'mean', 'deviations'  # arrays that the PyTorch module has besides the weights

_Shapes = dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape of each array, by name


def write(net: PortableNet, file: Path, layout: str = OURS) -> None:
    """Writes a net as a safetensors file.

    Args:
      net: the net.
      file: the file; its folder exists.
      layout: OURS or TORCH.

    Raises:
      UserError: the layout cannot express a layer of the net, or the file cannot be written.
    """
    texts = {'format': layout, 'version': VERSION} | metadata.describe_net(net)
    if layout == TORCH:
        deviations = np.asarray(net.config.augmentation.deviations, np.float32)[:, None, None]
        arrays = grouped_layout.to_grouped(net.config, net.params) | {
            MEAN: net.inputs.mean_HWC.transpose(2, 0, 1),
            DEVIATIONS: deviations,
        }
        texts['colours'] = metadata.colours_as_json(net.inputs.colours)
    else:
        inputs = {'mean_HWC': net.inputs.mean_HWC, 'colours': vars(net.inputs.colours)}
        arrays = leaves_by_name({'params': net.params, 'inputs': inputs})
    arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
    with explain_os_errors(f'write {file}'), atomic_files.replace(file) as partial:
        try:
            partial.touch()
            mode = partial.stat().st_mode  # as the umask says; the library lets only the owner read
            safetensors.numpy.save_file(arrays, partial, texts)
            partial.chmod(mode)
        except safetensors.SafetensorError as error:
            raise OSError(first_line(error)) from error


def read(file: Path) -> PortableNet:
    """Reads a net from a safetensors file that `write` has written, in either layout.

    Names, dtypes and shapes are compared with those of the settings before any array is read, and
    the library has compared their sizes with that of the file, so that no more memory is used than
    the file has bytes, twice.

    Raises:
      UserError: the file cannot be read, is damaged, was not written by `write`, or was written by
        a newer version.
    """
    where = printable(str(file))
    with explain_os_errors(f'read {where}'):
        size = file.stat().st_size
        if not file.is_file():
            raise UserError(f'{where} is not a file')
        with file.open('rb'):  # an error of the system has its reason here
            pass
    try:
        with safetensors.safe_open(file, framework='numpy') as content:
            return _read(file, content, size)
    except safetensors.SafetensorError as error:
        raise UserError(
            f'{where} is damaged, or is not a safetensors file ({first_line(error)}): copy it '
            'again, or give another file'
        ) from error


def _read(file: Path, content: Any, size: int) -> PortableNet:
    where = printable(str(file))
    texts = content.metadata() or {}
    layout = texts.get('format')
    if layout not in (OURS, TORCH) or 'config' not in texts:
        raise UserError(
            f'{where} has no settings in its metadata: it was not written by alexnet_jax.export'
        )
    if texts.get('version') != VERSION:
        raise UserError(
            f'{where} is of version {printable(str(texts.get("version"))[:20])}, and this '
            f'alexnet_jax reads version {VERSION}: use a newer one'
        )
    try:
        config = _settings(file, texts)
        _check_size(config, size)
        expected = _expected_torch(config) if layout == TORCH else _expected_ours(config)
        _check_arrays(expected, content)
        arrays = {name: content.get_tensor(name) for name in expected}
        names = [tuple(_json(texts, key, list)) for key in ('classes', 'descriptions')]
        if layout == TORCH:
            colours, mean_HWC = _colours_of(texts), arrays.pop(MEAN).transpose(1, 2, 0)
            _check_deviations(config, arrays.pop(DEVIATIONS))
            params = grouped_layout.from_grouped(config, arrays)
        else:
            colours = Colours(
                **{f.name: arrays[f'inputs.colours.{f.name}'] for f in dataclasses.fields(Colours)}
            )
            mean_HWC, params = arrays['inputs.mean_HWC'], _nest(config, arrays)
        inputs = Inputs(np.ascontiguousarray(mean_HWC), colours, *names)
        return PortableNet(config, params, inputs, _step(texts))
    except (UserError, ValueError) as error:
        raise UserError(f'{where} cannot be used: {error}') from error


def _settings(file: Path, texts: Mapping[str, str]) -> schema.Config:
    raw = _json(texts, 'config', dict)
    try:
        if problem := config_file.settings_problem(raw):
            raise UserError(f'its settings are damaged: {problem}')
        return resolve(config_file.upgrade(file, raw))
    except RecursionError as error:
        raise UserError('its settings are damaged: too many sections within others') from error


def _json(texts: Mapping[str, str], key: str, kind: type) -> Any:
    """Returns a value of the metadata that is JSON."""
    try:
        value = json.loads(texts[key])
    except KeyError as error:
        raise UserError(f"its metadata lack '{key}'") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{key}' in its metadata is damaged ({first_line(error)})") from error
    if not isinstance(value, kind):
        raise UserError(f"'{key}' in its metadata is not a JSON {kind.__name__}")
    return value


def _step(texts: Mapping[str, str]) -> int:
    text = texts.get('step', '')
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UserError("'step' in its metadata is not a number of training steps")
    return int(text)


def _colours_of(texts: Mapping[str, str]) -> Colours:
    """Returns the principal colours from the metadata of the layout of PyTorch."""
    values, shapes = _json(texts, 'colours', dict), {'eigenvectors': (3, 3)}
    arrays = {}
    for field in dataclasses.fields(Colours):
        try:
            arrays[field.name] = np.asarray(values[field.name], np.float64)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise UserError(f"'colours' in its metadata lack {field.name}") from error
        if arrays[field.name].shape != shapes.get(field.name, (3,)):
            raise UserError(f"'colours' in its metadata have another shape of {field.name}")
    return Colours(**arrays)


def _check_size(config: schema.Config, size: int) -> None:
    """Refuses settings of a net that is larger than the file, before its shapes are computed."""
    needed = 4 * parameter_count(config)
    if needed > size:
        raise UserError(f'its settings need {needed:,} bytes, and it has {size:,}')


def _expected_ours(config: schema.Config) -> _Shapes:
    """Returns the arrays of a net in our layout."""
    params = leaves_by_name({'params': alexnet.shapes(config)})
    side = config.dataset.image_size
    return {name: ('F32', tuple(x.shape)) for name, x in params.items()} | {
        'inputs.mean_HWC': ('F32', (side, side, 3)),
        'inputs.colours.mean': ('F64', (3,)),
        'inputs.colours.eigenvalues': ('F64', (3,)),
        'inputs.colours.eigenvectors': ('F64', (3, 3)),
    }


def _expected_torch(config: schema.Config) -> _Shapes:
    """Returns the arrays of a net in the layout of PyTorch."""
    side = config.dataset.image_size
    shapes = {
        **grouped_layout.shapes(config),
        MEAN: (3, side, side),
        DEVIATIONS: (3, 1, 1),
    }
    return {name: ('F32', shape) for name, shape in shapes.items()}


def _check_arrays(expected: _Shapes, content: Any) -> None:
    """Compares names, dtypes and shapes with the header of the file."""
    names = set(content.keys())
    for what, others in (('lacks', expected.keys() - names), ('has', names - expected.keys())):
        if others:
            raise UserError(f'it {what} {list_names(sorted(others), 3)}, unlike its settings')
    for name, (dtype, shape) in expected.items():
        array = content.get_slice(name)
        actual = array.get_dtype(), tuple(array.get_shape())
        if actual != (dtype, shape):
            raise UserError(
                f'{name} is {actual[0]} {actual[1]}, and its settings need {dtype} {shape}'
            )


def _check_deviations(config: schema.Config, deviations: np.ndarray) -> None:
    expected = np.asarray(config.augmentation.deviations, np.float32)
    if not np.array_equal(deviations.ravel(), expected):
        raise UserError('its deviations are not those of its settings')


def _nest(config: schema.Config, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the parameters as a nested dict, as `alexnet.initialize` does."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[f'params.{jax.tree_util.keystr(path, simple=True, separator=".")}'],
        alexnet.shapes(config),
    )
