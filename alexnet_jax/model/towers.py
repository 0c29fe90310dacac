"""Two towers on two devices (§3.2): the mesh, which arrays live where, and where towers meet.

The mesh has two axes. Along 'tower' lie the towers of one net; along 'data', copies of the net that
share a batch. A device holds `towers / mesh.shape['tower']` towers and runs them one after the
other: a list with one array per tower that lives here is what the layers pass on. `exchange` and
`combine` are the only places where towers meet. Whatever the mesh, the program and its result are
the same; an axis of one device costs nothing, since its collectives are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from alexnet_jax.config.schema import Config
from alexnet_jax.runtime.user_errors import UserError

TOWER, DATA = 'tower', 'data'


# Which mesh axis an array's leading dimension is spread over; None: every device has all of it.
PLACEMENT = {
    'parameters': TOWER,  # (T, ...): the velocity too
    'fc8/bias': None,  # (K,): added after the towers' partial products are summed
    'images': DATA,  # (B, ...): both towers see the same images
    'step': None,
    'constants': None,  # of the augmentation
    'metrics': None,
}


def choose_mesh(config: Config, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The ('data', 'tower') mesh: as the settings say, else by what is here.

    With several accelerators the towers get one each and the batch is spread over the rest; with
    one, all towers are on it; with none, the towers are on CPU devices.

    Raises:
      UserError: the settings want more devices than there are, or the batch cannot be divided.
    """
    devices = jax.devices() if devices is None else devices
    here = len(devices)
    towers, batch = config.model.towers, config.optimizer.batch_size
    tower = config.mesh.tower or max(
        n for n in range(1, towers + 1) if towers % n == 0 and n <= here
    )
    data = config.mesh.data
    if not data:
        spare = here // tower if devices[0].platform != 'cpu' else 1
        batches = (batch, config.evaluation.batch_size)
        data = max(n for n in range(1, max(1, spare) + 1) if all(b % n == 0 for b in batches))
    if data * tower > here:
        raise UserError(
            f'mesh.data={data} x mesh.tower={tower} needs {data * tower} devices and there are '
            f'{here} ({devices[0].device_kind}): lower them, or leave them at 0 to choose for you'
        )
    grid = np.asarray(devices[: data * tower]).reshape(data, tower)
    return jax.sharding.Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto, AxisType.Auto))


def describe_mesh(mesh: jax.sharding.Mesh, towers: int) -> str:
    """One sentence on what was chosen."""
    data, tower = mesh.shape[DATA], mesh.shape[TOWER]
    kind = mesh.devices.flat[0].device_kind
    where = f'{towers // tower} on each of {tower} devices' if tower > 1 else 'all on one device'
    share = f', times {data} that share each batch' if data > 1 else ''
    return f'{towers} tower{"s" if towers > 1 else ""}, {where} ({kind}){share}'


def spec(mesh: jax.sharding.Mesh, name: str) -> PartitionSpec:
    """The row of PLACEMENT as a partition; an axis of one device needs none."""
    axis = PLACEMENT[name]
    return PartitionSpec() if axis is None or mesh.shape[axis] == 1 else PartitionSpec(axis)


def spec_of_units(mesh: jax.sharding.Mesh) -> PartitionSpec:
    """Of (images, units of all towers), where each device has its own of both."""
    return PartitionSpec(*(axis if mesh.shape[axis] > 1 else None for axis in (DATA, TOWER)))


