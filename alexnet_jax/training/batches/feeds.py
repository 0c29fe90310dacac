"""The two sources of a run's batches (§2): the loader, or images that stay on the devices."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data import sources
from alexnet_jax.data.loading import loader
from alexnet_jax.data.loading.unreadable_images import UnreadableImages
from alexnet_jax.model import towers
from alexnet_jax.runtime.printing import show
from alexnet_jax.training.batches import memory_plan
from alexnet_jax.training.batches.filling import fill
from alexnet_jax.training.batches.resident_images import ResidentImages


class Feed(Protocol):
    """Gives the batches of training, in the order that seed and step determine."""

    def batches(self, first_step: int) -> Iterator[Any]:
        """Yields what `place` needs for each batch, without end, from a step on."""
        ...

    def place(self, item: Any) -> dict[str, Array]:
        """Returns a batch on the devices, without waiting for it."""
        ...

    def on_host(self, item: Any, batch: dict[str, Array]) -> loader.Batch:
        """Returns the rows of a batch that this process reads, from the item and the batch."""
        ...


class LoaderFeed:
    """Batches that the loader reads.

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

    def batches(self, first_step: int) -> Iterator[loader.Batch]:
        """Yields batches on the host; see `loader.training_batches`."""
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

    def place(self, item: loader.Batch) -> dict[str, Array]:
        """Copies a batch to the devices, without waiting for it."""
        return towers.put_batch(self._mesh, item)

    def on_host(self, item: loader.Batch, batch: dict[str, Array]) -> loader.Batch:
        """Returns the batch that was read."""
        return item


class ResidentFeed:
    """Batches that are gathered from images on the devices.

    Args:
      config: the settings of the run.
      length: the number of images.
      images: the images.
    """

    def __init__(self, config: Config, length: int, images: ResidentImages) -> None:
        seed = config.seed if config.dataset.reshuffle else None
        self._order = loader.BatchOrder(length, config.optimizer.batch_size, seed)
        self._images = images

    def batches(self, first_step: int) -> Iterator[np.ndarray]:
        """Yields the indices of the images in each batch, (B,) int64."""
        step = first_step
        while True:
            yield self._order.indices(step)
            step += 1

    def place(self, item: np.ndarray) -> dict[str, Array]:
        """Gathers a batch on the devices, without waiting for it."""
        return self._images.take(item)

    def on_host(self, item: np.ndarray, batch: dict[str, Array]) -> loader.Batch:
        """Copies a batch from the devices."""
        return jax.device_get(batch)


def choose(
    config: Config,
    mesh: jax.sharding.Mesh,
    splits: sources.Splits,
    unreadable: UnreadableImages,
    step: Any,
    steps_left: int,
) -> Feed:
    """Returns the feed that the settings ask for, and says which one it is.

    Where the images stay on the devices, they are read now.

    Args:
      config: the settings of the run.
      mesh: the devices.
      splits: the images.
      unreadable: receives the training images that cannot be read.
      step: the training step, a jitted function.
      steps_left: the steps from here to the end of the run.

    Raises:
      Stopped: a signal arrived while the images were read.
      UserError: the settings demand that they stay on the devices, and they do not fit; or an image
        cannot be read.
    """
    images_left = steps_left * config.optimizer.batch_size
    decision = memory_plan.decide(config, mesh, step, len(splits.train), images_left)
    if decision.line:
        show(decision.line)
    if not decision.is_resident:
        return LoaderFeed(config, mesh, splits, unreadable)
    reading = loader.Reading.from_config(config)
    images = fill(mesh, splits.train, reading, unreadable)
    return ResidentFeed(config, len(splits.train), images)
