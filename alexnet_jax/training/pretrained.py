"""Initial parameters from another run (§6: pre-training on all of ImageNet)."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config.schema import Config, Pretrained
from alexnet_jax.model.parameters import shapes_by_name
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir


def check_workdir(config: Config, workdir: Path) -> None:
    """Checks, before any data are prepared, that the other run is there and has the layers.

    A run that is resumed no longer needs the other one.

    Args:
      config: the settings of this run.
      workdir: the folder of this run; it need not exist.

    Raises:
      UserError: `pretrained.workdir` is not a run or has no checkpoint, or one of the nets lacks a
        layer of `pretrained.layers`.
    """
    settings = config.pretrained
    if not settings.workdir or Workdir(workdir).newest_step() is not None:
        return
    run = Workdir(Path(settings.workdir).expanduser())
    try:
        other = run.read_config()
        run.checkpoint_step()
    except UserError as error:
        raise UserError(f'pretrained.workdir={settings.workdir}: {error}') from error
    _check_names(settings, config.model.layers(), other.model.layers())


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
    return params | {name: _layer(name, params, source, settings) for name in settings.layers}


def _check_names(settings: Pretrained, layers: Collection[str], others: Collection[str]) -> None:
    """Raises a UserError if this net or the other one lacks a layer of `pretrained.layers`."""
    for net, names in (('this net', layers), (settings.workdir, others)):
        for name in settings.layers:
            if name not in names:
                raise UserError(f'pretrained.layers names {name}, and {net} has no such layer')


def _layer(name: str, params: Any, source: Any, settings: Pretrained) -> dict[str, np.ndarray]:
    shapes, source_shapes = (shapes_by_name(layers[name]) for layers in (params, source))
    if shapes != source_shapes:
        raise UserError(
            f'{name} in {settings.workdir} has the shapes {source_shapes}, not {shapes}: remove it '
            'from pretrained.layers, or use the same net'
        )
    return source[name]
