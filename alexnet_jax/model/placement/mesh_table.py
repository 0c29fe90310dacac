"""The table of the mesh for the terminal: what each device of each process holds."""

from collections.abc import Sequence

import jax

from alexnet_jax.model.placement.mesh_choice import process_of
from alexnet_jax.runtime.text_table import align_columns


def mesh_table(mesh: jax.sharding.Mesh, towers: int, hosts: Sequence[str] = ()) -> str:
    """Formats which towers of which replica each device holds; '' if there is one process.

    Args:
      mesh: the ('data', 'tower') mesh of a run.
      towers: the number of towers of the net.
      hosts: for each process the name of its host; () if they are unknown.

    Returns:
      A header, and a line for each device in the order of the processes.
    """
    per_device = towers // mesh.devices.shape[1]
    places = []
    for replica, devices in enumerate(mesh.devices):
        for column, device in enumerate(devices):
            numbers = range(column * per_device, (column + 1) * per_device)
            places.append((process_of(device), device.id, str(device), replica, numbers))
    if len({process for process, *_ in places}) == 1:
        return ''
    host = ['host'] if hosts else []
    rows = [['process', *host, 'device', 'replica', 'towers']]
    for process, _, name, replica, numbers in sorted(places, key=lambda place: place[:2]):
        host = [hosts[process]] if hosts else []
        rows.append([str(process), *host, name, str(replica), ', '.join(map(str, numbers))])
    return align_columns(rows)
