"""Lines and tables for the terminal about what each device of the mesh holds."""

from collections.abc import Sequence

import jax

from alexnet_jax.config.schema import Config
from alexnet_jax.model.placement.mesh_choice import process_of
from alexnet_jax.runtime.text_table import align_columns


def describe_mesh(config: Config, mesh: jax.sharding.Mesh) -> str:
    """Returns one line about the ('data', 'tower') mesh of a run with these settings."""
    (data, tower), towers = mesh.devices.shape, config.model.towers
    kind = mesh.devices.flat[0].device_kind
    where = f'{towers // tower} on each of {tower} devices' if tower > 1 else 'all on one device'
    replicas = f', {data} replicas that share each batch' if data > 1 else ''
    if _replicas_divide_units(config, mesh):
        replicas += f', units of dense layers spread over all {mesh.size} devices'
    return f'{towers} tower{"s" if towers > 1 else ""}, {where} ({kind}){replicas}'


def describe_homes(config: Config, mesh: jax.sharding.Mesh) -> list[str]:
    """Returns lines about the devices that hold each tower, and each part of the dense layers."""
    names = device_names(mesh, config.model.towers)
    lines = [f'tower {tower}: {devices}' for tower, devices in enumerate(names)]
    if not _replicas_divide_units(config, mesh):
        return lines
    replicas = mesh.devices.shape[0]
    units = [
        f'{name}: {number // replicas:,} of the {number:,} units of each tower'
        for name, number in config.model.dense_units().items()
    ]
    return [
        *lines,
        f'each of the {replicas} devices of a tower holds a part of the dense layers: '
        f'{", ".join(units)}; and their weights in fc8',
        f'it reads the units of all images of a batch, gathered from {mesh.size} devices',
    ]


def device_names(mesh: jax.sharding.Mesh, towers: int) -> list[str]:
    """Returns, for each tower, the names of the devices that hold it."""
    per_device = towers // mesh.devices.shape[1]
    columns = [[str(device) for device in column] for column in mesh.devices.T]
    return [', '.join(columns[tower // per_device]) for tower in range(towers)]


def mesh_table(config: Config, mesh: jax.sharding.Mesh, hosts: Sequence[str] = ()) -> str:
    """Formats which towers of which replica each device holds; '' if there is one process.

    Args:
      config: the settings of the run.
      mesh: its ('data', 'tower') mesh.
      hosts: for each process the name of its host; () if they are unknown.

    Returns:
      A header, and a line for each device in the order of the processes.
    """
    data, tower = mesh.devices.shape
    per_device = config.model.towers // tower
    divided = _replicas_divide_units(config, mesh)
    places = []
    for replica, devices in enumerate(mesh.devices):
        part = [f'{replica + 1} of {data}'] if divided else []
        for column, device in enumerate(devices):
            numbers = range(column * per_device, (column + 1) * per_device)
            held = [str(replica), ', '.join(map(str, numbers)), *part]
            places.append((process_of(device), device.id, str(device), held))
    if len({process for process, *_ in places}) == 1:
        return ''
    host, part = ['host'] if hosts else [], ['part of dense layers'] if divided else []
    rows = [['process', *host, 'device', 'replica', 'towers', *part]]
    for process, _, name, held in sorted(places, key=lambda place: place[:2]):
        host = [hosts[process]] if hosts else []
        rows.append([str(process), *host, name, *held])
    return align_columns(rows)


def _replicas_divide_units(config: Config, mesh: jax.sharding.Mesh) -> bool:
    """Returns whether the replicas divide the units of dense layers among themselves."""
    return config.mesh.dense == 'all' and mesh.devices.shape[0] > 1 and bool(config.model.dense())
