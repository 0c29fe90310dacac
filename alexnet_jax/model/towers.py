"""Two towers on two devices (§3.2): the mesh, where towers meet, and how arrays are sharded.

The mesh has two axes. Along 'tower' lie the towers of one net; along 'data' lie replicas of the
net, each with its shard of the batch. A device holds `towers / mesh.shape['tower']` towers and runs
them one after the other: the layers pass on a list with one array for each tower on this device.
`exchange`, `combine` and `extend` are the only places where towers meet. The program and its result
are the same on every mesh; an axis of one device costs nothing, since its collectives are left out.

With `mesh.dense='all'`, the replicas also divide the units of the dense layers among themselves, in
place of the images ("One weird trick for parallelizing convolutional neural networks", Krizhevsky,
2014). They then meet in `gather` and `combine`, and exchange the units of the whole batch in place
of the gradients of these layers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from alexnet_jax.config.schema import Config
from alexnet_jax.model.placement import mesh_choice
from alexnet_jax.runtime import compilation, cpu_devices

TOWER, DATA = 'tower', 'data'

# What the replicas divide among themselves: the images of the batch, or the units of a dense layer.
Split = Literal['images', 'units']


def choose_mesh(config: Config, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Returns the ('data', 'tower') mesh that the settings ask for, or one that suits the devices.

    With several accelerators, each tower gets one, and the others hold replicas that share the
    batch; with one accelerator, all towers are on it; with none, the towers are on CPU devices.
    The devices of a replica lie in one process or one NVLink domain, every process has a device in
    the mesh, and the rows of the batch that a process reads are contiguous.

    Args:
      config: the settings of a run.
      devices: the devices to choose from; None for all of JAX's.

    Raises:
      UserError: no mesh of the devices suits the settings, or JAX finds none.
    """
    devices = cpu_devices.devices() if devices is None else devices
    grid = mesh_choice.choose_grid(config, devices)
    return jax.sharding.Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto, AxisType.Auto))


def compile_program(
    function: Callable[..., Any],
    config: Config,
    mesh: jax.sharding.Mesh,
    in_specs: Any,
    out_specs: Any,
    **options: Any,
) -> Any:
    """Compiles a function of shards for the mesh, as precise and deterministic as the settings say.

    Args:
      function: computes the part of one device from its shards.
      config: the settings of a run.
      mesh: the mesh.
      in_specs, out_specs: how arguments and results are sharded, as for `jax.shard_map`.
      options: arguments of `jax.jit`.

    Returns:
      The result of `jax.jit`, a function of arrays on the mesh.
    """
    sharded = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    device, precision = mesh.devices.flat[0], config.model.precision
    return compilation.compile_program(sharded, device, precision, config.deterministic, **options)


def exchange(own: list[Array]) -> list[Array]:
    """Gathers the maps of all towers, for a layer that is connected to all of them.

    Args:
      own: (..., maps) for each tower on this device.

    Returns:
      For each tower on this device, the same (..., towers * maps) array: all towers' maps in order.
    """
    maps = jnp.concatenate(own, axis=-1)
    if jax.lax.axis_size(TOWER) > 1:
        # Along a new first axis: if it gathered along the maps, XLA would lay out all layers before
        # it with the maps outermost, and response normalization takes three times as long in that
        # layout.
        maps = jnp.concatenate([*jax.lax.all_gather(maps, TOWER)], axis=-1)
    return [maps] * len(own)


