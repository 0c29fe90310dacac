"""Joins a group of processes at the start of a program, and leaves it at the end or an error."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata

from alexnet_jax.processes import group
from alexnet_jax.processes.errors import (
    EXIT_FAULT,
    EXIT_LOST_PROCESS,
    Failure,
    NotStarted,
    is_collective_failure,
)
from alexnet_jax.processes.group import Group
from alexnet_jax.processes.keys import Keys
from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.monitor import Monitor
from alexnet_jax.processes.several import Several
from alexnet_jax.runtime import printing

# With different versions of these, processes may compile different programs or write other files.
PACKAGES = ('alexnet_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'grain')


@contextlib.contextmanager
def join(launch: Launch | None, start_seconds: float, hang_seconds: float) -> Iterator[Group]:
    """Joins the other processes for the block, which contains all that a program does.

    JAX must not have used its devices before. An exception that leaves the block is reported to the
    other processes, and ends all of them with the same exit code; it is not raised again.

    Args:
      launch: the place of this process in the group; None for a program of one process.
      start_seconds: the time within which all processes must have started.
      hang_seconds: the time after which a process that ends no turn counts as hanging; 0 for never.

    Yields:
      The group.

    Raises:
      UserError: the processes do not belong together, or the address cannot be used.
      SystemExit: with EXIT_LOST_PROCESS, a process has not started within the time; or the one that
        ended the block, after all processes have reached its end.
    """
    if launch is None:
        yield group.current()
        return
    import jax

    from alexnet_jax.processes import connection

    printing.set_process(launch.index)
    try:
        keys = Keys(connection.connect(launch, start_seconds))
    except NotStarted as error:
        printing.complain(printing.printable(printing.line_of_program(str(error))))
        raise SystemExit(EXIT_LOST_PROCESS) from error
    monitor = Monitor(keys, launch.index, launch.count, hang_seconds)
    several = Several(keys, launch.index, launch.count, monitor)
    group.set_current(several)
    monitor.start()
    exit_of_program = None
    try:
        printing.show(connection.describe(launch))
        several.compare(_versions())
        try:
            yield several
        except SystemExit as error:
            exit_of_program = error
        several.barrier('the end')
    except BaseException as error:
        failure = Failure.of(error, launch.index)
        if failure.code == EXIT_FAULT:
            traceback.print_exc()
        monitor.end_process(failure, is_collective_failure(error))
    monitor.close()
    jax.distributed.shutdown()
    if exit_of_program is not None:
        raise exit_of_program


def _versions() -> dict[str, str]:
    versions = {'python': '.'.join(map(str, sys.version_info[:2]))}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
