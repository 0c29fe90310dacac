"""The list of the checkpoints in a folder: which there are, which is the best, and which to delete.

With several processes, process 0 alone has a catalogue. The others get a `View` of it, so that all
make the same decisions: on a network disk, two processes may list the same folder differently.
"""

import math
import shutil
from pathlib import Path
from typing import NamedTuple

import orbax.checkpoint as ocp

from alexnet_jax.runtime.printing import warn, warn_once
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import folders, reading
from alexnet_jax.training.checkpoint.digests import Damage, OtherVersion
from alexnet_jax.training.checkpoint.folders import explain_errors
from alexnet_jax.training.checkpoint.manager import no_warnings
from alexnet_jax.training.checkpoint.reading import Vanished

# Added to the names of folders that no longer count as checkpoints.
DAMAGED, _DELETED = '.damaged', '.deleted'


class View(NamedTuple):
    """The answers of a catalogue at one time.

    Attributes:
      steps: the steps of all checkpoints, in order.
      best: the step with the lowest validation error; None for none.
      best_error: its top-1 error, a fraction; None for none.
    """

    steps: list[int]
    best: int | None
    best_error: float | None

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None where there is no checkpoint."""
        return max(self.steps, default=None)


class Catalogue:
    """The checkpoints in a folder.

    Args:
      folder: the absolute path of the folder.
      keep: how many of the newest checkpoints are kept; None leaves the folder as it is.
      manager: Orbax's manager of this folder.

    Raises:
      UserError: from every method, where the folder cannot be read or changed.
    """

    def __init__(self, folder: Path, keep: int | None, manager: ocp.CheckpointManager) -> None:
        self._folder, self._keep, self._manager = folder, keep, manager
        self._errors: dict[int, float | None] = {}  # of each step whose digests were read

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        return sorted(self._manager.all_steps())

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None where there is no checkpoint."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step with the lowest validation error, the earlier one of equals; None for none."""
        errors = {step: error for step in self.steps if (error := self._error(step)) is not None}
        return min(errors, key=lambda step: (errors[step], step), default=None)

    @property
    def best_error(self) -> float | None:
        """The top-1 error of the best checkpoint, a fraction; None where there is none."""
        step = self.best
        return None if step is None else self._error(step)

    def view(self) -> View:
        """Returns what the other processes need to know."""
        return View(self.steps, self.best, self.best_error)

    def record_error(self, step: int, error: float | None) -> None:
        """Records the top-1 error of a checkpoint that is being written; None or NaN for none."""
        self._errors[step] = None if error is None or math.isnan(error) else error

    def _error(self, step: int) -> float | None:
        if step not in self._errors:
            try:
                digests = reading.read_digests(self._folder / str(step))
            except (Damage, OtherVersion, Vanished, UserError):
                return None  # `restore` reports it
            self._errors[step] = digests.error if digests else None
        return self._errors[step]

    def delete_surplus(self, saved: int) -> None:
        """Removes all but the newest checkpoints, the best one, and the one just saved."""
        steps = self.steps
        kept = {*steps[-(self._keep or 1) :], self.best, saved}
        for step in steps:
            if step not in kept:
                self.delete(step)

    def delete(self, step: int) -> None:
        """Removes a checkpoint."""
        # Renamed first: a checkpoint that is partly deleted never has the name of an intact one.
        with explain_errors('delete', self._folder):
            renamed = folders.set_aside(self._folder / str(step), _DELETED)
        self._errors.pop(step, None)
        self.reload()
        _remove(renamed)

    def set_aside(self, step: int, damage: Damage, used: int) -> None:
        """Renames a damaged checkpoint where the folder is open for writing, and warns of it.

        Args:
          step: its step.
          damage: what is wrong with it.
          used: the step of the checkpoint that is used in its place.
        """
        text = f'checkpoint {step} is damaged ({damage}): checkpoint {used} is used'
        if self._keep is not None:
            with explain_errors('rename', self._folder):
                renamed = folders.set_aside(self._folder / str(step), DAMAGED)
            self._errors.pop(step, None)
            self.reload()
            text += f', and {step} is now named {renamed.name}'
        warn(text)

    def reload(self) -> None:
        """Reads the list of steps anew."""
        with explain_errors('read', self._folder), no_warnings():
            self._manager.reload()


def remove_leftovers(folder: Path) -> None:
    """Removes what a process was deleting when it was killed."""
    for leftover in folders.find_renamed(folder, _DELETED):
        _remove(leftover)


def _remove(folder: Path) -> None:
    """Removes a folder; an error, as on a network disk while it is read, ends no training."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        warn_once(f'cannot delete {folder}: {error.strerror}; the next start tries again')