def gather(own: list[Array], split: Split, all_towers: bool) -> list[Array]:
    """Gathers the units of all images, for a dense layer whose units the replicas divide.

    In the backward pass it becomes a sum of the gradients of these units, which leaves each device
    those that it has sent.

    Args:
      own: for each tower on this device, (images here, units) or (images, units here).
      split: which of the two the replicas divide.
      all_towers: whether the layer is connected to all towers, as after `exchange`, or to its own.

    Returns:
      For each tower on this device (images, units); with `all_towers` the same array for each, with
      all towers' units in order.
    """
    axes = (DATA, TOWER) if all_towers else (DATA,)
    axes = tuple(axis for axis in axes if jax.lax.axis_size(axis) > 1)
    units_TBO = jnp.stack(own)
    gathered = jax.lax.all_gather(units_TBO, axes) if axes else units_TBO
    # The first axis is that of the replicas, the second that of the towers.
    units_DTBO = gathered.reshape(jax.lax.axis_size(DATA), -1, *units_TBO.shape[1:])
    replicas, towers, images, units = units_DTBO.shape
    if split == 'images':
        units_TBO = units_DTBO.transpose(1, 0, 2, 3).reshape(towers, replicas * images, units)
    else:
        units_TBO = units_DTBO.transpose(1, 2, 0, 3).reshape(towers, images, replicas * units)
    if not all_towers:
        return [*units_TBO]
    return [jnp.concatenate([*units_TBO], axis=-1)] * len(own)


def return_images(own: list[Array]) -> list[Array]:
    """Maps (images, units here) to (images here, units) for each tower on this device."""
    if jax.lax.axis_size(DATA) == 1:
        return own
    return [jax.lax.all_to_all(x, DATA, split_axis=0, concat_axis=1, tiled=True) for x in own]


def combine(partial: list[Array], split: Split = 'images') -> Array:
    """Sums the partial products of all towers; the sum is the same on every device of the axis.

    Args:
      partial: for each tower on this device, the products with its units.
      split: what the replicas divide in these products. If it is the units, the sum is also that
        over the replicas, and each keeps its images.
    """
    total = sum(partial[1:], start=partial[0])
    if split == 'units' and jax.lax.axis_size(DATA) > 1:
        total = jax.lax.psum_scatter(total, DATA, scatter_dimension=0, tiled=True)
    return jax.lax.psum(total, TOWER) if jax.lax.axis_size(TOWER) > 1 else total


def extend(own: list[Array], before: int, after: int) -> list[Array]:
    """Adds to each tower's maps those next to them in the towers before and after it.

    Beyond the first and the last tower there are zeros. Only the maps at the edges of the towers
    cross between devices.

    Args:
      own: (..., maps) for each tower on this device.
      before: the number of maps to add before a tower's first one.
      after: the number of maps to add after its last one.

    Returns:
      (..., before + maps + after) for each tower on this device.
    """
    *shape, maps = own[0].shape
    # A tower with fewer maps than are needed gives all, and more come from the tower beyond it.
    heads, tails = min(maps, after), min(maps, before)
    if not heads + tails:
        return own
    number = len(own) * jax.lax.axis_size(TOWER)
    edges = [jnp.concatenate([x[..., :heads], x[..., maps - tails :]], axis=-1) for x in own]
    gathered = exchange(edges)[0].reshape(*shape, number, heads + tails)
    first_maps = gathered[..., :heads].reshape(*shape, number * heads)
    last_maps = gathered[..., heads:].reshape(*shape, number * tails)
    around = [(0, 0)] * len(shape)
    first_maps = jnp.pad(first_maps, [*around, (0, after)])
    last_maps = jnp.pad(last_maps, [*around, (before, 0)])
    tower = jax.lax.axis_index(TOWER) * len(own) if jax.lax.axis_size(TOWER) > 1 else 0

    def extend_one(t: int, x: Array) -> Array:
        left = jax.lax.dynamic_slice_in_dim(last_maps, (tower + t) * tails, before, axis=-1)
        right = jax.lax.dynamic_slice_in_dim(first_maps, (tower + t + 1) * heads, after, axis=-1)
        return jnp.concatenate([left, x, right], axis=-1)

    return [extend_one(t, x) for t, x in enumerate(own)]


