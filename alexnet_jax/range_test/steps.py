"""The steps of a range test: those of training, with a learning rate that grows at each step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.config.durations import durations
from alexnet_jax.config.schema import Config
from alexnet_jax.data import sources
from alexnet_jax.data.loading import loader, unreadable_images
from alexnet_jax.model import towers
from alexnet_jax.range_test.curve import Curve, Range, entropy
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.training.optimizer import Progress, rates
from alexnet_jax.training.state import (
    State,
    place_constants,
    place_initial_state,
    read_or_compute_inputs,
    state_shapes,
)
from alexnet_jax.training.step import Hyperparameters, make_train_step
from alexnet_jax.training.workdir import Workdir

# The test ends once the rate is this factor above the first one that was not stable: what follows
# says nothing more.
_BEYOND = 2.5
_STEPS_BETWEEN_CHECKS = 10


class Start(NamedTuple):
    """The state that a test begins with.

    Attributes:
      state: the parameters, with a velocity of zero.
      step: the training steps done.
      origin: where the parameters come from, such as 'the checkpoint of step 270 in runs/digits'.
      divisor: what the schedule divides the initial learning rate by at this step.
    """

    state: State
    step: int
    origin: str
    divisor: float = 1.0


def start(
    config: Config,
    mesh: jax.sharding.Mesh,
    examples: int,
    workdir: Workdir,
    source: tuple[Path, int | None] | None,
) -> Start:
    """Returns the parameters with which the same command would begin to train.

    They are those of the newest checkpoint of the workdir; where there is none, those of `source`;
    else initial ones. The velocity of the checkpoint is left out: it was made at another rate, and
    would move the parameters for some ten steps at rates too low to correct it.

    Args:
      config: the settings of the run.
      mesh: the devices.
      examples: the number of training images.
      workdir: the folder of the run; it need not exist.
      source: the workdir and the step of another run's state; the step None is the newest one.

    Raises:
      UserError: a checkpoint cannot be read, or does not fit the net.
    """
    if workdir.exists() and workdir.newest_step() is not None:
        folder, step = workdir, None
    elif source is not None:
        folder, step = Workdir(source[0]), source[1]
        folder.checkpoint_step(step)  # raises a UserError where there is none
    else:
        pretrained = config.pretrained.workdir
        origin = f'the layers of {pretrained}' if pretrained else 'initial parameters'
        return Start(place_initial_state(config, mesh), 0, origin)
    state, position = folder.restore(state_shapes(config, mesh), step)
    state = state._replace(velocity=jax.tree.map(jnp.zeros_like, state.velocity))
    epoch = durations(config, examples).epoch(position.step)
    now = rates(config, epoch, position.progress).weights
    divisor = config.learning_rate.initial / now if now else math.inf
    origin = f'the checkpoint of step {position.step} in {folder.path}'
    return Start(state, position.step, origin, divisor)


def run(
    config: Config,
    mesh: jax.sharding.Mesh,
    splits: sources.Splits,
    workdir: Workdir,
    begin: Start,
    test: Range,
    stop: StopSignal,
) -> Curve:
    """Trains with growing rates, until the loss has risen, is not finite, or a signal arrives.

    Nothing is written to the workdir.

    Args:
      config: the settings of the run.
      mesh: the devices.
      splits: the images.
      workdir: the folder of the run, whose mean image is used where it has one.
      begin: the state to begin with.
      test: the learning rates.
      stop: records signals.

    Raises:
      UserError: an image cannot be read, or the images are not those of the run.
    """
    unreadable = unreadable_images.UnreadableImages(splits.train, config.loader.skip_bad)
    inputs = read_or_compute_inputs(workdir, config, splits, unreadable)
    constants, train_step = place_constants(config, mesh, inputs), make_train_step(config, mesh)
    batches = _batches(config, splits, begin.step, unreadable)
    plan, state = durations(config, len(splits.train)), begin.state
    counts, losses = np.zeros(config.dataset.classes, int), []

    def curve(ended_with: float | None = None) -> Curve:
        return Curve(test, np.array(losses), entropy(counts), ended_with)

    with ProgressBars() as bars:
        for step in range(test.steps):
            if stop.signal:
                break
            batch = next(batches)
            counts += np.bincount(batch['label'], minlength=len(counts))
            numbers = _hyperparameters(config, test.rate(step), plan.epoch(begin.step + step))
            on_devices = towers.put_replicated(mesh, numbers.pack())
            placed = towers.put_batch(mesh, batch)
            state, metrics = train_step(state, placed, constants, on_devices)
            loss = float(np.asarray(metrics['loss']))
            if not math.isfinite(loss):
                return curve(loss)
            losses.append(loss)
            bars.show_steps('range test', step + 1, test.steps)
            if step % _STEPS_BETWEEN_CHECKS == 0:
                unstable = curve().unstable_step()
                if unstable is not None and test.rate(step) > _BEYOND * test.rate(unstable):
                    break
    return curve()


def _batches(
    config: Config,
    splits: sources.Splits,
    first_step: int,
    unreadable: unreadable_images.UnreadableImages,
) -> Iterator[loader.Batch]:
    return loader.training_batches(
        splits.train,
        loader.Reading.from_config(config),
        config.seed,
        config.optimizer.batch_size,
        first_step,
        reshuffle=config.dataset.reshuffle,
        unreadable=unreadable,
    )


def _hyperparameters(config: Config, rate: float, epoch: float) -> Hyperparameters:
    """Returns the numbers of the first step of a run with this initial learning rate.

    The warm-up is left out: it has lower rates than the initial one.
    """
    no_warm_up = dataclasses.replace(config.learning_rate.warm_up, epochs=0.0)
    learning_rate = dataclasses.replace(config.learning_rate, initial=rate, warm_up=no_warm_up)
    changed = dataclasses.replace(config, learning_rate=learning_rate)
    deviation = config.augmentation.colour.deviation_at(epoch)
    return Hyperparameters(rates(changed, 0.0, Progress()), deviation)
