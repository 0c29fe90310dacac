"""Initial parameters from another run (§6: pre-training on all of ImageNet)."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.config import schema
from alexnet_jax.config.model_schema import LAYERS
from alexnet_jax.config.schema import Config, Pretrained
from alexnet_jax.config.settings import catalogue
from alexnet_jax.model import alexnet
from alexnet_jax.model.layer_table import FIRST
from alexnet_jax.model.parameters import shapes_by_name
from alexnet_jax.runtime.printing import list_names, printable, warn
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.optimizer import frozen_layers
from alexnet_jax.training.workdir import Workdir

_OF_BOTH = ('stride', 'padding', 'extra_padding', 'then')

# Settings of a layer that change what it computes, and those on which its shape, or that of the
# next layer, depends.
_OF_COMPUTATION = (*_OF_BOTH, 'nonlinearity', 'input_dropout', 'dropout')
_OF_SHAPE = (*_OF_BOTH, 'maps', 'units', 'kernel', 'reads', 'shared', 'batch_normalization')


def check_workdir(config: Config, workdir: Path, is_new: bool = True) -> str:
    """Checks, before any data are prepared, that the other run is there and its layers fit.

    Prints a warning where a frozen layer has random weights, and where a layer computes something
    else with these settings than with those of the other run. A run that is resumed no longer needs
    the other one.

    Args:
      config: the settings of this run.
      workdir: the folder of this run; it need not exist.
      is_new: whether the run begins with initial parameters, unless its workdir has a checkpoint.

    Returns:
      A line that says which layers begin with the parameters of the other run and which with random
      ones; '' if no layer is taken.

    Raises:
      UserError: `pretrained.workdir` is not a run or has no checkpoint, one of the nets lacks a
        layer of `pretrained.layers`, or has it in another shape.
    """
    settings = config.pretrained
    if not is_new or Workdir(workdir).newest_step() is not None:
        return ''
    _warn_of_frozen_layers(config)
    if not settings.workdir:
        return ''
    run = Workdir(Path(settings.workdir).expanduser())
    try:
        other = run.read_config()
        step = run.checkpoint_step()
    except UserError as error:
        raise UserError(f'pretrained.workdir={settings.workdir}: {error}') from error
    _check_names(settings, config.model.layers(), other.model.layers())
    shapes, source_shapes = alexnet.shapes(config), alexnet.shapes(other)
    for name in settings.layers:
        _check_shapes(name, shapes[name], source_shapes[name], settings, _remedy(config, other))
    differences = _differences(config, other, settings.layers)
    if differences:
        warn(
            f'the layers of {printable(settings.workdir)} were trained with other settings: '
            f'{list_names(differences, 3)}'
        )
    random = [name for name in config.model.layers() if name not in settings.layers]
    return (
        f'{list_names(settings.layers)} begin as in {printable(settings.workdir)} after step {step}'
        + (f'; random: {list_names(random)}' if random else '')
    )


def _warn_of_frozen_layers(config: Config) -> None:
    layers = config.pretrained.layers if config.pretrained.workdir else ()
    random = [name for name in frozen_layers(config) if name not in (*layers, FIRST)]
    if random:
        warn(
            f'frozen with random weights: {list_names(random)}, where rate_factor is 0 and '
            'pretrained.layers takes none from another run'
        )


def load_layers(params: dict[str, Any], settings: Pretrained) -> dict[str, Any]:
    """Replaces some layers of the initial parameters by those of another run's newest checkpoint.

    Args:
      params: nested dict of float32 arrays on the host, as `alexnet.initialize` returns them.
      settings: the workdir of the other run, '' for none, and the names of the layers.

    Returns:
      A dict like `params`.

    Raises:
      UserError: the other run has no checkpoint, lacks one of the layers, or has it in another
        shape.
    """
    if not settings.workdir:
        return params
    with Workdir(Path(settings.workdir).expanduser()).open_checkpoints() as checkpoints:
        source = checkpoints.restore_params()
    if source is None:
        raise UserError(f'pretrained.workdir={settings.workdir} has no checkpoint')
    _check_names(settings, params, source)
    for name in settings.layers:
        _check_shapes(name, params[name], source[name], settings, 'use the same net')
    return params | {name: source[name] for name in settings.layers}


def _check_names(settings: Pretrained, layers: Collection[str], others: Collection[str]) -> None:
    """Raises a UserError if this net or the other one lacks a layer of `pretrained.layers`."""
    for net, names in (('this net', layers), (settings.workdir, others)):
        for name in settings.layers:
            if name not in names:
                raise UserError(f'pretrained.layers names {name}, and {net} has no such layer')


def _check_shapes(name: str, layer: Any, other: Any, settings: Pretrained, remedy: str) -> None:
    """Raises a UserError if a layer has another shape than that of the other run."""
    shapes, others = shapes_by_name(layer), shapes_by_name(other)
    if shapes == others:
        return
    leave_out = f'leave {name} out of pretrained.layers'
    if name == 'fc8' and shapes['kernel_TIK'][:2] == others['kernel_TIK'][:2]:
        classes, other_classes = shapes['bias'][0], others['bias'][0]
        raise UserError(
            f'fc8 in {settings.workdir} is for {other_classes} classes, and this run has '
            f'{classes}: {leave_out}, so that it begins with random weights'
        )
    raise UserError(
        f'{name} in {settings.workdir} has the shapes {_describe(others)}, and in this net '
        f'{_describe(shapes)}: {remedy}, or {leave_out}'
    )


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ', '.join(f'{name} {shape}' for name, shape in shapes.items())


def _remedy(config: Config, other: Config) -> str:
    """Returns how to build the net of the other run: the settings in which they differ."""
    layers = [f'model.{layer}.{field}' for layer in LAYERS for field in _OF_SHAPE]
    names = ['model.towers', 'model.width', *layers]
    names += ['model.max_pooling.window', 'model.max_pooling.stride', 'augmentation.crop']
    changes = [
        f'--config.{name}={",".join(map(str, x)) if isinstance(x, tuple) else x}'
        for name, (_, x) in _differing(config, other, names).items()
    ]
    return f'set {list_names(changes)}' if 0 < len(changes) <= 4 else 'use the recipe of that run'


def _differences(config: Config, other: Config, layers: Collection[str]) -> list[str]:
    """Returns what makes these layers compute something else than in the other run."""
    names = [f'model.{layer}.{field}' for layer in layers for field in _OF_COMPUTATION]
    operations = {x for name in layers for x in getattr(getattr(config.model, name), 'then', ())}
    names += [x for x in catalogue() if x.startswith('model.') and x.split('.')[1] in operations]
    if FIRST in layers:
        names.append('augmentation.deviations')
    differing = _differing(config, other, names)
    return [f'{name}={here} and not {there}' for name, (here, there) in differing.items()]


def _differing(config: Config, other: Config, names: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Returns the values here and there of those settings that differ."""
    here, there = (schema.flatten(schema.as_dict(c)) for c in (config, other))
    return {
        name: (here[name], there[name])
        for name in names
        if name in here and here[name] != there[name]
    }
