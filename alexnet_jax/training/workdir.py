"""The folder of a run: settings and starts, metrics, checkpoints, and what the net's input needs.

This is the only module that names `config.json`, `metrics.jsonl` and `inputs.npz`. JAX and Orbax
are imported inside the functions that need them, so that programs can report a mistake at once.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.processes import group
from alexnet_jax.runtime import locks
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import config_file, differences, metrics_file, shared_storage
from alexnet_jax.training.run_files.start_record import describe_start, now, with_full_path

if TYPE_CHECKING:
    import jax

    from alexnet_jax.training.checkpoint import Checkpoints, Position
    from alexnet_jax.training.run_files.inputs_file import Inputs


class Workdir:
    """The folder of a run. Constructing one touches nothing on the disk.

    Attributes:
      path: the folder; it need not exist before `claim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._config_file = path / 'config.json'
        self._metrics_file = path / 'metrics.jsonl'
        self._inputs_file = path / 'inputs.npz'
        self._checkpoints_folder = path / 'checkpoints'

    @contextmanager
    def claim(
        self,
        config: schema.Config,
        mesh: jax.sharding.Mesh,
        data: Mapping[str, Any] | None = None,
        *,
        extend: bool = False,
        source: Mapping[str, Any] | None = None,
        imported: Mapping[str, Any] | None = None,
    ) -> Iterator[Workdir]:
        """Locks the folder for a run with these settings, and records the start of the run.

        Of several processes, process 0 does this for all, and the others wait for it.

        Args:
          config: the settings.
          mesh: the devices.
          data: the identity of the images, which is compared with the one that is recorded:
            'train' and 'eval', each a dict of 'images', their number, and 'fingerprint'. 'folder',
            the absolute path of the data set, is recorded and not compared. None: not known.
          extend: whether the number of epochs and the learning rate may differ from those that are
            recorded. The change is recorded.
          source: for a run that starts from another run's state, 'workdir' and 'step' of that
            state; None as the step stands for whichever was the newest.
          imported: for a run of imported weights, plain values that describe where they come from.

        Raises:
          UserError: the folder cannot be written, another process is using it, or it belongs to a
            run with other settings, other data or another source.
        """
        processes, lock = group.current(), contextlib.nullcontext()
        if processes.is_first:
            lock = locks.acquire(self.path / 'lock', 'choose another --workdir')
        with lock:
            if processes.is_first:
                arguments = extend, with_full_path(source), imported
                self._record_start(config, mesh, data, *arguments)
            shared_storage.check(self._config_file)
            yield self

    def check(
        self,
        config: schema.Config,
        *,
        extend: bool = False,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        """Checks that `claim` would accept these settings, whatever the data are; writes nothing.

        Raises:
          UserError: the folder belongs to a run with other settings or another source.
        """
        if self.exists():
            self._check(config, extend, with_full_path(source))

    def exists(self) -> bool:
        """Returns whether the folder is that of a run."""
        return self._has_record()

    def lacks_imported_weights(self) -> bool:
        """Returns whether an import has recorded its run here, but saved no checkpoint."""
        return self.exists() and 'imported' in self.read_record() and self.newest_step() is None

    def source(self) -> tuple[Workdir, int | None] | None:
        """Returns the workdir and the step of the state that the run was started from, if any."""
        source = self.read_record().get('from') if self.exists() else None
        return None if source is None else (Workdir(Path(source['workdir'])), source['step'])

    def read_record(self) -> dict[str, Any]:
        """Reads `config.json`.

        Returns:
          'config', the settings of the run as nested plain values; 'starts', the result of
          `describe_start` for each time that the run was started or resumed; and where they are
          known 'data', 'from' and 'imported', as `claim` got them, and 'changes', a list of dicts
          with 'time', 'step' and 'settings', the recorded and the new value by name.

        Raises:
          UserError: the folder is not that of a run, or the file is damaged, cannot be read, or was
            written by a newer version.
        """
        if not self._has_record():
            file = self._config_file
            raise UserError(f'{self.path} is not the workdir of a run: there is no {file}')
        return config_file.read(self._config_file)

    def read_config(self) -> schema.Config:
        """Reads the settings of the run.

        Raises:
          UserError: as from `read_record`, or the settings are out of range.
        """
        return self._resolve(self.read_record())

    def _resolve(self, record: Mapping[str, Any]) -> schema.Config:
        try:
            return resolve(record['config'])
        except UserError as error:
            raise config_file.damage_error(self._config_file, str(error)) from error

    def difference(self, config: schema.Config) -> str:
        """Names the recorded settings that differ from these and change what is trained or tested.

        A run may be resumed with other evaluations (see `claim`), but then its last result does not
        stand for these settings.

        Returns:
          A few words with the recorded values and those of `config`; '' if all are equal.
        """
        recorded = self.read_record()['config']
        return differences.describe(
            differences.changes(recorded, config, differences.changes_a_result)
        )

    def data_difference(self, split: str, data: Mapping[str, Any]) -> str:
        """Says how the images of a split differ from those that are recorded.

        Args:
          split: 'train' or 'eval'.
          data: as from `data.sources.Splits.identity`.

        Returns:
          A few words; '' if the images are the same, or none are recorded.
        """
        recorded = self.read_record().get('data') or {}
        return differences.data_difference(split, recorded.get(split), data.get(split))

    def read_inputs(self) -> Inputs | None:
        """Reads the mean image, the colours and the names of the classes.

        Returns:
          The inputs; None if the run is of a version that did not keep them, and was not resumed
          since.

        Raises:
          UserError: the folder holds no run; the file cannot be read or is damaged; or it is
            missing, and the weights of the run were imported.
        """
        from alexnet_jax.training.run_files import inputs_file

        record = self.read_record()
        dataset = self._resolve(record).dataset
        remedy = 'the command that started the run writes it again from the training images'
        if 'imported' in record:  # its mean is not that of any training images here
            remedy = 'import the weights again, with another --workdir'
        file, size, classes = self._inputs_file, dataset.image_size, dataset.classes
        inputs = inputs_file.read(file, size, classes, remedy)
        if inputs is None and 'imported' in record:
            raise UserError(f'{file} is missing: {remedy}')
        return inputs

    def has_inputs(self) -> bool:
        """Returns whether there is a file with the mean image and the names of the classes."""
        return self._inputs_file.exists()

    def write_inputs(self, inputs: Inputs) -> None:
        """Writes the mean image, the colours and the names of the classes.

        Raises:
          UserError: the file cannot be written.
        """
        from alexnet_jax.training.run_files import inputs_file

        inputs_file.write(self._inputs_file, inputs)

    def check_output(self, file: Path, flag: str) -> None:
        """Raises a UserError if the file that a program is to write is one that the run needs."""
        own = self._config_file, self._metrics_file, self._inputs_file
        if file.resolve() in [x.resolve() for x in own]:
            raise UserError(f'{flag}={file} is a file that the run needs: choose another name')

    def read_metrics(self) -> list[dict[str, float]]:
        """Reads `metrics.jsonl`: for each line, the step and named finite numbers.

        Damaged lines are left out, with one warning. An incomplete last line is left out silently:
        a run is still writing it, or was killed while writing it.

        Returns:
          The lines in the order in which they were written; [] where nothing has been logged.

        Raises:
          UserError: the file cannot be read.
        """
        return metrics_file.read_lines(self._metrics_file)

    def resume_metrics(self, step: int, evaluated: int) -> metrics_file.MetricsFile:
        """Opens `metrics.jsonl` for writing, without what the run will write again.

        Args:
          step: the training steps done in the checkpoint.
          evaluated: the step of its newest evaluation.

        Raises:
          UserError: the file cannot be read or written.
        """
        return metrics_file.MetricsFile(self._metrics_file, step, evaluated)

    def open_checkpoints(self, keep: int | None = None) -> Checkpoints:
        """Opens the checkpoints; the caller closes them.

        Args:
          keep: how many of the newest checkpoints are kept; None opens them for reading only, and
            does not create their folder.
        """
        from alexnet_jax.training.checkpoint import Checkpoints

        return Checkpoints(self._checkpoints_folder, keep)

    def checkpoint_step(self, step: int | None = None) -> int:
        """Returns the number of training steps done in a checkpoint.

        Args:
          step: the step of the checkpoint; None for the newest.

        Raises:
          UserError: there is no such checkpoint.
        """
        with self.open_checkpoints() as checkpoints:
            steps = checkpoints.steps
        if not steps:
            raise self._no_checkpoint()
        if step is not None and step not in steps:
            raise UserError(
                f'{self.path} has no checkpoint of step {step}: it has {", ".join(map(str, steps))}'
            )
        return steps[-1] if step is None else step

    def restore(self, shapes: Any, step: int | None = None) -> tuple[Any, Position]:
        """Restores a state and its position; see `Checkpoints.restore`.

        Args:
          shapes: the shapes, dtypes and shardings of the state.
          step: the step of the checkpoint; None for the newest one that is not damaged.

        Raises:
          UserError: as from there, and where there is no checkpoint.
        """
        with self.open_checkpoints() as checkpoints:
            restored = checkpoints.restore(shapes, step)
        if restored is None:
            raise self._no_checkpoint()
        return restored

    def _no_checkpoint(self) -> UserError:
        remedy = 'train it first, or wait'
        if self.lacks_imported_weights():
            remedy = 'wait for the import of its weights, or repeat it if it was interrupted'
        return UserError(f'{self.path} has no checkpoint yet: {remedy}')

    def _record_start(
        self,
        config: schema.Config,
        mesh: jax.sharding.Mesh,
        data: Mapping[str, Any] | None,
        extend: bool,
        source: Mapping[str, Any] | None,
        imported: Mapping[str, Any] | None,
    ) -> None:
        record: dict[str, Any] = {'starts': []}
        if self._has_record() and (imported is None or not self.lacks_imported_weights()):
            record, changes = self._check(config, extend, source)
            self._check_data(record, data, config)
            if changes:
                change = {'time': now(), 'step': self.newest_step(), 'settings': changes}
                record['changes'] = [*record.get('changes', []), change]
        elif source is not None:
            record['from'] = source
        if imported is not None:
            record['imported'] = dict(imported)
        record['config'] = config_file.plain(config)
        record['starts'] = [*record['starts'], describe_start(config, mesh)]
        if data is not None:
            record['data'] = dict(data)
        config_file.write(self._config_file, record)

    def _check(
        self, config: schema.Config, extend: bool, source: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Returns the record and the settings that differ; raises a UserError if they may not."""
        record = self.read_record()
        self._resolve(record)  # its settings are in range
        if self.lacks_imported_weights():  # training would begin with random ones
            raise self._no_checkpoint()
        differences.check_source(self.path, record.get('from'), source)
        changes = differences.changes(record['config'], config, differences.changes_training)
        if changes and not (extend and all(map(schema.may_extend, changes))):
            raise UserError(self._refusal(changes))
        return record, changes

    def _has_record(self) -> bool:
        try:
            self._config_file.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError) as error:
            reason = getattr(error, 'strerror', error)
            raise UserError(f'cannot read {self._config_file}: {reason}') from error
        return True

    def newest_step(self) -> int | None:
        """Returns the training steps done in the newest checkpoint; None where there is none."""
        if not self._checkpoints_folder.is_dir():
            return None
        with self.open_checkpoints() as checkpoints:
            return checkpoints.newest

    def _refusal(self, changes: Mapping[str, list[Any]]) -> str:
        """Says which settings differ, and what can be done about it."""
        what = f'{self.path} belongs to a run with {differences.describe(changes)}'
        if all(map(schema.may_extend, changes)):
            return (
                f'{what}: add --extend to continue it with more epochs or another schedule, set '
                'them as they were, or choose another --workdir'
            )
        return (
            f'{what}: set them as they were, or choose another --workdir{self._from_hint(changes)}'
        )

    def _from_hint(self, changes: Mapping[str, Any]) -> str:
        """Returns the advice to start from this run's state, where that is possible."""
        same_net = not any(
            name.startswith('model.') or name in ('dataset.classes', 'augmentation.crop')
            for name in changes
        )
        if not same_net or self.newest_step() is None:
            return ''
        flag = f'--from={shlex.quote(str(self.path))}'
        return f', or {flag} with another --workdir to start from its state'

    def _check_data(
        self, record: Mapping[str, Any], data: Mapping[str, Any] | None, config: schema.Config
    ) -> None:
        """Raises a UserError if the run was trained on other images."""
        recorded = record.get('data')
        if recorded is None or data is None:
            return
        reasons = differences.data_differences(recorded, data)
        if not reasons:
            return
        setting, folder = 'dataset.data_dir', recorded.get('folder')
        if config.dataset.folder:  # the place of the images, not of the prepared data set
            setting, folder = 'dataset.folder', record['config']['dataset']['folder']
        place = f' (they were in {folder})' if folder else ''
        raise UserError(
            f'the images are not those that {self.path} was trained on: '
            f'{"; ".join(reasons)}: set --config.{setting} to the place of the '
            f'original images{place}{self._from_hint({})}'
        )
