"""Fills the memory of the devices with the images of a split (§2), each read and decoded once.

Images are read in the order of the split by the threads and processes of the loader. A block of
them is copied to its place as soon as it is there, so that the host needs memory for a few blocks.
"""

import functools
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from alexnet_jax.data.loading import loader
from alexnet_jax.data.loading.unreadable_images import UnreadableImages
from alexnet_jax.data.sources import Source
from alexnet_jax.model import towers
from alexnet_jax.runtime import signals
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.training.batches.resident_images import ALL_DEVICES, ResidentImages, row_bytes

BLOCK = 32  # images that are copied to one device at a time
_SECONDS_WITHOUT_PROGRESS = 2


def rows_of_shard(images: int, devices: int) -> int:
    """Returns the rows of each device's shard: its images, filled up to complete blocks."""
    return -(-images // (devices * BLOCK)) * BLOCK


def fill(
    mesh: jax.sharding.Mesh,
    source: Source,
    reading: loader.Reading,
    unreadable: UnreadableImages | None = None,
    kind: str = 'training',
) -> ResidentImages:
    """Reads all images of a split into the memory of the devices; shows progress and time left.

    Args:
      mesh: the devices, all of this process.
      source: the images.
      reading: how they are read.
      unreadable: receives the images that cannot be read, each of which is replaced as in the
        loader's batches; None if none are allowed.
      kind: what the images are for, 'training' or 'test', for the progress bar and for messages.

    Raises:
      Stopped: a signal arrived.
      UserError: an image cannot be read, or more than are allowed.
    """
    devices, length = [*mesh.devices.flat], len(source)
    shape = rows_of_shard(length, len(devices)), row_bytes(reading.size)
    shards = [_zeros(device, shape) for device in devices]
    labels = np.zeros((len(devices), shape[0]), np.int32)
    block, start = len(devices) * BLOCK, time.monotonic()
    batches: Iterator[loader.Batch]
    if kind == 'training':
        batches = loader.batches_in_order(source, reading, block, unreadable)
    else:
        batches = loader.evaluation_batches(source, reading, block)
    with ProgressBars() as bars:
        for number, batch in enumerate(batches):
            signals.raise_if_stopped()
            rows = batch['image'].reshape(block, -1)
            if rows.shape[1] < shape[1]:  # most sizes need no padding, and no copy
                rows = np.pad(rows, [(0, 0), (0, shape[1] - rows.shape[1])])
            first = np.int32(number * BLOCK)
            for i, device in enumerate(devices):  # as `Router.place` says
                own = jax.device_put(rows[i :: len(devices)], device)
                shards[i] = _write(shards[i], own, first)
                labels[i, first : first + BLOCK] = batch['label'][i :: len(devices)]
            if time.monotonic() - start > _SECONDS_WITHOUT_PROGRESS:
                done = min(length, (number + 1) * block)
                bars.show_images(f'{kind} images to the devices', done, length)
    sharding = NamedSharding(mesh, ALL_DEVICES)
    total = len(devices) * shape[0]
    images = jax.make_array_from_single_device_arrays((total, shape[1]), sharding, shards)
    placed = towers.put(labels.reshape(total), sharding)
    return ResidentImages(mesh, reading.size, images, placed)


def _zeros(device: jax.Device, shape: tuple[int, int]) -> Array:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.jit(functools.partial(jax.numpy.zeros, shape, np.uint8), out_shardings=sharding)()


@functools.partial(jax.jit, donate_argnums=0)  # writes in place
def _write(shard: Array, rows: Array, first: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(shard, rows, first, axis=0)
