"""From the values of a config file to the settings of a run, or one line on what is wrong."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from alexnet_jax.config.schema import (
    CONSTANTS,
    DTYPES,
    MEAN,
    NOISE,
    NONLINEARITIES,
    OPERATIONS,
    READS,
    RESIZE,
    SCHEDULES,
    Config,
    Model,
    as_dict,
    flatten,
)
from alexnet_jax.runtime.user_errors import UserError


def resolve(raw: Mapping[str, Any]) -> Config:
    """The checked settings of a run.

    Args:
      raw: nested mappings, as a file in `configs/` states them.

    Raises:
      UserError: a setting is unknown, missing, of the wrong type or out of range.
    """
    config = _build(Config, raw, '')
    for problem in _problems(config):
        raise UserError(problem)
    return config


def _build(cls: Any, raw: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.4)
            hint = f'did you mean {prefix}{near[0]}?' if near else f'known here: {", ".join(hints)}'
            raise UserError(f'unknown setting {prefix}{key}: {hint}')
    missing = [f'{prefix}{key}' for key in hints if key not in raw]
    if missing:
        raise UserError(f'the config lacks {", ".join(missing)}: add it to the config file')
    return cls(**{key: _convert(hint, raw[key], prefix + key) for key, hint in hints.items()})


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f'{name} is a section with settings of its own, not {value!r}')
        return _build(hint, value, f'{name}.')
    if isinstance(hint, types.GenericAlias):  # tuple[item, ...]
        if not isinstance(value, (tuple, list)):
            raise UserError(f'{name} must be a tuple, not {value!r}')
        return tuple(_convert(typing.get_args(hint)[0], item, name) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise UserError(f'{name} must be of type {hint.__name__}, not {value!r}')
    return value


_CHOICES = {
    'dataset.resize': RESIZE,
    'augmentation.mean': MEAN,
    'augmentation.constants': CONSTANTS,
    'augmentation.colour.noise': NOISE,
    'learning_rate.schedule': SCHEDULES,
    'model.dtype': DTYPES,
}
_MAY_BE_ZERO = ('.padding', '.maps', '.units', '.positions')
_POSITIVE = ('.std', '.epsilon', '.epochs', '.every_epochs', '.divide_by', '.initial', '.width')


def _problems(c: Config) -> Iterator[str]:
    """One line for each setting that cannot be."""
    flat = flatten(as_dict(c))
    may_be_zero = {'seed', 'mesh.tower', 'mesh.data', 'loader.threads', 'loader.workers'}
    may_be_zero |= {'loader.skip_bad', 'learning_rate.plateau.drops'}
    may_be_zero |= {name for name in flat if name.endswith(_MAY_BE_ZERO)}
    for name, value in flat.items():
        if type(value) is int and value < (name not in may_be_zero):
            yield f'{name}={value} must be at least {int(name not in may_be_zero)}'
        if name.endswith('.decay_factor') and value < 0:
            yield f'{name}={value} must be at least 0'
        if type(value) is float and not math.isfinite(value):
            yield f'{name}={value} must be a finite number'
        if type(value) is float and name.endswith(_POSITIVE) and value <= 0:
            yield f'{name}={value} must be above 0'
        if name.endswith(('.dropout', '.momentum', '.memory')) and not 0 <= value < 1:
            yield f'{name}={value} must be at least 0 and below 1'
    if c.dataset.classes < 2:
        yield f'dataset.classes={c.dataset.classes} must be at least 2'
    if c.augmentation.crop > c.dataset.image_size:
        yield (
            f'augmentation.crop={c.augmentation.crop} is larger than '
            f'dataset.image_size={c.dataset.image_size}'
        )
    places = c.dataset.image_size - c.augmentation.crop + 1
    if c.augmentation.positions > max(1, places):
        yield (
            f'augmentation.positions={c.augmentation.positions}, and a crop of '
            f'{c.augmentation.crop} of {c.dataset.image_size} pixels has {places}'
        )
    choices = _CHOICES | {name: READS for name in flat if name.endswith('.reads')}
    choices |= {name: NONLINEARITIES for name in flat if name.endswith('.nonlinearity')}
    for name, known in choices.items():
        if flat[name] not in known:
            yield f'{name}={flat[name]!r} is none of {", ".join(known)}'
    if c.augmentation.mean == 'image' and c.augmentation.constants == '2012':
        yield (
            "augmentation.constants='2012' has no mean image: set augmentation.mean='colour' or "
            "augmentation.constants='data'"
        )
    if c.augmentation.colour.deviation < 0 or c.augmentation.colour.until_epoch < 0:
        yield 'augmentation.colour.deviation and .until_epoch must be at least 0'
    yield from _model_problems(c.model)
    if c.mesh.tower and c.model.towers % c.mesh.tower:
        yield (
            f'mesh.tower={c.mesh.tower} does not divide model.towers={c.model.towers}: '
            'every device of the tower axis holds the same number of towers'
        )
    for section in ('optimizer', 'evaluation'):
        batch_size = flat[f'{section}.batch_size']
        if c.mesh.data and batch_size % c.mesh.data:
            yield f'{section}.batch_size={batch_size} is not divisible by mesh.data={c.mesh.data}'


def _model_problems(model: Model) -> Iterator[str]:
    for name, layer in model.convolutions().items():
        for operation in layer.then:
            if operation not in OPERATIONS:
                known = ', '.join(OPERATIONS)
                yield f'model.{name}.then has {operation!r}, which is none of {known}'
        if 'batch_normalization' in layer.then[1:]:
            yield f'model.{name}.then: batch_normalization comes first, on what the layer sums up'
        if 'batch_normalization' in layer.then and not layer.shared:
            yield f'model.{name}: batch_normalization needs shared weights'
    if not model.conv1.maps:
        yield 'model.conv1.maps=0 must be at least 1: the net begins with conv1'
    if not model.conv1.shared:
        yield 'model.conv1.shared=False must be True: its kernels are shown as pictures'
    for name in ('response_normalization', 'spatial_normalization'):
        norm = getattr(model, name)
        if norm.k <= 0 or norm.alpha < 0:
            yield f'model.{name} needs k > 0, alpha >= 0; not {norm.k}, {norm.alpha}'
