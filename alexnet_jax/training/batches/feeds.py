"""The two sources of a run's batches (§2): the loader, or images that stay on the devices."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from alexnet_jax.config.durations import Durations
from alexnet_jax.config.schema import Config
from alexnet_jax.data import sources
from alexnet_jax.data.loading import loader
from alexnet_jax.data.loading.unreadable_images import UnreadableImages
from alexnet_jax.model import towers
from alexnet_jax.runtime.printing import show
from alexnet_jax.training.batches import memory_plan
from alexnet_jax.training.batches.filling import fill
from alexnet_jax.training.batches.resident_images import ResidentImages


class Feed:
    """Gives the batches of training and of the test on the devices; the loader reads them.

    An item is what a batch is made from; items are read ahead of the batches.

    Args:
      config: the settings of the run.
      mesh: the devices.
      splits: the images.
      unreadable: receives the training images that cannot be read.
    """

    def __init__(
        self,
        config: Config,
        mesh: jax.sharding.Mesh,
        splits: sources.Splits,
        unreadable: UnreadableImages,
    ) -> None:
        self._config, self._mesh = config, mesh
        self._splits, self._unreadable = splits, unreadable

    def batches(self, first_step: int) -> Iterator[Any]:
        """Yields the items of training, without end, from a step on."""
        config = self._config
        return loader.training_batches(
            self._splits.train,
            loader.Reading.from_config(config),
            config.seed,
            config.optimizer.batch_size,
            first_step,
            reshuffle=config.dataset.reshuffle,
            rows=towers.rows_of_process(self._mesh, config.optimizer.batch_size),
            unreadable=self._unreadable,
        )

    def place(self, item: Any) -> dict[str, Array]:
        """Returns the batch of an item on the devices, without waiting for it."""
        return towers.put_batch(self._mesh, item)

    def on_host(self, item: Any, batch: dict[str, Array]) -> loader.Batch:
        """Returns the rows of a batch that this process reads, from its item and itself."""
        return item

    def test_batches(self, batch_size: int) -> Iterator[Any]:
        """Yields the items of the test images, in their order."""
        rows = towers.rows_of_process(self._mesh, batch_size)
        reading = loader.Reading.from_config(self._config)
        return loader.evaluation_batches(self._splits.eval, reading, batch_size, rows)

    def place_test(self, item: Any) -> dict[str, Array]:
        """Returns the batch of such an item on the devices, with 'weight', without waiting."""
        return towers.put_batch(self._mesh, item)


class ResidentFeed(Feed):
    """Gathers the batches from images on the devices. An item says which images are in a batch.

    Args:
      config, mesh, splits, unreadable: as for `Feed`.
      training: the training images.
      test: the test images; None if the loader reads them.
    """

    def __init__(
        self,
        config: Config,
        mesh: jax.sharding.Mesh,
        splits: sources.Splits,
        unreadable: UnreadableImages,
        training: ResidentImages,
        test: ResidentImages | None = None,
    ) -> None:
        super().__init__(config, mesh, splits, unreadable)
        self._training, self._test = training, test

    def batches(self, first_step: int) -> Iterator[Any]:
        """Yields the indices of the images in each batch, (B,) int64."""
        config, length = self._config, len(self._splits.train)
        seed = config.seed if config.dataset.reshuffle else None
        order = loader.BatchOrder(length, config.optimizer.batch_size, seed)
        return map(order.indices, itertools.count(first_step))

    def place(self, item: Any) -> dict[str, Array]:
        """Gathers a batch on the devices, without waiting for it."""
        return self._training.take(item)

    def on_host(self, item: Any, batch: dict[str, Array]) -> loader.Batch:
        """Copies a batch from the devices."""
        return jax.device_get(batch)

    def test_batches(self, batch_size: int) -> Iterator[Any]:
        """Yields the numbers of the first image in each batch and of the one after its last."""
        if self._test is None:
            return super().test_batches(batch_size)
        length = len(self._splits.eval)
        return ((first, first + batch_size) for first in range(0, length, batch_size))

    def place_test(self, item: Any) -> dict[str, Array]:
        """Gathers a batch on the devices, without waiting for it."""
        if self._test is None:
            return super().place_test(item)
        positions, length = np.arange(*item), len(self._splits.eval)
        weights = towers.put_batch(self._mesh, {'weight': (positions < length).astype(np.float32)})
        return self._test.take(positions % length) | weights


def choose(
    config: Config,
    mesh: jax.sharding.Mesh,
    splits: sources.Splits,
    unreadable: UnreadableImages,
    step: Any,
    first_step: int,
    plan: Durations,
) -> Feed:
    """Returns the feed that the settings ask for, and says which one it is.

    Where images stay on the devices, they are read now.

    Args:
      config: the settings of the run.
      mesh: the devices.
      splits: the images.
      unreadable: receives the training images that cannot be read.
      step: the training step, a jitted function.
      first_step: the steps that are done.
      plan: the durations of the run.

    Raises:
      Stopped: a signal arrived while the images were read.
      UserError: the settings demand that they stay on the devices, and they do not fit; or an image
        cannot be read.
    """
    steps_left = plan.steps - first_step
    is_tested_again = plan.steps // plan.evaluate_every - first_step // plan.evaluate_every > 1
    needs = memory_plan.Needs(
        len(splits.train), steps_left * plan.batch_size, is_tested_again * len(splits.eval)
    )
    decision = memory_plan.decide(config, mesh, step, needs)
    if decision.line:
        show(decision.line)
    feed = config, mesh, splits, unreadable
    if not decision.has_training:
        return Feed(*feed)
    reading, test = loader.Reading.from_config(config), None
    training = fill(mesh, splits.train, reading, unreadable)
    if decision.has_test:
        test = fill(mesh, splits.eval, reading, kind='test')
    return ResidentFeed(*feed, training, test)