def show_to_all(images: Array, towers_here: int) -> list[Array]:
    """Returns the images for each tower on this device, since all towers read the same images."""
    if jax.lax.axis_size(TOWER) > 1:
        images = jax.lax.pcast(images, TOWER, to='varying')
    return [images] * towers_here


def total_over_data(x: Any) -> Any:
    """Sums over all shards of the batch."""
    return jax.lax.psum(x, DATA) if jax.lax.axis_size(DATA) > 1 else x


def total_over(axes: Sequence[str | None], x: Any) -> Any:
    """Sums over the devices along these axes of the mesh; None stands for no axis."""
    several = [axis for axis in axes if axis and jax.lax.axis_size(axis) > 1]
    return jax.lax.psum(x, several) if several else x


def replicate_over_data(params: Any) -> Any:
    """Marks parameters as used by every replica, so that their gradients are summed over all.

    Those that the replicas divide among themselves stay as they are.
    """
    if jax.lax.axis_size(DATA) == 1:
        return params

    def mark(x: Array) -> Array:
        is_divided = DATA in jax.typeof(x).manual_axis_type.varying
        return x if is_divided else jax.lax.pcast(x, DATA, to='varying')

    return jax.tree.map(mark, params)


def own_part(x_TBO: Array, split: Split = 'images') -> Array:
    """Takes from (T, B, ...) the towers and images, or from (T, B, O) the units, of this device."""
    return _own_slice(_own_slice(x_TBO, TOWER, axis=0), DATA, axis=1 if split == 'images' else 2)


def own_images(x: Array, axis: int = 0) -> Array:
    """Takes this device's shard of an array with one entry for each image of the batch."""
    return _own_slice(x, DATA, axis)


def _own_slice(x: Array, mesh_axis: str, axis: int) -> Array:
    devices = jax.lax.axis_size(mesh_axis)
    if devices == 1:
        return x
    size = x.shape[axis] // devices
    start = jax.lax.axis_index(mesh_axis) * size
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)


# How the leading dimension of an array is sharded, for arrays that are not parameters. A
# parameter's sharding is stated where its layer makes it.
PLACEMENT = {
    'images': DATA,  # (B, ...): all towers read the same images
    'step': None,
    'constants': None,  # of the augmentation
    'metrics': None,
}


def partition(mesh: jax.sharding.Mesh, *axes: str | None) -> PartitionSpec:
    """Returns a PartitionSpec over mesh axes; an axis of one device is left out."""
    names = [axis if axis and mesh.shape[axis] > 1 else None for axis in axes]
    while names and names[-1] is None:
        names.pop()
    return PartitionSpec(*names)


def spec(mesh: jax.sharding.Mesh, name: str) -> PartitionSpec:
    """Returns the PartitionSpec for a row of PLACEMENT."""
    return partition(mesh, PLACEMENT[name])


def shardings(mesh: jax.sharding.Mesh, partitions: Any) -> Any:
    """Binds a tree of PartitionSpec to the mesh."""
    return jax.tree.map(lambda p: NamedSharding(mesh, p), partitions)


