"""The folder of a run's checkpoints: saving, verifying, keeping and restoring them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from alexnet_jax.processes import group as processes
from alexnet_jax.processes.errors import LostProcess
from alexnet_jax.processes.group import Group
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.paths import check_writable, refuse_pattern
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import (
    catalogue,
    choosing,
    folders,
    manager,
    reading,
    restoring,
)
from alexnet_jax.training.checkpoint.catalogue import Catalogue, View
from alexnet_jax.training.checkpoint.digests import Damage, Digests, OtherVersion, of_json
from alexnet_jax.training.checkpoint.folders import INTACT, explain_errors
from alexnet_jax.training.checkpoint.global_arrays import digests_of
from alexnet_jax.training.checkpoint.position import Position
from alexnet_jax.training.checkpoint.reading import Vanished
from alexnet_jax.training.run_files import shared_storage

_Restored = TypeVar('_Restored')


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


class _Unverifiable(UserError):
    """The error of a checkpoint that process 0 cannot read back as it was; all raise it."""


class Checkpoints:
    """The checkpoints in a folder: the newest ones, and the best by validation error.

    Leaving its `with` block, or `close`, ends its threads.

    A checkpoint is saved in the background. Before the next one is saved, and in `wait`, it is read
    back and compared with what was in memory; only then are older ones deleted. Whatever is
    restored is compared with its digests. Where the folder is open for writing, what is damaged is
    renamed to `36.damaged`, and the checkpoint before it is used.

    All processes of a group make the same calls in the same order. Each writes the shards that its
    devices hold; process 0 does and decides everything else. The folder is on storage that all of
    them share. A caller allows for the time of a save by `Group.expect_progress`.

    Args:
      folder: the folder of all checkpoints, with one folder for each step.
      keep: how many of the newest checkpoints are kept; None opens the folder for reading only.
      group: the processes that make the same calls; None for all of this process's group where the
        folder is open for writing, and for this process alone where it is open for reading only.

    Raises:
      UserError: from every method, where a checkpoint cannot be written or read.
      LostProcess: from every method, where another process is late or has ended.
    """

    def __init__(self, folder: Path, keep: int | None, group: Group | None = None) -> None:
        self._folder, self._keep = folder.absolute(), keep  # Orbax reads no relative path
        self._group = group or (Group() if keep is None else processes.current())
        self._unverified: _Unverified | None = None  # in process 0
        if keep is not None:
            refuse_pattern(folder, '--workdir')
            self._group.broadcast('opens the checkpoints', self._prepare_folder)
            folders.check_shared(self._folder, self._group)
        with explain_errors('open', self._folder):
            self._manager = manager.open_manager(self._folder, keep, self._group)
        self._catalogue = Catalogue(self._folder, keep, self._manager)
        self._list: Catalogue | View = self._catalogue
        self._update_list()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except (UserError, LostProcess):
            if kind is None:  # else the first error says more
                raise

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        return self._list.steps

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None where there is no checkpoint."""
        return self._list.newest

    @property
    def best(self) -> int | None:
        """The step with the lowest validation error, the earlier one of equals; None for none."""
        return self._list.best

    @property
    def best_error(self) -> float | None:
        """The top-1 error of the best checkpoint, a fraction; None where there is none."""
        return self._list.best_error

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
          LostProcess: another process does not save within SAVE_SECONDS; the text names it.
          ValueError: state and position disagree, or the folder is open for reading only.
        """
        if self._keep is None:
            raise ValueError(f'{self._folder} is open for reading only')
        position.check()
        # Before anything that waits for the devices, which would wait without a limit.
        self._group.barrier('a save of a checkpoint', manager.SAVE_SECONDS)
        if int(state.step) != position.step:
            raise ValueError(f'the state is at step {state.step}, its position at {position.step}')
        # Orbax would begin another run's folder in its place.
        if self._group.is_first and not self._folder.is_dir():
            raise UserError(
                f'{self._folder} was moved or removed while this run was using it: move it back '
                'or give its new place as --workdir; then the same command resumes'
            )
        earlier = None
        try:
            self._finish_write()
            self._verify()
        except UserError as error_of_earlier:
            # This state is not lost with the one before it.
            earlier = error_of_earlier
            if self._group.count > 1 and not isinstance(earlier, _Unverifiable):
                raise  # the others do not know of it, and end with this process
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
        self._finish_write()
        self._verify()

    def close(self) -> None:
        """Ends the background threads."""
        with explain_errors('write to', self._folder, INTACT):
            manager.close_manager(self._manager)

    def _prepare_folder(self) -> None:
        """Prepares the folder for writing; process 0 calls this."""
        with explain_errors('open', self._folder):
            catalogue.remove_leftovers(self._folder)
            if self._folder.is_dir():  # not only when hours of training are to be saved
                check_writable(self._folder, '--workdir')
            elif self._group.count > 1:  # else Orbax creates it
                self._folder.mkdir(parents=True, exist_ok=True)

    def _update_list(self) -> None:
        """Tells the other processes which checkpoints process 0 sees."""
        if self._group.count > 1:
            values = self._group.broadcast(
                'lists the checkpoints', lambda: self._catalogue.view()._asdict()
            )
            self._list = View(**values)

    def _finish_write(self) -> None:
        """Waits for the pending write."""
        with explain_errors('write to', self._folder, INTACT):
            self._manager.wait_until_finished()

    def _verify(self) -> None:
        """Reads back what was written, and deletes what is no longer needed.

        Raises:
          _Unverifiable: in all processes, what was written is not what was saved.
        """
        problem = self._group.broadcast('reads back a checkpoint', self._find_problem)
        if problem:
            raise _Unverifiable(problem)
        self._update_list()

    def _find_problem(self) -> str:
        """Reads back what was written; process 0 calls this.

        Returns:
          What is wrong with it; '' for nothing.
        """
        saved, self._unverified = self._unverified, None
        if saved is None:
            return ''
        folder = self._folder / str(saved.step)
        try:
            with explain_errors('write to', self._folder, INTACT):
                folders.sync(folder)
            restoring.verify(folder, saved.target, saved.digests)
            self._catalogue.delete_surplus(saved.step)
        except UserError as error:
            return str(error)
        except (Damage, OtherVersion, Vanished) as error:
            reason = 'it is gone' if isinstance(error, Vanished) else error
            return (
                f'checkpoint {saved.step} in {self._folder} cannot be read back as it was saved: '
                f'{reason}; the same command resumes from the newest intact one'
            )
        return ''

    def _restore(self, read: Callable[[int], _Restored], step: int | None) -> _Restored | None:
        """Reads a checkpoint in all processes: the given one, or the newest intact one."""
        chosen: list[_Restored] = []

        def choose() -> int | None:
            choice = choosing.choose(self._folder, self._catalogue, read, step)
            chosen[:] = [] if choice is None else [choice[1]]
            return None if choice is None else choice[0]

        choice = self._group.broadcast('reads a checkpoint', choose)
        self._update_list()
        if choice is None or chosen:
            return chosen[0] if chosen else None
        where = f'checkpoint {choice} in {self._folder}'
        try:
            return read(choice)
        except (Damage, OtherVersion, Vanished) as error:
            reason = 'it is gone' if isinstance(error, Vanished) else error
            raise UserError(
                f'process {self._group.index} does not read {where} as process 0 does ({reason}): '
                f'{shared_storage.REMEDY}'
            ) from error

    def _write(self, state: Any, position: Position, error: float | None) -> None:
        step, values = position.step, dataclasses.asdict(position)
        arrays = digests_of(state._asdict(), self._group)
        digests = Digests.of(arrays, values, error)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state._asdict())
        if self._group.broadcast(
            'compares the state with the checkpoints',
            lambda: self._is_saved(step, target, digests, values),
        ):
            self._update_list()
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            position=ocp.args.JsonSave(values),  # process 0 writes what is JSON
            digests=ocp.args.JsonSave(digests.as_json()),
        )
        with explain_errors('write to', self._folder, INTACT):
            if not self._group.is_first:
                manager.forget_steps(self._manager)
            self._manager.save(step, args=arguments, force=True)
        if self._group.is_first:
            self._unverified = _Unverified(step, target, digests)
            self._catalogue.record_error(step, digests.error)
        self._update_list()

    def _is_saved(self, step: int, target: Any, digests: Digests, values: dict[str, Any]) -> bool:
        """Returns whether there is a checkpoint with these arrays; process 0 calls this.

        If so, its position and its error are replaced; one with other arrays is deleted.
        """
        if step not in self._catalogue.steps:
            return False
        if self._replace_position(step, target, digests, values):
            return True
        self._catalogue.delete(step)  # it holds another state, or is damaged
        return False

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
        with explain_errors('write to', self._folder, INTACT):
            digests_file.parent.mkdir(exist_ok=True)
            atomic_files.replace_json(digests_file, both.as_json())
            atomic_files.replace_json(position_file, values)
            atomic_files.replace_json(digests_file, after.as_json())
        self._unverified = _Unverified(step, target, after)
        self._catalogue.record_error(step, error)
        return True
