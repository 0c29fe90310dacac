"""Writes shards in parallel, in one process per core (§2)."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alexnet_jax.data.preparation.shards import Shard, write_shard
from alexnet_jax.runtime.user_errors import UserError


def write_shards(shards: Sequence[Shard], processes: int, report: Callable[[int], None]) -> None:
    """Writes shards, in this process alone where more processes would not help.

    Args:
      shards: the shards to write.
      processes: the number of worker processes, at most.
      report: receives the number of images done: at each image, or twice a second.

    Raises:
      UserError: a shard cannot be written, or a worker process was killed.
    """
    if not shards:
        return
    if processes == 1 or len(shards) == 1:
        images = itertools.count(1)
        for shard in shards:
            write_shard(shard, lambda: report(next(images)))
        return
    context = multiprocessing.get_context('spawn')  # fork is not safe with JAX's threads
    done, stop = context.Value('q', 0), context.Value('b', 0)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(shards)), context, _start_worker, (done, stop, os.getpid())
    )
    try:
        with _worker_environment():
            pending = {executor.submit(_write_in_worker, shard) for shard in shards}
        while pending:
            complete, pending = concurrent.futures.wait(
                pending, 0.5, concurrent.futures.FIRST_COMPLETED
            )
            report(done.value)
            for future in complete:
                future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise UserError(
            'a worker process was killed (out of memory?): run the same command again to resume; '
            '--workers=N starts fewer processes'
        ) from error
    finally:
        stop.value = 1
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Lets processes that are started now ignore Ctrl-C and scale images in one thread each."""
    previous = os.environ.get('RAYON_NUM_THREADS')
    os.environ['RAYON_NUM_THREADS'] = '1'
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        if previous is None:
            del os.environ['RAYON_NUM_THREADS']
        else:
            os.environ['RAYON_NUM_THREADS'] = previous


_shared: dict[str, Any] = {}  # what a worker process shares with its parent


def _start_worker(done: Any, stop: Any, parent: int) -> None:
    """Prepares a new worker process, which ends when its parent is killed."""
    _shared.update(done=done, stop=stop)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_in_worker(shard: Shard) -> None:
    def count_image() -> None:
        if _shared['stop'].value:
            raise UserError('stopped')
        with _shared['done'].get_lock():
            _shared['done'].value += 1

    write_shard(shard, count_image)
