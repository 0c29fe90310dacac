"""Orbax's manager of checkpoints, opened and closed without the lines that it prints.

In a group of processes it waits for the others only at barriers of the coordination service, which
have a time limit and name the processes that are missing. By default, Orbax's barriers are
collectives on the devices, which have no limit.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import multihost
from orbax.checkpoint import path as orbax_path

from alexnet_jax.processes.group import Group
from alexnet_jax.training.checkpoint import reading

# The time limit for all processes to reach a save, and then for all to have written their shards.
# The barriers between these two have a limit of Orbax's own, 300 s.
SAVE_SECONDS = 600


def open_manager(folder: Path, keep: int | None, group: Group) -> ocp.CheckpointManager:
    """Opens a folder of checkpoints.

    Args:
      folder: the absolute path of the folder; with several processes and `keep`, it exists.
      keep: as for `Checkpoints`; None opens it for reading only, without waiting for any process.
      group: the processes that save together.
    """
    together: dict[str, Any] = {}
    if group.count > 1:
        together['multiprocessing_options'] = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes=set(range(group.count))
        )
    handlers = {
        reading.STATE: ocp.StandardCheckpointHandler(**together),
        reading.POSITION: ocp.JsonCheckpointHandler(filename=reading.JSON_FILE, **together),
        reading.DIGESTS: ocp.JsonCheckpointHandler(filename=reading.JSON_FILE, **together),
    }
    with no_warnings():
        if keep is None:
            # This also keeps temporary folders: another process may be writing a checkpoint.
            options = ocp.CheckpointManagerOptions(
                read_only=True,
                lightweight_initialize=True,
                save_root_metadata=False,  # there is none, and writing it has a barrier
            )
        else:
            _silence_closed_loops()
            if group.count > 1:
                together |= _options_of_several(group)
            options = ocp.CheckpointManagerOptions(
                # All of them: this program deletes the old ones, once the new one is verified.
                preservation_policy=ocp.checkpoint_managers.LatestN(None),
                cleanup_tmp_directories=True,
                lightweight_initialize=True,  # does not read what may be damaged
                **together,
            )
        return ocp.CheckpointManager(folder, item_handlers=handlers, options=options)


def _options_of_several(group: Group) -> dict[str, Any]:
    """Returns the options of a manager of several processes."""
    wait_at_barrier = multihost.get_barrier_sync_fn(processes=set(range(group.count)))

    def wait(*, key: str, timeout_ms: int) -> None:
        # Orbax also has all processes agree whether a save is in progress, which nothing here asks.
        # A process whose write has failed would wait there for the others, and they for its part
        # of the write, until the time limit.
        if 'ThreadSaveMultiHostValueHolder' not in key:
            wait_at_barrier(key=key, timeout_ms=timeout_ms)

    options: dict[str, Any] = {
        'async_options': ocp.AsyncOptions(timeout_secs=SAVE_SECONDS, barrier_sync_fn=wait),
        'create': False,  # Orbax refuses it together with a set of processes
        'save_root_metadata': False,
    }
    if not group.is_first:
        options['step_name_format'] = _WithoutSteps()
    return options


class _WithoutSteps(orbax_path.step.NameFormat[orbax_path.step.Metadata]):
    """Names the folders of steps, and lists none: process 0 decides which steps there are."""

    def build_name(self, step: int) -> str:
        """Returns the name of the folder of a step."""
        return str(step)

    def find_all(self, base_path: Any) -> Iterator[orbax_path.step.Metadata]:
        """Returns no step."""
        return iter(())

    def find_step(self, base_path: Any, step: int) -> orbax_path.step.Metadata:
        """Raises a ValueError: there is no step."""
        raise ValueError(f'process 0 alone reads the list of steps in {base_path}')


def forget_steps(manager: ocp.CheckpointManager) -> None:
    """Makes the manager of a process other than process 0 forget the steps that it has saved."""
    with no_warnings():
        manager.reload()


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
    # And it logs those that wait, as for a folder that process 0 makes.
    logging.getLogger('asyncio').addFilter(_has_another_cause)
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops()


def _has_another_cause(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith('Task was destroyed but it is pending')
