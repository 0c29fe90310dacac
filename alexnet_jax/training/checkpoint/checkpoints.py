"""The folder of a run's checkpoints: saving, verifying, keeping and restoring them."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.paths import check_writable, refuse_pattern
from alexnet_jax.runtime.printing import warn, warn_once
from alexnet_jax.runtime.user_errors import UserError, first_line
from alexnet_jax.training.checkpoint import folders, reading, restoring
from alexnet_jax.training.checkpoint.digests import Damage, Digests, OtherVersion, of_json
from alexnet_jax.training.checkpoint.manager import close_manager, no_warnings, open_manager
from alexnet_jax.training.checkpoint.position import Position
from alexnet_jax.training.checkpoint.reading import Vanished

_Restored = TypeVar('_Restored')

_DAMAGED, _DELETED = '.damaged', '.deleted'  # added to the names of folders that no longer count
_LONGEST_REASON = 120  # characters of a library's error that are shown


@dataclasses.dataclass(frozen=True)
class _Unverified:
    """A checkpoint that has been saved and not yet been read back.

    Attributes:
      step: its step.
      target: the tree of its state, of ShapeDtypeStruct.
      digests: those of what was in memory.
    """

    step: int
    target: Any
    digests: Digests


class Checkpoints:
    """The checkpoints in a folder: the newest ones, and the best by validation error.

    Leaving its `with` block, or `close`, ends its threads.

    A checkpoint is saved in the background. Before the next one is saved, and in `wait`, it is read
    back and compared with what was in memory; only then are older ones deleted. Whatever is
    restored is compared with its digests. Where the folder is open for writing, what is damaged is
    renamed to `36.damaged`, and the checkpoint before it is used.

    Args:
      folder: the folder of all checkpoints, with one folder for each step.
      keep: how many of the newest checkpoints are kept; None opens the folder for reading only.

    Raises:
      UserError: from every method, where a checkpoint cannot be written or read.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        self._folder, self._keep = folder.absolute(), keep  # Orbax reads no relative path
        self._unverified: _Unverified | None = None
        self._errors: dict[int, float | None] = {}  # of each step whose digests were read
        if keep is not None:
            refuse_pattern(folder, '--workdir')
        with self._explain_errors('open', ''):
            if keep is not None:
                self._remove_leftovers()
                if self._folder.is_dir():  # not only when hours of training are to be saved
                    check_writable(self._folder, '--workdir')
            self._manager = open_manager(self._folder, keep)

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except UserError:
            if kind is None:  # else the first error says more
                raise

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        return sorted(self._steps())

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None where there is no checkpoint."""
        return max(self._steps(), default=None)

    @property
    def best(self) -> int | None:
        """The step with the lowest validation error, the earlier one of equals; None for none."""
        errors = {step: error for step in self._steps() if (error := self._error(step)) is not None}
        return min(errors, key=lambda step: (errors[step], step), default=None)

    @property
    def best_error(self) -> float | None:
        """The top-1 error of the best checkpoint, a fraction; None where there is none."""
        step = self.best
        return None if step is None else self._error(step)

    def save(self, state: Any, position: Position, error: float | None = None) -> None:
        """Copies the state, and writes it in the background.

        A step that is already saved is not written again: only its position and its error are
        replaced, if they have changed.

        Args:
          state: the arrays of the state; its step is that of the position.
          position: the position of the run.
          error: the top-1 error of an evaluation of exactly this state, a fraction; the checkpoint
            with the lowest one is kept. None or NaN for none.

        Raises:
          UserError: the checkpoint cannot be written, or the one saved before it cannot be read
            back as it was saved.
          ValueError: state and position disagree, or the folder is open for reading only.
        """
        if self._keep is None:
            raise ValueError(f'{self._folder} is open for reading only')
        position.check()
        if int(state.step) != position.step:
            raise ValueError(f'the state is at step {state.step}, its position at {position.step}')
        if not self._folder.is_dir():  # Orbax would begin another run's folder in its place
            raise UserError(
                f'{self._folder} was moved or removed while this run was using it: move it back '
                'or give its new place as --workdir; then the same command resumes'
            )
        earlier = None
        try:
            self.wait()
        except UserError as error_of_earlier:
            earlier = error_of_earlier  # this state is not lost with the one before it
        self._write(state, position, error)
        if earlier:
            self.wait()
            raise earlier

    def restore(self, shapes: Any, step: int | None = None) -> tuple[Any, Position] | None:
        """Restores a state and its position, which are those that were saved, bit by bit.

        Args:
          shapes: the shapes, dtypes and shardings of the state.
          step: the step of the checkpoint; None for the newest one that is not damaged.

        Returns:
          The state on the devices, and the position; None where there has been no checkpoint.

        Raises:
          UserError: the checkpoint is of another net or version, cannot be read, or is damaged, and
            so are all before it.
        """
        return self._restore(lambda step: restoring.read_state(self._folder, step, shapes), step)

    def restore_params(self, step: int | None = None) -> dict[str, Any] | None:
        """Restores parameters alone, whatever their shapes are.

        This is for nets that differ from the one that was saved.

        Args:
          step: the step of the checkpoint; None for the newest one that is not damaged.

        Returns:
          A nested dict of NumPy arrays; None where there has been no checkpoint.

        Raises:
          UserError: the checkpoint cannot be read, or is damaged, and so are all before it.
        """
        return self._restore(lambda step: restoring.read_params(self._folder, step), step)

    def wait(self) -> None:
        """Waits for pending writes, and reads back what was written."""
        with self._explain_write_errors():
            self._manager.wait_until_finished()
        saved, self._unverified = self._unverified, None
        if saved is None:
            return
        folder = self._folder / str(saved.step)
        with self._explain_write_errors():
            folders.sync(folder)
        try:
            restoring.verify(folder, saved.target, saved.digests)
        except (Damage, OtherVersion, Vanished) as error:
            reason = 'it is gone' if isinstance(error, Vanished) else error
            raise UserError(
                f'checkpoint {saved.step} in {self._folder} cannot be read back as it was saved: '
                f'{reason}; the same command resumes from the newest intact one'
            ) from error
        self._delete_surplus(saved.step)

    def close(self) -> None:
        """Ends the background threads."""
        with self._explain_write_errors():
            close_manager(self._manager)

    def _steps(self) -> list[int]:
        return list(self._manager.all_steps())

    def _error(self, step: int) -> float | None:
        if step not in self._errors:
            try:
                digests = reading.read_digests(self._folder / str(step))
            except (Damage, OtherVersion, Vanished, UserError):
                return None  # `restore` reports it
            self._errors[step] = digests.error if digests else None
        return self._errors[step]

    def _restore(self, read: Callable[[int], _Restored], step: int | None) -> _Restored | None:
        """Reads a checkpoint: the given one, or the newest intact one."""
        if step is not None:
            return self._restore_step(read, step)
        damaged: dict[int, Damage] = {}
        while steps := set(self._steps()) - damaged.keys():
            step = max(steps)
            try:
                restored = read(step)
            except Vanished:
                self._reload()  # the run that is training has removed it
            except OtherVersion as error:
                raise self._other_version(step, error) from error
            except Damage as error:
                damaged[step] = error
            else:
                for damaged_step, damage in damaged.items():
                    self._set_aside(damaged_step, damage, step)
                return restored
        # Nothing is renamed where nothing can be used: the cause may lie elsewhere.
        reasons = [f'{step} ({damage})' for step, damage in damaged.items()]
        if reasons := reasons or [
            path.name for path in folders.find_renamed(self._folder, _DAMAGED)
        ]:
            raise UserError(
                f'no checkpoint in {self._folder} is intact: {", ".join(reasons[:2])}; choose '
                'another --workdir to train from the beginning'
            )
        return None

    def _restore_step(self, read: Callable[[int], _Restored], step: int) -> _Restored:
        where = f'checkpoint {step} in {self._folder}'
        steps = self._steps()
        if step not in steps:
            there = f'there are {", ".join(map(str, steps))}' if steps else 'there is none'
            raise UserError(f'{where} does not exist: {there}')
        try:
            return read(step)
        except Vanished as error:
            raise UserError(f'{where} was removed by the run that is training') from error
        except OtherVersion as error:
            raise self._other_version(step, error) from error
        except Damage as error:
            raise UserError(f'{where} is damaged: {error}') from error

    def _other_version(self, step: int, error: OtherVersion) -> UserError:
        return UserError(f'checkpoint {step} in {self._folder} is of another version: {error}')

    def _write(self, state: Any, position: Position, error: float | None) -> None:
        step, values = position.step, dataclasses.asdict(position)
        # With several processes, process 0 alone needs the digests: it writes them and verifies.
        digests = Digests.of(state._asdict(), values, error)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state._asdict())
        if step in self._steps():
            if self._replace_position(step, target, digests, values):
                return
            self._delete(step)  # it holds another state, or is damaged
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            position=ocp.args.JsonSave(values),
            digests=ocp.args.JsonSave(digests.as_json()),
        )
        with self._explain_write_errors():
            self._manager.save(step, args=arguments, force=True)
        self._unverified = _Unverified(step, target, digests)
        self._errors[step] = digests.error

    def _replace_position(
        self, step: int, target: Any, digests: Digests, values: dict[str, Any]
    ) -> bool:
        """Replaces the position and the error of an intact checkpoint that holds the same arrays.

        A kill between any two writes leaves a position that the digests allow.

        Returns:
          Whether the checkpoint holds them.
        """
        folder = self._folder / str(step)
        try:
            stored = reading.read_json(folder, reading.POSITION)
            before = reading.read_digests(folder)
            # An earlier version wrote no digests: they are added.
            allowed = before or dataclasses.replace(digests, positions=(of_json(stored),))
            if allowed.arrays != digests.arrays or not allowed.allow_position(stored):
                return False
            digests.check_arrays(reading.read_arrays(folder, target))
        except (Damage, OtherVersion):
            return False
        except Vanished as error:
            raise UserError(f'{folder} was removed while this run was using it') from error
        error = allowed.error if digests.error is None else digests.error
        after = dataclasses.replace(digests, error=error)
        if after == before:
            return True
        both = dataclasses.replace(after, positions=allowed.positions + digests.positions)
        digests_file, position_file = (
            folder / item / reading.JSON_FILE for item in (reading.DIGESTS, reading.POSITION)
        )
        with self._explain_write_errors():
            digests_file.parent.mkdir(exist_ok=True)
            atomic_files.replace_json(digests_file, both.as_json())
            atomic_files.replace_json(position_file, values)
            atomic_files.replace_json(digests_file, after.as_json())
        self._unverified, self._errors[step] = _Unverified(step, target, after), error
        return True

    def _delete_surplus(self, saved: int) -> None:
        """Removes all but the newest checkpoints, the best one, and the one just saved."""
        steps = sorted(self._steps())
        kept = {*steps[-(self._keep or 1) :], self.best, saved}
        for step in steps:
            if step not in kept:
                self._delete(step)

    def _delete(self, step: int) -> None:
        # Renamed first: a checkpoint that is partly deleted never has the name of an intact one.
        with self._explain_errors('delete', ''):
            renamed = folders.set_aside(self._folder / str(step), _DELETED)
        self._errors.pop(step, None)
        self._reload()
        _remove(renamed)

    def _set_aside(self, step: int, damage: Damage, used: int) -> None:
        text = f'checkpoint {step} is damaged ({damage}): checkpoint {used} is used'
        if self._keep is not None:
            with self._explain_errors('rename', ''):
                renamed = folders.set_aside(self._folder / str(step), _DAMAGED)
            self._errors.pop(step, None)
            self._reload()
            text += f', and {step} is now named {renamed.name}'
        warn(text)

    def _remove_leftovers(self) -> None:
        """Removes what a process was deleting when it was killed."""
        for folder in folders.find_renamed(self._folder, _DELETED):
            _remove(folder)

    def _reload(self) -> None:
        with self._explain_errors('read', ''), no_warnings():
            self._manager.reload()

    def _explain_write_errors(self) -> Any:
        return self._explain_errors('write to', '; the checkpoints before it are intact')

    @contextmanager
    def _explain_errors(self, action: str, consequence: str) -> Iterator[None]:
        """Raises whatever Orbax or the system raises as a UserError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = (
                reading.trouble_of_system(error, ignored=()) or first_line(error)[:_LONGEST_REASON]
            )
            raise UserError(
                f'cannot {action} the checkpoints in {self._folder}: {reason}{consequence}'
            ) from error


def _remove(folder: Path) -> None:
    """Removes a folder; an error, as on a network disk while it is read, ends no training."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        warn_once(f'cannot delete {folder}: {error.strerror}; the next start tries again')
