"""Describes a start of a run for its `config.json`: the time, the versions and the devices."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from alexnet_jax.config import schema

VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'tensorflow-datasets')


def now() -> str:
    """Returns the time in UTC, in ISO 8601 with seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def describe_start(config: schema.Config, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Describes the time, versions, devices and arithmetic of a start, as plain values.

    Args:
      config: the settings of the run, whose dtype and precision have a meaning on each device.
      mesh: the devices.
    """
    # Imported here, since it imports JAX, which programs that only read a workdir do not need.
    from alexnet_jax.model import towers

    return {
        'started': now(),
        'python': platform.python_version(),
        'versions': {name: importlib.metadata.version(name) for name in VERSIONS},
        'mesh': dict(mesh.shape),
        'devices': [str(device) for device in mesh.devices.flat],
        'device_kind': mesh.devices.flat[0].device_kind,
        'processor': platform.processor() or platform.machine(),
        'arithmetic': towers.describe_arithmetic(config, mesh),
    }


def with_full_path(source: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the state of another run with the absolute path of its workdir; None for None."""
    if source is None:
        return None
    return dict(source) | {'workdir': str(Path(source['workdir']).expanduser().resolve())}
