"""The digests of arrays that lie on the devices of several processes.

A digest is that of the global array, so it does not depend on the mesh. Process 0 computes it from
a copy, and all processes take part in making these copies, of one array at a time.
"""

from typing import Any

from alexnet_jax.model import towers
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
    copies = ((name, towers.fetch(x.sharding.mesh, x)) for name, x in arrays.items())
    if group.is_first:
        return of_arrays(copies)
    for _ in copies:
        pass
    return {}
