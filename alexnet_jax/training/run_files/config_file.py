"""Reads and writes `config.json`: the settings of a run, its data, its starts and its changes.

A file of an earlier version keeps its meaning: settings that have been added since take the values
that do what the earlier version did.
"""

import datetime
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.config import loading, schema
from alexnet_jax.config.model_schema import CONVOLUTIONS, HIDDEN, LAYERS
from alexnet_jax.config.settings import catalogue, sections
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import list_names, warn_once
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

FORMAT = 2  # absent in the files of the first format

_NORMALIZATION = 'batch_normalization'

# Settings that were in every version: a file without them is damaged.
_ALWAYS = ('seed', 'dataset.name', 'model.width', 'optimizer.batch_size')

# Settings that were added after 2026-11-21, with the values that do what the program did before.
ADDED = {
    'augmentation.colour.deviation': 0.1,
    'augmentation.colour.divide': False,
    'augmentation.colour.noise': 'none',
    'augmentation.colour.until_epoch': 90.0,
    'augmentation.constants': 'data',
    'augmentation.deviations': [1.0, 1.0, 1.0],
    'augmentation.images_per_draw': 1,
    'augmentation.mean': 'image',
    'augmentation.positions': 0,
    'checkpoint.every_minutes': 0.0,
    'dataset.background': 'black',  # what was transparent became black
    'dataset.folder': '',
    'dataset.reshuffle': True,
    'dataset.resize': 'bicubic',
    'deterministic': False,
    'evaluation.average_views': True,
    'learning_rate.conv1.divide_by': 10.0,
    'learning_rate.conv1.freeze_at': -1.0,
    'learning_rate.conv1.lower_at': -1.0,
    'learning_rate.fixed.bias_levels': 0,
    'learning_rate.polynomial.power': 2.0,
    'learning_rate.warm_up.divide_by': 10.0,
    'learning_rate.warm_up.epochs': 0.0,
    'loader.resident': 'auto',
    'loader.resident_gib': 0.0,
    'loader.skip_bad': 0,
    'loader.workers': 0,
    'mesh.dense': 'tower',
    'model.batch_normalization.epsilon': 0.001,
    'model.batch_normalization.memory': 0.9,
    'model.bottleneck.units': 0,
    'model.conv6.bias': 1.0,
    'model.conv6.kernel': 3,
    'model.conv6.maps': 0,
    'model.conv6.padding': 1,
    'model.conv6.std': 0.01,
    'model.conv6.stride': 1,
    'model.conv6.then': ['relu'],
    'model.dtype': 'float32',
    'model.precision': 'default',
    'model.response_normalization.reads': 'own',
    'model.spatial_normalization.alpha': 4e-05,
    'model.spatial_normalization.beta': 0.75,
    'model.spatial_normalization.k': 1.0,
    'model.spatial_normalization.size': 5,
    'optimizer.bias_rate_falls': True,
    'optimizer.dense_updates': 1,
    'optimizer.rule': 'sgd',
    'optimizer.trust_coefficient': 0.001,
    'pretrained.layers': ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7'],
    'pretrained.workdir': '',
    **{f'model.{layer}.batch_normalization': False for layer in CONVOLUTIONS},
    **{f'model.{layer}.extra_padding': True for layer in CONVOLUTIONS},
    **{f'model.{layer}.shared': True for layer in CONVOLUTIONS},
    **{f'model.{layer}.decay_factor': 1.0 for layer in LAYERS},
    **{f'model.{layer}.rate_factor': 1.0 for layer in LAYERS},
    **{f'model.{layer}.reads': 'own' for layer in ('conv1', 'conv2', 'conv4', 'conv5')},
    **{f'model.{layer}.reads': 'all' for layer in ('conv3', 'conv6', *HIDDEN)},
    **{f'model.{layer}.nonlinearity': 'relu' for layer in HIDDEN},
    **{f'model.{layer}.input_dropout': 0.0 for layer in HIDDEN},
}


