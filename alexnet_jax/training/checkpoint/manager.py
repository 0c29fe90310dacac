"""Orbax's manager of checkpoints, opened and closed without the lines that it prints."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orbax.checkpoint as ocp

from alexnet_jax.training.checkpoint import reading


def open_manager(folder: Path, keep: int | None) -> ocp.CheckpointManager:
    """Opens a folder of checkpoints.

    Args:
      folder: the absolute path of the folder.
      keep: as for `Checkpoints`; None opens it for reading only.
    """
    handlers = {
        reading.STATE: ocp.StandardCheckpointHandler(),
        reading.POSITION: ocp.JsonCheckpointHandler(filename=reading.JSON_FILE),
        reading.DIGESTS: ocp.JsonCheckpointHandler(filename=reading.JSON_FILE),
    }
    with no_warnings():
        if keep is None:
            # This also keeps temporary folders: another process may be writing a checkpoint.
            options = ocp.CheckpointManagerOptions(read_only=True, lightweight_initialize=True)
        else:
            _silence_closed_loops()
            options = ocp.CheckpointManagerOptions(
                # All of them: this program deletes the old ones, once the new one is verified.
                preservation_policy=ocp.checkpoint_managers.LatestN(None),
                cleanup_tmp_directories=True,
                lightweight_initialize=True,  # does not read what may be damaged
            )
        return ocp.CheckpointManager(folder, item_handlers=handlers, options=options)


def close_manager(manager: ocp.CheckpointManager) -> None:
    """Ends the threads of a manager, and raises the first error of a pending write."""
    errors = []
    for _ in range(3):  # each of its parts raises the error once, and has not ended then
        try:
            manager.close()
            break
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silences absl's warnings: Orbax warns about every option that a read-only manager ignores."""
    logger, is_error = logging.getLogger('absl'), lambda record: record.levelno > logging.WARNING
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)


class _WithoutClosedLoops:
    """A hook for exceptions that nobody can catch, which leaves out those of closed event loops.

    When a write fails, as on a full disk, Orbax raises the first error and closes the event loop;
    every other array that is still being written then prints a traceback, "Event loop is closed",
    before or after the line that says what is wrong.
    """

    def __init__(self) -> None:
        self._previous = sys.unraisablehook

    def __call__(self, arguments: 'sys.UnraisableHookArgs') -> None:
        error = arguments.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'):
            self._previous(arguments)


def _silence_closed_loops() -> None:
    # For as long as the process lives: these exceptions come after the manager is closed, too.
    # Python warns about writes that had not begun then.
    warnings.filterwarnings('ignore', "coroutine '.*' was never awaited", RuntimeWarning)
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops()
