"""A split that stays in the memory of the devices, spread over them, and the batches from it (§2).

All devices of the mesh hold equal shards, those of the tower axis too: each of two towers has half
of what its replica holds. Batches are like the loader's, on the same devices, so that the training
step is the same program.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from alexnet_jax.model import towers
from alexnet_jax.training.batches.routing import Router

ALL_DEVICES = PartitionSpec((towers.DATA, towers.TOWER))  # of a leading axis
_WORD = 4  # bytes; the rows of the shards are a multiple of it
# Where images are gathered as words. On a GPU, XLA gathers bytes with accesses of 4 bytes and words
# with 16, and the conversion costs nothing (compiled for an H100 by JAX 0.10.2, 2026-11-26). On a
# CPU it does: 1.1 ms for 128 images of 72 pixels, in place of 0.08 (two cores of an AMD EPYC).
_IN_WORDS = {'gpu'}


def row_bytes(size: int) -> int:
    """Returns the bytes that an image of `size` pixels across takes on a device."""
    return -(-3 * size * size // _WORD) * _WORD


class ResidentImages:
    """The images and labels of a split on the devices.

    Args:
      mesh: the devices.
      size: pixels across an image.
      images: (D * M, row_bytes) uint8, sharded over all devices, as `routing` places the images.
      labels: (D * M,) int32, likewise.
    """

    def __init__(self, mesh: jax.sharding.Mesh, size: int, images: Array, labels: Array) -> None:
        self._mesh, self._size, self._arrays = mesh, size, (images, labels)
        self._gathers: dict[int, tuple[Router, Callable[..., Any]]] = {}

    def take(self, indices: np.ndarray) -> dict[str, Array]:
        """Gathers a batch on the devices, without waiting for it.

        Args:
          indices: (B,) integers, the images of the batch; the same in all processes.

        Returns:
          'image', (B, size, size, 3) uint8, and 'label', (B,) int32, placed as by
          `towers.put_batch`.
        """
        if len(indices) not in self._gathers:
            router = make_router(self._mesh, len(indices))
            self._gathers[len(indices)] = router, compile_gather(self._mesh, self._size, router)
        router, gather = self._gathers[len(indices)]
        route, sharding = router.route(indices), NamedSharding(self._mesh, ALL_DEVICES)
        tables = [jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for x in route]
        return gather(*self._arrays, *tables)


def make_router(mesh: jax.sharding.Mesh, batch_size: int) -> Router:
    """Returns the router for batches of this size on a mesh."""
    return Router(mesh.shape[towers.DATA], mesh.shape[towers.TOWER], batch_size)


def compile_gather(mesh: jax.sharding.Mesh, size: int, router: Router) -> Callable[..., Any]:
    """Compiles the function that gathers a batch from the shards of all devices.

    Args:
      mesh: the devices.
      size: pixels across an image.
      router: makes the tables.

    Returns:
      `gather(images, labels, send, receive)` of the arrays of `ResidentImages` and of a `Route`;
      it returns a batch.
    """
    in_words = mesh.devices.flat[0].platform in _IN_WORDS
    replicated = NamedSharding(mesh, towers.spec(mesh, 'images'))

    def gather(images: Array, labels: Array, send: Array, receive: Array) -> dict[str, Array]:
        """Computes the part of one device."""
        if in_words:
            words = images.reshape(len(images), -1, _WORD)
            images = jax.lax.bitcast_convert_type(words, np.uint32)
        rows, label_B = (_exchange(x, send[0], receive[0], router) for x in (images, labels))
        if in_words:
            rows = jax.lax.bitcast_convert_type(rows, np.uint8).reshape(len(rows), -1)
        pixels = rows[:, : 3 * size * size].reshape(-1, size, size, 3)
        return {'image': pixels, 'label': label_B}

    # check_vma=False: it cannot infer that after the all-gather the devices of a replica agree.
    sharded = jax.shard_map(
        gather,
        mesh=mesh,
        in_specs=ALL_DEVICES,
        out_specs=replicated.spec,
        check_vma=False,
    )
    return jax.jit(sharded)


def _exchange(shard: Array, send: Array, receive: Array, router: Router) -> Array:
    """Returns the rows of this device's replica, from the shards of all devices.

    Args:
      shard: (M, ...), the shard of this device.
      send: (D, C), its rows for each other device.
      receive: (R,), the places of its rows among those that arrive.
      router: has made the tables.
    """
    take = functools.partial(_take, rows=send.reshape(-1))
    if router.devices == 1:
        return take(shard)
    rows = jax.lax.all_to_all(take(shard), (towers.DATA, towers.TOWER), 0, 0, tiled=True)
    rows = _take(rows, receive)
    if jax.lax.axis_size(towers.TOWER) > 1:
        rows = jax.lax.all_gather(rows, towers.TOWER, tiled=True)
    return rows[: router.rows_per_replica]


def _take(x: Array, rows: Array) -> Array:
    return x.at[rows].get(mode='promise_in_bounds')