def specs(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """Partitions of a tree of parameters, or of what holds such trees (the optimizer's state)."""

    def place(path: Any, _: Any) -> PartitionSpec:
        names = '/'.join(str(getattr(key, 'key', getattr(key, 'name', key))) for key in path)
        exception = next((name for name in PLACEMENT if names.endswith(name)), 'parameters')
        return spec(mesh, exception)

    return jax.tree_util.tree_map_with_path(place, tree)


def shardings(mesh: jax.sharding.Mesh, partitions: Any) -> Any:
    """The same tree with each partition bound to the mesh."""
    return jax.tree.map(lambda p: NamedSharding(mesh, p), partitions)


def put_batch(mesh: jax.sharding.Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Copies a batch from the host to the devices; does not wait for it.

    Args:
      batch: of each array, the rows that `rows_of_process` names; with one process, all.
    """
    sharding = NamedSharding(mesh, spec(mesh, 'images'))
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    shares = mesh.shape[DATA] // len(_own_shares(mesh))
    return {
        name: jax.make_array_from_process_local_data(sharding, x, (shares * len(x), *x.shape[1:]))
        for name, x in batch.items()
    }


def rows_of_process(mesh: jax.sharding.Mesh, batch_size: int) -> slice:
    """The images of a batch that this process's devices need: by share of the batch, not by tower.

    Processes that hold different towers of the same share all read the same images.
    """
    own, share = _own_shares(mesh), batch_size // mesh.shape[DATA]
    return slice(own[0] * share, (own[-1] + 1) * share)


def _own_shares(mesh: jax.sharding.Mesh) -> list[int]:
    here = jax.process_index()
    return [i for i, row in enumerate(mesh.devices) if any(d.process_index == here for d in row)]


def shown_to_all(images: Array, towers_here: int) -> list[Array]:
    """The images, which every tower reads as if they were its own."""
    if jax.lax.axis_size(TOWER) > 1:
        images = jax.lax.pcast(images, TOWER, to='varying')
    return [images] * towers_here


def exchange(own: list[Array]) -> list[Array]:
    """What every tower here reads when a layer is connected to all towers.

    Args:
      own: one (..., maps) array per tower on this device.

    Returns:
      For each tower here, the same (..., towers * maps) array: all towers' maps in order.
    """
    here = jnp.concatenate(own, axis=-1)
    if jax.lax.axis_size(TOWER) > 1:
        # Along a new first axis: gathered along the maps, XLA would lay out all layers before it
        # with the maps outermost, and response normalization takes three times as long so.
        here = jnp.concatenate([*jax.lax.all_gather(here, TOWER)], axis=-1)
    return [here] * len(own)


def combine(partial: list[Array]) -> Array:
    """The sum of all towers' partial products, the same on every device of the tower axis."""
    total = sum(partial[1:], start=partial[0])
    return jax.lax.psum(total, TOWER) if jax.lax.axis_size(TOWER) > 1 else total


def total_over_data(x: Any) -> Any:
    """The sum over all shares of the batch."""
    return jax.lax.psum(x, DATA) if jax.lax.axis_size(DATA) > 1 else x


def copy_for_each_share(params: Any) -> Any:
    """The parameters as each share of the batch uses them; their gradients are summed over all."""
    if jax.lax.axis_size(DATA) == 1:
        return params
    return jax.tree.map(lambda x: jax.lax.pcast(x, DATA, to='varying'), params)


def own_part(everywhere: Array) -> Array:
    """What concerns this device: (T, B, ...) to (towers here, images here, ...)."""
    return own_images(_own(everywhere, TOWER, axis=0), axis=1)


def own_images(everywhere: Array, axis: int = 0) -> Array:
    """This device's share of an array with one entry for each image of the whole batch."""
    return _own(everywhere, DATA, axis)


def _own(everywhere: Array, mesh_axis: str, axis: int) -> Array:
    devices = jax.lax.axis_size(mesh_axis)
    if devices == 1:
        return everywhere
    here = everywhere.shape[axis] // devices
    first = jax.lax.axis_index(mesh_axis) * here
    return jax.lax.dynamic_slice_in_dim(everywhere, first, here, axis)


def device_names(mesh: jax.sharding.Mesh, towers: int) -> list[str]:
    """For each tower, the devices that hold it."""
    per_device = towers // mesh.shape[TOWER]
    columns: Mapping[int, list[str]] = {
        i: [str(d) for d in mesh.devices[:, i]] for i in range(mesh.shape[TOWER])
    }
    return [', '.join(columns[t // per_device]) for t in range(towers)]
