"""What a training step changes, and where it lives."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation, loader, sources
from alexnet_jax.model import alexnet, towers
from alexnet_jax.training import pretrained
from alexnet_jax.training.optimizer import paper_momentum


class State(NamedTuple):
    """What a step changes.

    Attributes:
      step: () int32, steps done.
      params: nested dict of float32, (T, ...) but for fc8's bias.
      velocity: the optimizer's state; one array per parameter.
    """

    step: Any
    params: Any
    velocity: Any


def place_initial_state(config: Config, mesh: jax.sharding.Mesh) -> State:
    """The state before the first step, a function of the settings alone, where it belongs.

    Raises:
      UserError: it is to begin with another run's parameters, and they do not fit.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state_shapes(config, mesh))
    params = pretrained.load_layers(alexnet.initialize(config), config.pretrained)
    params = jax.device_put(params, shardings.params)
    init = jax.jit(paper_momentum(config).init, out_shardings=shardings.velocity)
    return State(jax.device_put(np.int32(0), shardings.step), params, init(params))


def state_shapes(config: Config, mesh: jax.sharding.Mesh) -> State:
    """Shapes, dtypes and shardings of the state."""
    shapes = _shapes(config)
    shardings = towers.shardings(mesh, towers.specs(mesh, shapes))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _shapes(config: Config) -> State:
    params = alexnet.shapes(config)
    velocity = jax.eval_shape(paper_momentum(config).init, params)
    return State(jax.ShapeDtypeStruct((), jnp.int32), params, velocity)


def place_constants(
    config: Config, mesh: jax.sharding.Mesh, splits: sources.Splits, bad: loader.Bad | None = None
) -> augmentation.Constants:
    """What the augmentation knows of the training set, on the devices; counted where it must be.

    Args:
      bad: takes in which training images cannot be read; None allows none.

    Raises:
      UserError: an image cannot be read.
    """
    sums = None
    if config.augmentation.constants == 'data':
        reading, split = loader.Reading.of(config), config.dataset.train_split
        sums = loader.statistics_of(splits.train, reading, splits.folder, split, bad)
    known = augmentation.constants(config.augmentation, config.dataset.image_size, sums)
    return jax.device_put(known, towers.shardings(mesh, towers.spec(mesh, 'constants')))
