"""Writes shards in parallel, in one process per core (§2)."""

import concurrent.futures
import itertools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any

from alexnet_jax.data import child_processes, system_errors
from alexnet_jax.data.preparation.shards import Shard, write_shard
from alexnet_jax.runtime import signals
from alexnet_jax.runtime.user_errors import UserError, first_line


def write_shards(shards: Sequence[Shard], processes: int, report: Callable[[int], None]) -> None:
    """Writes shards, in this process alone where more processes would not help.

    Args:
      shards: the shards to write.
      processes: the number of worker processes, at most.
      report: receives the number of images done: at each image, or twice a second.

    Raises:
      UserError: a shard cannot be written, or a worker process was killed or failed.
      Stopped: a signal arrived. The shards that are complete remain.
    """
    if not shards:
        return
    if processes == 1 or len(shards) == 1:
        _write_here(shards, report)
        return
    context = multiprocessing.get_context('spawn')  # fork is not safe with JAX's threads
    done, stop = context.Value('q', 0), context.Value('b', 0)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(shards)), context, _start_worker, (done, stop, os.getpid())
    )
    try:
        with child_processes.worker_environment():
            pending = {executor.submit(_write_in_worker, shard) for shard in shards}
        while pending:
            complete, pending = concurrent.futures.wait(
                pending, 0.5, concurrent.futures.FIRST_COMPLETED
            )
            report(done.value)
            signals.raise_if_stopped()
            for future in complete:
                future.result()
    except concurrent.futures.BrokenExecutor as error:
        signals.raise_if_stopped()  # which may have ended the workers, too
        raise UserError(
            'a worker process was killed (out of memory?): run the same command again to resume; '
            '--workers=N starts fewer processes'
        ) from error
    except (UserError, signals.Stopped):
        raise
    except Exception as error:  # of a worker; its traceback is in the cause
        raise _failure(error) from error
    finally:
        stop.value = 1
        executor.shutdown(cancel_futures=True)


def _write_here(shards: Sequence[Shard], report: Callable[[int], None]) -> None:
    """Writes shards in this process."""
    images = itertools.count(1)

    def count_image() -> None:
        report(next(images))
        signals.raise_if_stopped()

    for shard in shards:
        try:
            write_shard(shard, count_image)
        except (OSError, MemoryError) as error:
            raise _failure(error) from error


def _failure(error: Exception) -> UserError:
    """Returns the line for an error other than those of an image or a file."""
    if system_errors.error_code(error) is not None:
        return system_errors.user_error('cannot prepare the images', error)
    return UserError(
        f'a worker process failed ({type(error).__name__}: {first_line(error)}): run the same '
        'command again to resume; --workers=1 works in one process'
    )


_shared: dict[str, Any] = {}  # what a worker process shares with its parent


def _start_worker(done: Any, stop: Any, parent: int) -> None:
    """Prepares a new worker process, which ends when its parent is killed."""
    _shared.update(done=done, stop=stop)
    child_processes.end_with_parent(parent)


def _write_in_worker(shard: Shard) -> None:
    def count_image() -> None:
        if _shared['stop'].value:
            raise UserError('stopped')
        with _shared['done'].get_lock():
            _shared['done'].value += 1

    write_shard(shard, count_image)
