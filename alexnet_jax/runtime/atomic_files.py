"""Files that are complete or absent, whenever the process or the machine stops."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replace(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, and renames it to `path` once it is on the disk.

    Neither a kill nor a power cut leaves a partial file under that name. The temporary name
    contains the host and the process, so that two processes may write the same file: the last one
    to finish wins.

    Args:
      path: the file to create or to replace; its folder exists.

    Yields:
      The path to write to. If the block raises, that file is removed and `path` stays as it was.
    """
    partial = path.with_name(f'.{platform.node()}-{os.getpid()}-{path.name}')
    try:
        yield partial
        sync(partial)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the contents of a file are on the disk."""
    with path.open('rb') as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_json(path: Path, values: Any) -> None:
    """Replaces a file by plain values as JSON."""
    with replace(path) as partial:
        partial.write_text(json.dumps(values))
    sync_folder(path.parent)
