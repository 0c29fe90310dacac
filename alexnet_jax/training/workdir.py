"""The folder of a run: `config.json`, and that one run at a time, of one config, uses it."""

import datetime
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax

from alexnet_jax.config import schema
from alexnet_jax.runtime import atomic_files, locks
from alexnet_jax.runtime.user_errors import UserError

VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'tensorflow-datasets')


class Workdir:
    """Holds a run's folder for one process.

    Raises:
      UserError: on entering, where the folder cannot be written, another process uses it, or it
        belongs to a run with other settings.
    """

    def __init__(self, path: Path, config: schema.Config, mesh: jax.sharding.Mesh) -> None:
        self.path, self._config, self._mesh = path, config, mesh

    def __enter__(self) -> Path:
        self._lock = locks.take(self.path / 'lock', 'choose another --workdir')
        try:
            self._claim()
        except UserError:
            self._lock.close()
            raise
        return self.path

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _claim(self) -> None:
        file = self.path / 'config.json'
        ours = json.loads(json.dumps(schema.as_dict(self._config)))
        starts = []
        if file.exists():
            try:
                known = json.loads(file.read_text())
                theirs, starts = known['config'], known['starts']
            except (ValueError, KeyError) as error:
                raise UserError(
                    f'{file} cannot be read: {error}; choose another --workdir'
                ) from error
            other = difference(theirs, ours)
            if other:
                raise UserError(
                    f'{self.path} belongs to a run with {other}: '
                    'choose another --workdir, or delete it to begin again'
                )
        starts.append(start_record(self._mesh))
        with atomic_files.whole(file) as partial:
            partial.write_text(json.dumps({'config': ours, 'starts': starts}, indent=2) + '\n')


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What the settings of a run may not differ in, in a few words; '' if nothing."""
    old, new = schema.flatten(theirs), schema.flatten(ours)
    names = [
        name
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name.split('.')[0] not in schema.FREE_TO_CHANGE
    ]
    shown = [f'{name}={old.get(name)} (now {new.get(name)})' for name in names[:3]]
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(shown) + more


def start_record(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """When, with which versions and on which devices something is done, as plain values."""
    return {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'python': platform.python_version(),
        'versions': {name: importlib.metadata.version(name) for name in VERSIONS},
        'mesh': dict(mesh.shape),
        'devices': [str(device) for device in mesh.devices.flat],
        'device_kind': mesh.devices.flat[0].device_kind,
        'processor': platform.processor() or platform.machine(),
    }