def put_batch(mesh: jax.sharding.Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Copies a batch from the host to the devices, without waiting for it.

    Args:
      mesh: the mesh of the run.
      batch: for each array, the rows that `rows_of_process` returns; with one process, all rows.
    """
    sharding = NamedSharding(mesh, spec(mesh, 'images'))
    if jax.process_count() == 1:
        # The same result as device_put's, which takes twice as long on the host: 75 us in place of
        # 34 for one device (two cores of an AMD EPYC, JAX 0.10.2, 2026-11-26).
        return {
            name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
            for name, x in batch.items()
        }
    own = _own_shards(mesh)

    def put_rows(x: np.ndarray) -> Array:
        size = len(x) // len(own)
        shape, first = (mesh.shape[DATA] * size, *x.shape[1:]), own.start * size

        def shard(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(shape[0])
            return x[start - first : stop - first]

        return jax.make_array_from_callback(shape, sharding, shard)

    return {name: put_rows(x) for name, x in batch.items()}


def put_replicated(mesh: jax.sharding.Mesh, x: np.ndarray) -> Array:
    """Copies an array from the host to every device of the mesh, without waiting for it."""
    return _put_from_host(x, NamedSharding(mesh, partition(mesh)))


def put(arrays: Any, shardings: Any) -> Any:
    """Copies arrays from the host to the devices, without communication between processes.

    Args:
      arrays: a tree of arrays on the host, the same in all processes.
      shardings: a tree of shardings with the same structure, or one that begins like it.

    Returns:
      A tree like `arrays`, of arrays on the devices.
    """
    if jax.process_count() == 1:
        return jax.device_put(arrays, shardings)
    # With several processes device_put broadcasts each array from process 0, to see that all
    # processes have the same values.
    return jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda x: _put_from_host(x, sharding), part),
        shardings,
        arrays,
    )


def _put_from_host(x: Any, sharding: NamedSharding) -> Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)


def fetch(mesh: jax.sharding.Mesh, x: Array) -> np.ndarray:
    """Copies an array from the devices to the host of every process.

    All processes call it in the same order. They communicate only if the devices of some process do
    not hold all parts of the array.

    Args:
      mesh: the mesh of the run.
      x: an array on the mesh.
    """
    if jax.process_count() == 1 or x.is_fully_replicated:
        return jax.device_get(x)
    if not _every_process_holds_all(x):
        return jax.device_get(_replicate(mesh)(x))
    result = np.empty(x.shape, x.dtype)
    for part in x.addressable_shards:
        result[part.index] = part.data
    return result


@functools.cache
def _replicate(mesh: jax.sharding.Mesh) -> Callable[[Array], Array]:
    """Compiles a function that copies all parts of an array to every device of the mesh."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, partition(mesh)))


def _every_process_holds_all(x: Array) -> bool:
    """Returns whether each process's devices hold all parts of an array; the same in all."""
    parts: dict[int, set[Any]] = {}
    for device, index in x.sharding.devices_indices_map(x.shape).items():
        bounds = tuple(part.indices(size) for part, size in zip(index, x.shape, strict=True))
        parts.setdefault(mesh_choice.process_of(device), set()).add(bounds)
    return len({frozenset(part) for part in parts.values()}) == 1


def rows_of_process(mesh: jax.sharding.Mesh, batch_size: int) -> slice:
    """Returns the rows of a batch that this process's devices need, by data shard.

    Processes that hold different towers of the same replica all read the same images.

    Raises:
      ValueError: the rows are not contiguous, or there are none; no mesh of `choose_mesh` is such.
    """
    own, size = _own_shards(mesh), batch_size // mesh.shape[DATA]
    return slice(own.start * size, own.stop * size)


def own_devices(mesh: jax.sharding.Mesh) -> list[Any]:
    """Returns the devices of the mesh that this process has."""
    process = jax.process_index()
    return [x for x in mesh.devices.flat if mesh_choice.process_of(x) == process]


def _own_shards(mesh: jax.sharding.Mesh) -> range:
    """Returns the numbers of the data shards that this process's devices need."""
    own = {*own_devices(mesh)}
    shards = [i for i, row in enumerate(mesh.devices) if not own.isdisjoint(row)]
    if not shards or shards[-1] - shards[0] >= len(shards):
        raise ValueError(
            f'process {jax.process_index()} holds the replicas {shards} of the mesh: each process '
            'must hold adjacent ones, at least one'
        )
    return range(shards[0], shards[-1] + 1)


def describe_arithmetic(config: Config, mesh: jax.sharding.Mesh) -> str:
    """Describes in a few words what the net's dtype and precision mean on these devices."""
    model = config.model
    return compilation.describe_arithmetic(
        mesh.devices.flat[0], model.dtype, model.precision, config.deterministic
    )
