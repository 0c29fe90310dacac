"""A run that begins with another one's parameters (§6: pre-training on all of ImageNet)."""

from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.config.schema import Pretrained
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Checkpoints


def take_over(params: dict[str, Any], settings: Pretrained) -> dict[str, Any]:
    """The initial parameters, those of `settings.layers` replaced by the other run's newest.

    Args:
      params: nested dict of float32 arrays on the host, as model.initialize gives them.

    Raises:
      UserError: there is no such run, or it has no such layer, or one of another shape.
    """
    if not settings.workdir:
        return params
    folder = Path(settings.workdir).expanduser() / 'checkpoints'
    theirs = None
    if folder.is_dir():
        checkpoints = Checkpoints(folder, keep=None)
        theirs = checkpoints.restore_params()
        checkpoints.close()
    if theirs is None:
        raise UserError(f'pretrained.workdir={settings.workdir} has no checkpoint')
    return params | {name: _layer(name, params, theirs, settings) for name in settings.layers}


def _layer(name: str, ours: Any, theirs: Any, settings: Pretrained) -> dict[str, np.ndarray]:
    if name not in ours or name not in theirs:
        whose = 'this net' if name not in ours else settings.workdir
        raise UserError(f'pretrained.layers names {name}, and {whose} has no such layer')
    shapes, found = ({k: x.shape for k, x in of[name].items()} for of in (ours, theirs))
    if shapes != found:
        raise UserError(
            f'{name} in {settings.workdir} has the shapes {found}, not {shapes}: take it out of '
            'pretrained.layers, or use the same net'
        )
    return theirs[name]
