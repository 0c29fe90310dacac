"""Files that are whole or not there, and how many processors there are to read them."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a file to write in place of `path`, whose name it gets once it is on the disk.

    Neither a kill nor a power cut leaves half a file under that name, and processes that write the
    same do not meet: the last one stays.
    """
    partial = path.with_name(f'.{platform.node()}-{os.getpid()}-{path.name}')
    try:
        yield partial
        sync(partial)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file is on the disk."""
    with path.open('rb') as file:
        os.fsync(file.fileno())


def processors() -> int:
    """Those this process may use: a scheduler may have given it fewer than the machine has."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
