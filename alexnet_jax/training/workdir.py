"""The folder of a run: its settings and starts, its metrics, and its checkpoints.

This is the only module that reads and writes `config.json` and `metrics.jsonl`. JAX and Orbax are
imported inside the functions that need them, so that programs can report a mistake at once.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.runtime import atomic_files, locks
from alexnet_jax.runtime.user_errors import UserError, first_line

if TYPE_CHECKING:
    import jax

    from alexnet_jax.training.checkpoint import Checkpoints

_NORMALIZATION = 'batch_normalization'
VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'tensorflow-datasets')


class Workdir:
    """The folder of a run. Constructing one touches nothing on the disk.

    Attributes:
      path: the folder; it need not exist before `claim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._config_file = path / 'config.json'
        self._metrics_file = path / 'metrics.jsonl'
        self._checkpoints_folder = path / 'checkpoints'

    @contextmanager
    def claim(self, config: schema.Config, mesh: jax.sharding.Mesh) -> Iterator[Workdir]:
        """Locks the folder for a run with these settings, and records the start of the run.

        Raises:
          UserError: the folder cannot be written, another process is using it, or it belongs to a
            run with other settings.
        """
        with locks.acquire(self.path / 'lock', 'choose another --workdir'):
            self._record_start(config, mesh)
            yield self

    def read_record(self) -> dict[str, Any]:
        """Reads `config.json`.

        Returns:
          'config', the settings of the run as nested plain values, and 'starts', the result of
          `describe_start` for each time that the run was started or resumed.

        Raises:
          UserError: the folder is not that of a run, or the file is damaged.
        """
        file = self._config_file
        if not file.is_file():
            raise UserError(f'{self.path} is not the workdir of a run: there is no {file}')
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f'{file} cannot be read: {first_line(error)}') from error
        match record:
            case {'config': dict(), 'starts': list()}:
                return record | {'config': _upgrade(record['config'])}
        raise UserError(f'{file} cannot be read: it lacks the settings or the starts of a run')

    def read_config(self) -> schema.Config:
        """Reads the settings of the run.

        Raises:
          UserError: the folder is not that of a run, or of a run of another version.
        """
        raw = self.read_record()['config']
        try:
            return resolve(raw)
        except UserError as error:
            raise UserError(f'{self._config_file} is of another version: {error}') from error

    def difference(self, config: schema.Config) -> str:
        """Names the recorded settings that differ from these and change the result of a run.

        Returns:
          A few words with the recorded values and those of `config`; '' if all are equal.
        """
        recorded = schema.flatten(self.read_record()['config'])
        current = schema.flatten(_plain(config))
        names = [
            name
            for name in sorted(recorded.keys() | current.keys())
            if recorded.get(name) != current.get(name) and not schema.may_change(name)
        ]
        shown = [f'{name}={recorded.get(name)} (now {current.get(name)})' for name in names[:3]]
        more = f' and {len(names) - 3} more' if len(names) > 3 else ''
        return ', '.join(shown) + more

    def read_metrics(self) -> list[dict[str, float]]:
        """Reads `metrics.jsonl`: for each line, the step and named numbers.

        A line that is incomplete or damaged ends the list: a run is still writing it, or was killed
          while writing it.

        Returns:
          The lines in the order in which they were written; [] where nothing has been logged.
        """
        if not self._metrics_file.is_file():
            return []
        lines = []
        for line in self._metrics_file.read_text(errors='replace').splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                break
            if not (isinstance(values, dict) and 'step' in values):
                break
            lines.append(values)
        return lines

    def append_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line to `metrics.jsonl`: the step and these numbers."""
        with self._metrics_file.open('a') as file:
            file.write(_json_line({'step': step} | dict(values)))

    def discard_metrics_after(self, step: int, evaluated: int) -> None:
        """Removes the lines that a run resumed from a checkpoint will write again.

        Args:
          step: the training steps done in the checkpoint; later lines are removed.
          evaluated: the step of its newest evaluation; results of later ones are removed.
        """
        if not self._metrics_file.is_file():
            return
        remaining = []
        for line in self.read_metrics():
            is_evaluation = any(name.startswith('eval') for name in line)
            if line['step'] <= (evaluated if is_evaluation else step):
                remaining.append(line)
        with atomic_files.replace(self._metrics_file) as partial:
            partial.write_text(''.join(map(_json_line, remaining)))

    def open_checkpoints(self, keep: int | None = None) -> Checkpoints:
        """Opens the checkpoints; the caller closes them.

        Args:
          keep: how many of the newest checkpoints are kept; None opens them for reading only, and
            does not create their folder.
        """
        from alexnet_jax.training.checkpoint import Checkpoints

        return Checkpoints(self._checkpoints_folder, keep)

    def newest_step(self) -> int:
        """Returns the number of training steps done in the newest checkpoint.

        Raises:
          UserError: there is none.
        """
        with self.open_checkpoints() as checkpoints:
            step = checkpoints.newest
        if step is None:
            raise UserError(f'{self.path} has no checkpoint yet: train it first, or wait')
        return step

    def _record_start(self, config: schema.Config, mesh: jax.sharding.Mesh) -> None:
        starts = []
        if self._config_file.exists():
            try:
                starts, difference = self.read_record()['starts'], self.difference(config)
            except UserError as error:
                raise UserError(f'{error}; choose another --workdir') from error
            if difference:
                raise UserError(
                    f'{self.path} belongs to a run with {difference}: '
                    'choose another --workdir, or the settings of that run'
                )
        record = {'config': _plain(config), 'starts': [*starts, describe_start(mesh)]}
        with atomic_files.replace(self._config_file) as partial:
            partial.write_text(json.dumps(record, indent=2) + '\n')


def _upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns recorded settings in today's form.

    Up to version 0.1.0 of 2026-11-21, batch normalization was one of the operations in `then`.
    """
    model = raw.get('model')
    if not isinstance(model, dict):
        return raw
    layers = {}
    for name, layer in model.items():
        if isinstance(layer, dict) and 'then' in layer and 'batch_normalization' not in layer:
            then = [operation for operation in layer['then'] if operation != _NORMALIZATION]
            layer = layer | {_NORMALIZATION: _NORMALIZATION in layer['then'], 'then': then}
        layers[name] = layer
    return raw | {'model': layers}


def _plain(config: schema.Config) -> dict[str, Any]:
    """Returns the settings as they are read back from a JSON file: lists in place of tuples."""
    return json.loads(json.dumps(schema.as_dict(config)))


def _json_line(values: Mapping[str, float]) -> str:
    return json.dumps(values) + '\n'


def describe_start(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Describes the time, the versions and the devices of a start, as plain values."""
    return {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'python': platform.python_version(),
        'versions': {name: importlib.metadata.version(name) for name in VERSIONS},
        'mesh': dict(mesh.shape),
        'devices': [str(device) for device in mesh.devices.flat],
        'device_kind': mesh.devices.flat[0].device_kind,
        'processor': platform.processor() or platform.machine(),
    }