def read(file: Path) -> dict[str, Any]:
    """Reads a config.json.

    Returns:
      'config', all settings of this version as nested plain values; 'starts', one dict for each
      time that the run was started or resumed; and where they are known 'data', 'changes', 'from'
      and 'imported' (see `Workdir.claim`).

    Raises:
      UserError: the file cannot be read, is damaged, or was written by a newer version.
    """
    try:
        if not file.is_file():
            raise UserError(f'{file} is not a file: move it elsewhere')
        record = json.loads(file.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'cannot read {file}: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise damage_error(file, first_line(error)) from error
    written = record.get('format', 1) if isinstance(record, dict) else 1
    if type(written) is int and written > FORMAT:
        raise UserError(
            f'{file} was written by a newer version of alexnet_jax, in format {written} (this '
            f'version reads up to {FORMAT}): use that version'
        )
    problem = _problem(record)
    if problem:
        raise damage_error(file, problem)
    return record | {'config': upgrade(file, record['config'])}


def damage_error(file: Path, reason: str) -> UserError:
    """Returns the error for a file that does not say what the settings of its run are."""
    return UserError(
        f'{file} is damaged ({reason}): move it elsewhere; then the command that started the run '
        'resumes it, and writes the file again'
    )


def write(file: Path, record: dict[str, Any]) -> None:
    """Writes a config.json.

    Raises:
      UserError: it cannot be written.
    """
    content = {'format': FORMAT} | record | {'format': FORMAT}  # the first line of the file
    with explain_os_errors(f'write {file}'), atomic_files.replace(file) as partial:
        partial.write_text(json.dumps(content, indent=2) + '\n')


def plain(config: schema.Config) -> dict[str, Any]:
    """Returns the settings as they are read back from a JSON file: lists in place of tuples."""
    return json.loads(json.dumps(schema.as_dict(config)))


def has_effect(name: str, settings: Mapping[str, Any]) -> bool:
    """Checks whether a setting is used by a run with these settings, by their dotted names."""
    *section, last = name.split('.')
    if name == 'dataset.background':
        return bool(settings['dataset.folder'])
    if name == 'optimizer.trust_coefficient':
        return settings['optimizer.rule'] == 'lars'
    if name == 'learning_rate.warm_up.divide_by':
        return bool(settings['learning_rate.warm_up.epochs'])
    if name.startswith('learning_rate.') and section[-1] in schema.SCHEDULES:
        return settings['learning_rate.schedule'] == section[-1]
    size = next((x for x in ('maps', 'units') if '.'.join([*section, x]) in settings), last)
    return last == size or bool(settings['.'.join([*section, size])])  # layers of no maps or units


def _problem(record: Any) -> str:
    """Says what is wrong with the form of a record; '' if nothing is."""
    match record:
        case {'config': dict(config), 'starts': [*starts]}:
            pass
        case _:
            return 'it lacks the settings or the starts of a run'
    if type(record.get('format', 1)) is not int or record.get('format', 1) < 1:
        return f'format {record["format"]!r}'
    if not starts or not all(map(_is_start, starts)):
        return 'it lacks the starts of a run'
    forms = {
        'data': _is_data,
        'changes': _is_list,
        'from': _is_source,
        'imported': lambda origin: isinstance(origin, dict),
    }
    for key, has_form in forms.items():
        if key in record and not has_form(record[key]):
            return f"'{key}' is {str(record[key])[:60]}"
    return settings_problem(config)


def settings_problem(raw: Mapping[str, Any]) -> str:
    """Says what is wrong with the form of recorded settings; '' if nothing is."""
    flat = schema.flatten(raw)
    for name in _ALWAYS:
        if name not in flat:
            return f'it lacks the setting {name}'
    for name in sorted(flat.keys() & sections().keys()):
        return f'{name} is a section with settings of its own, not {flat[name]!r}'
    return ''


def _is_start(start: Any) -> bool:
    """Checks that a value has the form of `start_record.describe_start`."""
    match start:
        case {
            'started': str(started),
            'python': str(),
            'versions': dict(),
            'mesh': dict(),
            'devices': list(),
            'device_kind': str(),
            'processor': str(),
        }:
            try:
                datetime.datetime.fromisoformat(started)
            except ValueError:
                return False
            return True
    return False


def _is_data(data: Any) -> bool:
    """Checks that a value has the form of the data's identity."""
    match data:
        case {'train': {'images': int()}, 'eval': {'images': int()}}:
            return isinstance(data.get('folder', ''), str)
    return False


def _is_list(changes: Any) -> bool:
    return isinstance(changes, list)


def _is_source(source: Any) -> bool:
    """Checks that a value names a state of another run."""
    match source:
        case {'workdir': str(), 'step': int() | None}:
            return True
    return False


def upgrade(file: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Returns recorded settings in today's form: all that there are, and no others.

    Args:
      file: the file that holds them, for messages.
      raw: nested plain values of the form that `settings_problem` checks.

    Raises:
      UserError: there are settings that this version does not have, and that may change a result.
    """
    flat = schema.flatten(_separate_normalization(raw))
    unknown = [name for name in flat if name not in catalogue() and not schema.may_change(name)]
    if unknown:
        raise UserError(
            f'{file} has settings that this version of alexnet_jax does not have: '
            f'{list_names(unknown, 3)}: use the version that wrote it'
        )
    missing = [name for name in catalogue() if name not in flat]
    flat |= {name: ADDED[name] if name in ADDED else _recipe()[name] for name in missing}
    assumed = [x for x in missing if x not in ADDED and has_effect(x, flat)]
    if assumed:
        shown = list_names([f'{name}={flat[name]!r}' for name in assumed], 3)
        warn_once(f'{file} lacks settings, which are taken from ilsvrc2012: {shown}')
    nested: dict[str, Any] = {}
    for name in catalogue():
        *path, last = name.split('.')
        section = nested
        for part in path:
            section = section.setdefault(part, {})
        section[last] = flat[name]
    return nested


def _separate_normalization(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns settings in which batch normalization is a setting of each layer.

    Until 2026-11-25 it was one of the operations in `then`.
    """
    model = raw.get('model')
    if not isinstance(model, dict):
        return raw
    layers = {}
    for name, layer in model.items():
        then = layer.get('then') if isinstance(layer, dict) else None
        if isinstance(then, list) and _NORMALIZATION not in layer:
            others = [operation for operation in then if operation != _NORMALIZATION]
            layer = layer | {_NORMALIZATION: _NORMALIZATION in then, 'then': others}
        layers[name] = layer
    return raw | {'model': layers}


@functools.cache
def _recipe() -> dict[str, Any]:
    """Returns the settings of ilsvrc2012 by their dotted names, as JSON has them."""
    return schema.flatten(plain(loading.load_config('ilsvrc2012')))
