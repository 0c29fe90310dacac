"""One training step on all devices (§5)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.batch_normalization import update_averages
from alexnet_jax.model.dropout import Masks
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.top_k_credit import credit
from alexnet_jax.training import small_updates
from alexnet_jax.training.optimizer import Progress, Rates, apply_updates, rates
from alexnet_jax.training.state import State, make_optimizer, partitions
from alexnet_jax.training.updates import batch_scheme
from alexnet_jax.training.updates.batch_scheme import ApplyTraining, BatchScheme

StepFunction = Callable[
    [State, dict[str, Array], augmentation.Constants, Array | np.ndarray],
    tuple[State, dict[str, Array]],
]


class Hyperparameters(NamedTuple):
    """The numbers that the schedules set for each step, which takes them as one array.

    Attributes:
      rates: the learning rates.
      deviation: the standard deviation of the colour noise, on the scale of
        `Constants.colours`; a float or () float32.
    """

    rates: Rates
    deviation: Any

    SIZE = len(Rates._fields) + 1  # numbers in the array

    @classmethod
    def at(cls, config: Config, epoch: float, progress: Progress) -> 'Hyperparameters':
        """Returns the numbers after `epoch` passes over the training set, as floats.

        Args:
          config: the settings of the run.
          epoch: passes over the training set before this step, with a fraction.
          progress: the state of the plateau schedule.
        """
        deviation = config.augmentation.colour.deviation_at(epoch)
        return cls(rates(config, epoch, progress), deviation)

    def pack(self) -> np.ndarray:
        """Returns the (SIZE,) float32 array that a step takes."""
        return np.array([*self.rates, self.deviation], np.float32)

    @classmethod
    def unpack(cls, array: Array) -> 'Hyperparameters':
        """Returns the numbers of an array that `pack` has returned, each () float32."""
        *rates, deviation = (array[i] for i in range(cls.SIZE))
        return cls(Rates(*rates), deviation)


def make_train_step(
    config: Config, mesh: jax.sharding.Mesh, apply_training: ApplyTraining | None = None
) -> StepFunction:
    """Compiles one step of the paper's recipe.

    Args:
      config: the settings of the run.
      mesh: the mesh of the run.
      apply_training: another form of the net, with the arguments and results of
        `alexnet.apply_training` without `graph`; None for the net of the settings.

    Raises:
      ValueError: another form of the net is asked to update its dense layers by sub-batches.

    Returns:
      `step(state, batch, constants, hyperparameters)`. `batch` holds 'image', (B, size, size, 3)
      uint8, and 'label', (B,) int32; `hyperparameters` is the array of `Hyperparameters.pack`. It
      returns the new state, for which it reuses the old state's memory, and the batch means of
      'loss' (nats) and 'top1_error' (a fraction).
    """
    memory, batch_size = config.model.batch_normalization.memory, config.optimizer.batch_size
    scheme = _choose_scheme(config, mesh, apply_training)
    update = _choose_update(config, mesh)
    state_specs = partitions(config, mesh)
    images, replicated = towers.spec(mesh, 'images'), towers.spec(mesh, 'metrics')

    def step(
        state: State, batch: Any, constants: augmentation.Constants, hyperparameters: Array
    ) -> tuple[State, Any]:
        """Computes the part of one device."""
        numbers = Hyperparameters.unpack(hyperparameters)
        view_key, mask_key = keys_of_step(config, state.step)
        views_BHWC = _draw_views(config, view_key, batch['image'], constants, numbers.deviation)
        masks = Masks(mask_key, batch_size)

        def update_state(state: State, gradients: Any) -> tuple[Any, Any]:
            return update(state, gradients, numbers.rates, hyperparameters)

        result = scheme(state, views_BHWC, batch['label'], masks, update_state)
        with jax.named_scope('update'):
            params = update_averages(result.params, result.moments, memory)
        with jax.named_scope('loss'):
            correct = towers.total_over_data(credit(result.logits_BK, batch['label'], 1).sum())
        metrics = {'loss': result.loss, 'top1_error': 1 - correct / batch_size}
        return State(state.step + 1, params, result.velocity), metrics

    in_specs, out_specs = (state_specs, images, *[replicated] * 2), (state_specs, replicated)
    return towers.compile_program(step, config, mesh, in_specs, out_specs, donate_argnums=0)


def _choose_scheme(
    config: Config, mesh: jax.sharding.Mesh, apply_training: ApplyTraining | None
) -> BatchScheme:
    graph = alexnet.graph(config, mesh)
    if config.optimizer.dense_updates == 1:
        net = apply_training or functools.partial(alexnet.apply_training, graph)
        return batch_scheme.update_once(net)
    if apply_training is not None:
        raise ValueError('another form of the net has no sub-batches')
    return batch_scheme.update_by_sub_batches(config, graph)


def keys_of_step(config: Config, step: Array) -> tuple[Array, Array]:
    """Returns the random keys of the views and of the dropout masks after `step` steps."""
    view_key, mask_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step))
    return view_key, mask_key


@jax.named_scope('views')
def _draw_views(
    config: Config,
    key: Array,
    images_BHWC: Array,
    constants: augmentation.Constants,
    deviation: Array,
) -> Array:
    """Returns the random views of this device's images, (B, crop, crop, 3) float32."""
    views, size = config.augmentation, config.dataset.image_size
    draw = augmentation.draw_views(key, config.optimizer.batch_size, size, views)
    draw = augmentation.Draw(*(towers.own_images(x) for x in draw))
    return augmentation.random_views(images_BHWC, constants, draw, views, deviation)


def _choose_update(
    config: Config, mesh: jax.sharding.Mesh
) -> Callable[[State, Any, Rates, Array], tuple[Any, Any]]:
    """Returns the function that computes the new parameters and velocities on one device.

    Returns:
      `update(state, gradients, rates, hyperparameters)`, which returns the parameters and the
      velocities after the step. `rates` are the same numbers as in the array `hyperparameters`: the
      kernel for small arrays reads the array itself.
    """
    optimizer, update_small = make_optimizer(config), _choose_small_updates(config, mesh)

    def update(
        state: State, gradients: Any, rates: Rates, hyperparameters: Array
    ) -> tuple[Any, Any]:
        updates, velocity = optimizer.update(
            gradients, state.velocity, state.params, learning_rate=rates
        )
        params = apply_updates(config, state.params, updates)
        if update_small is None:
            return params, velocity
        return update_small(state, gradients, hyperparameters, params, velocity)

    return update


def _choose_small_updates(config: Config, mesh: jax.sharding.Mesh) -> Callable[..., Any] | None:
    """Returns the function that updates small arrays by a kernel; None where there is no kernel."""
    platform = Platform.of_devices(mesh.devices.flat)
    return small_updates.choose(config, platform) if platform.name == 'gpu' else None
