"""Prepares worker processes: they end with their parent, and each computes in one thread."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

# How many threads the libraries that a worker uses start for one operation. With as many workers
# as cores, threads of theirs would only wait for each other: 2.9 instead of 108 images/s on two
# busy cores.
_THREADS = (
    'RAYON_NUM_THREADS',  # kornia
    'OPENBLAS_NUM_THREADS',  # NumPy, by the library that it was built with
    'MKL_NUM_THREADS',
    'OMP_NUM_THREADS',
    'VECLIB_MAXIMUM_THREADS',
)


def end_with_parent(parent: int) -> None:
    """Ends this process soon after its parent has ended, also when that was killed.

    A thread compares the parent's id five times a second. Linux could send a signal instead
    (PR_SET_PDEATHSIG), but would send it already when the thread that started this process ends.

    Args:
      parent: the process id of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def start_reader(parent: int, cores: int, *_: int) -> None:
    """Prepares a new process that reads batches with threads of its own.

    Args:
      parent: the process id of the parent.
      cores: how many threads scale images.
    """
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    os.environ['RAYON_NUM_THREADS'] = str(cores)


def remove_shared_memory_silently() -> None:
    """Starts the process in which Python removes the shared memory that killed workers leave.

    Python would start it with the first worker, and it would print warnings after the line that
    says why a worker was killed. Started here, it prints none.
    """
    previous = os.environ.get('PYTHONWARNINGS')
    os.environ['PYTHONWARNINGS'] = 'ignore'
    try:
        resource_tracker.ensure_running()
    finally:
        _restore('PYTHONWARNINGS', previous)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        del os.environ[name]
    else:
        os.environ[name] = value


@contextlib.contextmanager
def worker_environment() -> Iterator[None]:
    """Lets processes that are started in this block ignore Ctrl-C and compute in one thread each.

    Ctrl-C reaches every process of a terminal; a worker ends when its parent says so. The parent
    still receives it.
    """
    previous = {name: os.environ.get(name) for name in _THREADS}
    with _postpone_ctrl_c():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
        os.environ.update(dict.fromkeys(_THREADS, '1'))
        try:
            yield
        finally:
            for name, value in previous.items():
                _restore(name, value)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _postpone_ctrl_c() -> Iterator[None]:
    """Handles a Ctrl-C within the block when the block ends.

    Blocking the signal is not enough: that holds for one thread, and the system may hand it to any
    other thread of the process, whereupon Python handles it in the main thread all the same.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not callable(handler):  # ignored, or not handled by Python
        yield
        return
    frames: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: frames.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for frame in frames:  # not sent again, because StopSignal would count it twice
            handler(signal.SIGINT, frame)
