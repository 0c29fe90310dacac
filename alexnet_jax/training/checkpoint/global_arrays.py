"""The digests of arrays that lie on the devices of several processes.

A digest is that of the global array, so that it does not depend on the mesh. Process 0 computes it:
from its own shards where they cover the array, else from a copy that all processes make together,
of one array at a time.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.processes.group import Group
from alexnet_jax.training.checkpoint.digests import ArrayDigest, of_arrays


def digests_of(tree: Any, group: Group) -> dict[str, ArrayDigest]:
    """Computes the digests of all arrays of a tree; all processes of a group call this.

    Args:
      tree: the arrays on the devices.
      group: the processes.

    Returns:
      The digests by dotted names; {} in the processes other than process 0.
    """
    arrays = leaves_by_name(tree)
    if group.count == 1:
        return of_arrays(arrays.items())
    copies = ((name, copy_to_first(x)) for name, x in arrays.items())
    if group.is_first:
        return of_arrays((name, x) for name, x in copies if x is not None)
    for _ in copies:
        pass
    return {}


def copy_to_first(x: Array) -> np.ndarray | None:
    """Copies a global array to the host of process 0; all processes call this.

    Returns:
      The array; None in the other processes.
    """
    is_first = jax.process_index() == 0
    if _lies_in_first(x.sharding, x.shape):
        return _join_shards(x) if is_first else None
    # The other processes wait, too, so that their devices hold no more than one copy.
    copy = jax.block_until_ready(_replicate(x.sharding)(x))
    return np.asarray(copy.addressable_data(0)) if is_first else None


def _lies_in_first(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> bool:
    """Returns whether the devices of process 0 hold every part of an array."""
    parts = sharding.devices_indices_map(shape)
    own = {_bounds(part) for device, part in parts.items() if device.process_index == 0}
    return own == {_bounds(part) for part in parts.values()}


def _bounds(part: tuple[slice, ...] | None) -> tuple[tuple[int | None, int | None], ...]:
    return tuple((dimension.start, dimension.stop) for dimension in part or ())


def _join_shards(x: Array) -> np.ndarray:
    joined = np.empty(x.shape, x.dtype)
    for shard in x.addressable_shards:
        joined[shard.index] = np.asarray(shard.data)
    return joined


@functools.cache
def _replicate(sharding: NamedSharding) -> Any:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))
