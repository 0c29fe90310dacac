"""A trained net on the host, independent of devices, checkpoints and data sets."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.evaluation.trained_net import (
    ANY_MESH,
    NEWEST,
    Checkpoint,
    mesh_of_this_machine,
    read_inputs,
    restore,
)
from alexnet_jax.model import alexnet, memory
from alexnet_jax.model.parameters import leaves_by_name, shapes_by_name
from alexnet_jax.runtime.paths import check_writable
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Position
from alexnet_jax.training.run_files.inputs_file import Inputs
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.workdir import Workdir


@dataclasses.dataclass(frozen=True, eq=False)
class PortableNet:
    """A trained net on the host.

    Attributes:
      config: the settings of its run.
      params: nested dict of float32 arrays, as `alexnet.initialize` returns it.
      inputs: the mean image, the colours and the names of the classes.
      step: the training steps done; 0 where they are not known.

    Raises:
      ValueError: parameters or inputs are those of another net, or a parameter is not finite.
    """

    config: schema.Config
    params: dict[str, Any]
    inputs: Inputs
    step: int = 0

    def __post_init__(self) -> None:
        expected, actual = shapes_by_name(alexnet.shapes(self.config)), shapes_by_name(self.params)
        for name in sorted(expected.keys() | actual.keys()):
            if expected.get(name) != actual.get(name):
                raise ValueError(
                    f'{name} has the shape {actual.get(name)}, not {expected.get(name)}'
                )
        for name, x in leaves_by_name(self.params).items():
            if x.dtype != np.float32:
                raise ValueError(f'{name} is of type {x.dtype}, not float32')
            if not np.isfinite(x).all():
                raise ValueError(f'{name} has values that are not finite')
        self.inputs.check(self.config.dataset.image_size, self.config.dataset.classes)


def read_run(workdir: Path, checkpoint: Checkpoint = NEWEST) -> PortableNet:
    """Reads a checkpoint of a run.

    Args:
      workdir: the folder of the run.
      checkpoint: 'newest'; 'best', the one with the lowest test error; or its training steps.

    Raises:
      UserError: the folder holds no run or no such checkpoint; the run is of an earlier version,
        which did not keep its mean image, and its data set is gone; or the net has diverged.
    """
    folder = Workdir(workdir)
    config = folder.read_config()
    _, step, params = restore(folder, config, checkpoint=checkpoint)
    inputs = read_inputs(folder)
    try:
        return PortableNet(config, jax.device_get(params), inputs, step)
    except ValueError as error:
        raise UserError(f'checkpoint {step} of {workdir}: {error}') from error


def write_run(net: PortableNet, workdir: Path, origin: Mapping[str, Any]) -> None:
    """Makes a workdir that evaluate, predict, main and report take as that of any run.

    Its only checkpoint is of step 0, with a velocity of 0: training begins with these weights.

    Args:
      net: the net.
      workdir: the folder; it is created, and it must not hold a run. What an import that was
        interrupted has left there is replaced.
      origin: plain values that describe where the weights come from; config.json records them.

    Raises:
      UserError: the folder holds a run or cannot be written.
    """
    folder = Workdir(workdir)
    check_writable(workdir, '--workdir')
    if folder.exists() and not folder.lacks_imported_weights():
        raise UserError(f'{workdir} holds a run already: choose another --workdir')
    config = dataclasses.replace(net.config, mesh=ANY_MESH)
    mesh = mesh_of_this_machine(config)
    memory.check(config, mesh, is_training=False)
    with folder.claim(config, mesh, imported=origin):
        folder.write_inputs(net.inputs)
        with folder.open_checkpoints(keep=config.checkpoint.keep) as checkpoints:
            checkpoints.save(place_initial_state(config, mesh, net.params), Position())
            checkpoints.wait()
