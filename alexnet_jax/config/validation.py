"""Turns the values of a config file into the checked settings of a run."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.config import suggestions
from alexnet_jax.config.model_schema import NONLINEARITIES, Convolution, Model
from alexnet_jax.config.schema import FOLDERS, Augmentation, Config, Dataset
from alexnet_jax.config.settings import Setting, catalogue, field_types
from alexnet_jax.runtime.paths import BUCKET, check_path
from alexnet_jax.runtime.user_errors import UserError

_LARGEST, _SMALLEST = (float(x) for x in (np.finfo(np.float32).max, np.finfo(np.float32).tiny))


def resolve(raw: Mapping[str, Any] | ConfigDict) -> Config:
    """Returns the checked settings of a run.

    Args:
      raw: nested settings, as a file in `configs/` or a `config.json` states them.

    Raises:
      UserError: a setting is unknown, missing, of the wrong type or out of range, or does not fit
        another one.
    """
    config = check_values(raw)
    for name in FOLDERS:
        section, _, field = name.partition('.')
        path = getattr(getattr(config, section), field)
        if path and not (name == 'dataset.data_dir' and BUCKET.match(path)):
            check_path(path, name)
    for problem in _problems(config):
        raise UserError(problem)
    return config


def check_values(raw: Mapping[str, Any] | ConfigDict) -> Config:
    """Checks each setting by itself, before some of them are fitted to the images.

    Args:
      raw: nested settings, complete.

    Returns:
      The settings, which may contradict each other.

    Raises:
      UserError: a setting is unknown, missing, of the wrong type or out of range.
    """
    return _build(Config, raw, '')


def _build(cls: Any, raw: Mapping[str, Any] | ConfigDict, prefix: str) -> Any:
    fields, values = field_types(cls), dict(raw.items())
    for key in values:
        if key not in fields:
            name = f'{prefix}{key}'
            raise UserError(f'unknown setting {name}: {suggestions.hint(name)}')
    missing = [f'{prefix}{key}' for key in fields if key not in values]
    if missing:
        raise UserError(f'the config lacks {", ".join(missing)}: add it to the config file')
    return cls(**{key: _convert(fields[key], values[key], prefix + key) for key in fields})


def _convert(field_type: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(field_type):
        if not isinstance(value, (Mapping, ConfigDict)):
            raise UserError(f'{name} is a section with settings of its own, not {value!r}')
        return _build(field_type, value, f'{name}.')
    setting = catalogue()[name]
    if not setting.is_tuple:
        return _check_value(setting, value)
    if not isinstance(value, (tuple, list)):
        raise UserError(f'{name} must be a tuple, not {value!r}')
    return tuple(_check_value(setting, item) for item in value)


def _check_value(setting: Setting, value: Any) -> Any:
    """Checks a value, or an item of a tuple, and returns it; converts int to float where needed."""
    name = setting.name
    if isinstance(value, np.generic):
        value = value.item()
    if setting.type is float and type(value) is int:
        value = float(value) if abs(value) < _LARGEST else math.inf
    if type(value) is not setting.type:
        raise UserError(f'{name} must be of type {setting.type.__name__}, not {value!r}')
    if isinstance(value, float) and not math.isfinite(value):
        allowed = f', {setting.range}' if setting.range else ''
        raise UserError(f'{name}={value} must be a finite number{allowed}')
    problem = setting.range.problem(value) if setting.range else ''
    if isinstance(value, float) and not problem:
        problem = _float32_problem(value)
    if problem and setting.is_tuple:
        raise UserError(f'{name} has {value!r}, which {problem}')
    if problem:
        raise UserError(f'{name}={value!r} {problem}')
    return value


def _float32_problem(value: float) -> str:
    """Returns what is wrong with a number that the net, in float32, cannot hold; '' if nothing."""
    if abs(value) > _LARGEST:
        return f'must be at most {_LARGEST:.1e} in size, the largest number of float32'
    if 0 < abs(value) < _SMALLEST:
        return f'is 0 in float32: it must be 0, or at least {_SMALLEST:.1e} in size'
    return ''


def _problems(c: Config) -> Iterator[str]:
    """Yields one line for each rule across fields that is broken."""
    yield from _dataset_problems(c.dataset)
    if c.augmentation.crop > c.dataset.image_size:
        yield (
            f'augmentation.crop={c.augmentation.crop} is larger than '
            f'dataset.image_size={c.dataset.image_size}'
        )
    places = c.dataset.image_size - c.augmentation.crop + 1
    if c.augmentation.positions > max(1, places):
        yield (
            f'augmentation.positions={c.augmentation.positions} is more than the {places} '
            f'positions of a crop of {c.augmentation.crop} pixels in {c.dataset.image_size}'
        )
    yield from _constants_problems(c.augmentation)
    yield from _model_problems(c.model)
    yield from _learning_problems(c)
    if c.mesh.tower and c.model.towers % c.mesh.tower:
        yield (
            f'mesh.tower={c.mesh.tower} does not divide model.towers={c.model.towers}: '
            'every device of the tower axis holds the same number of towers'
        )
    for section in ('optimizer', 'evaluation'):
        batch_size = getattr(c, section).batch_size
        if c.mesh.data and batch_size % c.mesh.data:
            yield f'{section}.batch_size={batch_size} is not divisible by mesh.data={c.mesh.data}'
    if c.optimizer.batch_size % (c.optimizer.dense_updates * max(1, c.mesh.data)):
        yield (
            f'optimizer.batch_size={c.optimizer.batch_size} cannot be divided into '
            f'optimizer.dense_updates={c.optimizer.dense_updates} equal sub-batches'
            + (f' on each of mesh.data={c.mesh.data} devices' if c.mesh.data > 1 else '')
        )
    if c.mesh.dense == 'all' and c.mesh.data:
        for name, units in c.model.dense_units().items():
            if units % c.mesh.data:
                yield (
                    f"mesh.dense='all' cannot spread the {units} units of {name} over "
                    f"mesh.data={c.mesh.data} devices: set mesh.dense='tower', or a number of "
                    'devices that divides them'
                )


def _learning_problems(c: Config) -> Iterator[str]:
    warm_up = c.learning_rate.warm_up
    if warm_up.epochs > c.optimizer.epochs:
        yield (
            f'learning_rate.warm_up.epochs={warm_up.epochs:g} is more than '
            f'optimizer.epochs={c.optimizer.epochs:g}: the warm-up must end before the training'
        )
    if c.optimizer.rule == 'lars':
        for name, layer in c.model.layers().items():
            if not layer.bias and layer.rate_factor:
                yield (
                    f"model.{name}.bias=0 has no norm, by which optimizer.rule='lars' scales the "
                    f'learning rate: set it to another value, such as 0.01'
                )


def _constants_problems(augmentation: Augmentation) -> Iterator[str]:
    source = augmentation.constants
    if augmentation.mean == 'image' and source != 'data':
        yield (
            f"augmentation.constants='{source}' has no mean image: set augmentation.mean='colour' "
            "or augmentation.constants='data'"
        )
    if augmentation.colour.noise != 'none' and source == 'torchvision':
        yield (
            "augmentation.constants='torchvision' has no principal colours: set "
            "augmentation.colour.noise='none' or augmentation.constants='2012'"
        )
    if len(augmentation.deviations) != 3:
        yield (
            f'augmentation.deviations={augmentation.deviations} must have three divisors, those of '
            'red, green and blue'
        )


def _dataset_problems(dataset: Dataset) -> Iterator[str]:
    if dataset.folder and BUCKET.match(dataset.data_dir):
        yield (
            'dataset.folder cannot be prepared in a bucket: choose a dataset.data_dir on this '
            'machine'
        )
    if not dataset.name and not dataset.folder:
        yield 'dataset.name is empty: name a TFDS data set, or set dataset.folder'
    if dataset.classes == 1:
        yield 'dataset.classes=1 must be at least 2, or 0 for as many as the images have'
    for name in ('train_split', 'eval_split'):
        split = getattr(dataset, name)
        if not split.strip():
            yield f"dataset.{name} is empty: name a split, such as 'train' or 'test'"


def _model_problems(model: Model) -> Iterator[str]:
    if not model.conv1.maps:
        yield 'model.conv1.maps=0 must be at least 1: the net begins with conv1'
    if not model.conv1.shared:
        yield 'model.conv1.shared=False must be True: its kernels are shown as pictures'
    if model.conv1.reads != 'own':
        yield "model.conv1.reads must be 'own': the first layer reads the image"
    for name, layer in model.convolutions().items():
        if layer.batch_normalization and not layer.shared:
            yield (
                f'model.{name}.batch_normalization=True needs shared weights: '
                f'set model.{name}.shared=True'
            )
        yield from _order_problems(f'model.{name}.then', layer)


def _order_problems(name: str, layer: Convolution) -> Iterator[str]:
    """Yields a line for each order of operations that makes no sense."""
    then = layer.then
    nonlinearities = [operation for operation in then if operation in NONLINEARITIES]
    if len(nonlinearities) > 1:
        yield f'{name} has two nonlinearities, {" and ".join(nonlinearities)}: leave one out'
    if 'global_average_pooling' in then[:-1]:
        yield f'{name}: nothing comes after global_average_pooling, which leaves one pixel'
