"""The least memory that a net needs, by arithmetic, compared with the memory that there is.

A net that cannot fit is refused in one line before anything is prepared or compiled. Only what is
certain to be in memory at the same time counts, so that nothing is refused that could run.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

import jax

from alexnet_jax.config import schema
from alexnet_jax.model import towers
from alexnet_jax.model.layer_table import CHANNELS, layer_table
from alexnet_jax.runtime.user_errors import UserError

_FLOAT32_BYTES = 4
_ACTIVATION_BYTES = {'float32': 4, 'bfloat16': 2}
_CONTROL_GROUP = Path('/sys/fs/cgroup')
TRAINING_COPIES = 3  # of the parameters: themselves, their gradient and their velocity


class Need(NamedTuple):
    """The least number of bytes that a net needs on all devices together.

    Attributes:
      parameters: one copy of the parameters of the net.
      images: the largest batch of images, uint8.
      activations: the outputs of the largest layer for that batch.
    """

    parameters: int
    images: int
    activations: int


def least_need(config: schema.Config, batch_size: int) -> Need:
    """Computes what a net needs for batches of this size."""
    rows = layer_table(config)
    values = max(row.size**2 * row.maps for row in rows[:-1]) * config.model.towers
    return Need(
        _FLOAT32_BYTES * sum(row.parameters for row in rows),
        batch_size * config.dataset.image_size**2 * CHANNELS,
        batch_size * values * _ACTIVATION_BYTES[config.model.dtype],
    )


def parameters_of_device(config: schema.Config, mesh: jax.sharding.Mesh) -> int:
    """Computes the bytes of one copy of the parameters that a device holds, rounded down.

    A device holds its towers; with `mesh.dense='all'`, of their dense layers only its units.
    """
    total, replicas = 0, mesh.shape[towers.DATA] if config.mesh.dense == 'all' else 1
    for row in layer_table(config):
        is_convolution = row.name in config.model.convolutions()
        divisor = mesh.shape[towers.TOWER] * (1 if is_convolution else replicas)
        total += _FLOAT32_BYTES * row.parameters // divisor
    return total


def check(config: schema.Config, mesh: jax.sharding.Mesh, *, is_training: bool = True) -> None:
    """Checks that a net can fit into the memory of its devices, and its images into the host's.

    Args:
      config: the settings.
      mesh: the devices of the net.
      is_training: whether it is trained, or only evaluated.

    Raises:
      UserError: it cannot fit.
    """
    size = config.evaluation.batch_size
    if is_training:
        size = max(size, config.optimizer.batch_size)
    need, copies = least_need(config, size), TRAINING_COPIES if is_training else 1
    host, device = host_bytes(), device_bytes(mesh)
    rows = towers.rows_of_process(mesh, size)
    images = need.images * (rows.stop - rows.start) // size  # those that this process reads
    if device is None:  # the devices are parts of the host
        number = len(towers.own_devices(mesh))  # those of this process
        one = Need(
            parameters_of_device(config, mesh),
            images,
            need.activations * number // mesh.size,
        )
        _compare(config, size, one, copies * number, host, 'this machine has')
        return
    _compare(config, size, Need(need.parameters, images, 0), 0, host, 'this machine has')
    one = Need(
        parameters_of_device(config, mesh),
        need.images // mesh.shape[towers.DATA],
        need.activations // mesh.size,
    )
    _compare(config, size, one, copies, device, 'each device has')


def host_bytes() -> float:
    """Returns the bytes of the host's memory, swap included; infinity where it is unknown.

    The limit of a control group, as of a container or a job, counts where it is lower.
    """
    total = math.inf
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(':') for x in lines)}
        total = 1024 * (sizes['MemTotal'] + sizes.get('SwapTotal', 0))
    except (OSError, ValueError, KeyError):
        if 'SC_PHYS_PAGES' in os.sysconf_names:
            total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return min(total, _group_limit())


def _group_limit() -> float:
    try:
        limits = [
            (_CONTROL_GROUP / f'memory.{name}max').read_text().strip() for name in ('', 'swap.')
        ]
        return sum(math.inf if limit == 'max' else int(limit) for limit in limits)
    except (OSError, ValueError):
        return math.inf


def available_host_bytes() -> float:
    """Returns the bytes of the host's memory that new arrays can take without swapping.

    Where the system does not say how much is available, it is all that `host_bytes` returns.
    """
    available = math.inf
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        line = next(line for line in lines if line.startswith('MemAvailable:'))
        available = 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    try:
        used = int((_CONTROL_GROUP / 'memory.current').read_text())
    except (OSError, ValueError):
        used = 0
    return min(available, host_bytes(), max(0.0, _group_limit() - used))


def device_bytes(mesh: jax.sharding.Mesh) -> float | None:
    """Returns the bytes that a device of the mesh has for JAX; infinity where it is unknown.

    For CPUs it returns None: they have the memory of the host.
    """
    own = towers.own_devices(mesh)  # other processes do not say how much memory theirs have
    device = own[0] if own else mesh.devices.flat[0]
    if device.platform == 'cpu':
        return None
    try:
        return (device.memory_stats() or {}).get('bytes_limit', math.inf)
    except (jax.errors.JaxRuntimeError, NotImplementedError):  # some allocators cannot say
        return math.inf


def _compare(
    config: schema.Config, batch_size: int, need: Need, copies: int, limit: float, where: str
) -> None:
    total = copies * need.parameters + need.images + need.activations
    if total > limit:
        raise UserError(
            f'out of memory: this net needs {_size(total)} at least and {where} {_size(limit)} '
            f'({_size(copies * need.parameters)} for parameters at model.width='
            f'{config.model.width:g}, {_size(need.images + need.activations)} for a batch of '
            f'{batch_size}): lower optimizer.batch_size, '
            'evaluation.batch_size, dataset.image_size or model.width'
        )


def _size(number: float) -> str:
    return f'{number / 1e9:,.1f} GB'
