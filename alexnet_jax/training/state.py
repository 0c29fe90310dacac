"""The state of training, and how it is sharded.

The modules that read data sets are imported where they are needed: Grain and TFDS take most of a
second, which programs that use a trained net without its data set save.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import pretrained
from alexnet_jax.training.optimizer import update_rule
from alexnet_jax.training.run_files.inputs_file import Inputs, class_difference

if TYPE_CHECKING:
    from alexnet_jax.data import sources
    from alexnet_jax.data.loading.unreadable_images import UnreadableImages
    from alexnet_jax.training.workdir import Workdir


class State(NamedTuple):
    """The arrays that a training step changes.

    Attributes:
      step: () int32, the number of completed steps.
      params: nested dict of float32 arrays, (T, ...) except the bias of fc8.
      velocity: the optimizer's state, with one array for each parameter.
    """

    step: Any
    params: Any
    velocity: Any


def make_optimizer(config: Config) -> optax.GradientTransformationExtraArgs:
    """Returns the update rule for the net of these settings (§5)."""
    return update_rule(config, alexnet.parameter_info(config))


def place_initial_state(config: Config, mesh: jax.sharding.Mesh, params: Any = None) -> State:
    """Returns the state before the first step, on the mesh.

    Args:
      config: the settings of the run.
      mesh: the mesh of the run.
      params: nested dict of float32 arrays on the host; None for those that the settings determine.

    Raises:
      UserError: the settings ask for another run's parameters, and they do not fit.
    """
    shardings = towers.shardings(mesh, partitions(config, mesh))
    if params is None:
        params = pretrained.load_layers(alexnet.initialize(config), config.pretrained)
    params = towers.put(params, shardings.params)
    init = jax.jit(make_optimizer(config).init, out_shardings=shardings.velocity)
    return State(towers.put(np.int32(0), shardings.step), params, init(params))


def partitions(config: Config, mesh: jax.sharding.Mesh) -> State:
    """Returns how the state is sharded, with a PartitionSpec in place of each array.

    The velocity of a parameter is sharded as the parameter is.
    """
    params, optimizer = alexnet.partitions(config, mesh), make_optimizer(config)
    velocity = optax.tree_utils.tree_map_params(
        optimizer,  # pyrefly: ignore[bad-argument-type]
        lambda _, partition: partition,
        jax.eval_shape(optimizer.init, alexnet.shapes(config)),
        params,
        transform_non_params=lambda _: PartitionSpec(),
    )
    return State(towers.spec(mesh, 'step'), params, velocity)


def state_shapes(config: Config, mesh: jax.sharding.Mesh) -> State:
    """Returns the shapes, dtypes and shardings of the state."""
    params = alexnet.shapes(config)
    velocity = jax.eval_shape(make_optimizer(config).init, params)
    shapes = State(jax.ShapeDtypeStruct((), jnp.int32), params, velocity)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        towers.shardings(mesh, partitions(config, mesh)),
    )


def find_nonfinite(state: State) -> list[str]:
    """Names the arrays of a state that hold a value which is not finite.

    The devices reduce each array to one number, so this takes about as long as reading the state
    once from their memory. All processes call it, and each gets all names.

    Returns:
      Dotted names, such as 'params.conv1.kernel_THWIO'; [] if all values are finite.
    """
    compute = _compile_are_finite(state.step.sharding)  # on every device of the mesh
    are_finite = leaves_by_name(jax.device_get(compute(state._asdict())))
    return [name for name, is_finite in are_finite.items() if not is_finite]


@functools.cache
def _compile_are_finite(replicated: jax.sharding.Sharding) -> Callable[[Any], Any]:
    return jax.jit(_are_finite, out_shardings=replicated)


def _are_finite(state: Any) -> Any:
    return jax.tree.map(lambda x: jnp.isfinite(x).all(), state)


def compute_inputs(
    config: Config,
    splits: sources.Splits,
    unreadable: UnreadableImages | None = None,
) -> Inputs:
    """Returns what a net must know of its training set: mean image, colours, names of the classes.

    Mean and colours are computed from the training images if they are not stored beside the data
    set yet.

    Args:
      config: the settings of the run.
      splits: the data set.
      unreadable: collects the training images that cannot be read; None allows none.

    Raises:
      UserError: an image cannot be read.
    """
    sums = None
    if config.augmentation.constants == 'data':
        from alexnet_jax.data.loading import loader

        reading, split = loader.Reading.from_config(config), config.dataset.train_split
        sums = loader.statistics_of(splits.train, reading, splits.folder, split, unreadable)
    size = config.dataset.image_size
    mean_HWC, colours = augmentation.choose_statistics(config.augmentation, size, sums)
    return Inputs(mean_HWC, colours, tuple(splits.train.classes))


def read_or_write_inputs(
    workdir: Workdir,
    config: Config,
    splits: sources.Splits,
    unreadable: UnreadableImages,
) -> Inputs:
    """Reads the mean image and the classes of a run; at its first start, computes and writes them.

    Args:
      workdir: the folder of the run, claimed by this process.
      config: its settings.
      splits: the images.
      unreadable: collects the training images that cannot be read.

    Raises:
      UserError: the file in the workdir is damaged or has other classes than the training images.
    """
    inputs = read_or_compute_inputs(workdir, config, splits, unreadable)
    if not workdir.has_inputs():  # the first start, or a run of a version that did not keep them
        workdir.write_inputs(inputs)
    return inputs


def read_or_compute_inputs(
    workdir: Workdir,
    config: Config,
    splits: sources.Splits,
    unreadable: UnreadableImages,
) -> Inputs:
    """Returns the mean image and the classes of a run as `read_or_write_inputs`; writes nothing.

    Args:
      workdir: the folder of the run; it need not exist.
      config: the settings.
      splits: the images.
      unreadable: collects the training images that cannot be read.

    Raises:
      UserError: as from there.
    """
    inputs = workdir.read_inputs() if workdir.exists() else None
    if inputs is None:
        inputs = compute_inputs(config, splits, unreadable)
    if difference := class_difference(inputs.classes, splits.train.classes):
        raise UserError(
            f'the images have other classes than {printable(str(workdir.path))} ({difference}): '
            'choose images of the same classes in the same order, or another --workdir'
        )
    return inputs


def place_constants(
    config: Config, mesh: jax.sharding.Mesh, inputs: Inputs
) -> augmentation.Constants:
    """Returns the mean and the principal colours on the devices, as the augmentation needs them."""
    constants = augmentation.constants(config.augmentation, inputs.mean_HWC, inputs.colours)
    return towers.put(constants, towers.shardings(mesh, towers.spec(mesh, 'constants')))
