"""Files that are complete or absent, whenever the process or the machine stops."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST_NAME = 143  # bytes that every file system allows, those with encrypted names too


@contextlib.contextmanager
def replace(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, and renames it to `path` once it is on the disk.

    Neither a kill nor a power cut leaves a partial file under that name. The temporary name
    contains the host and the process, so that two processes may write the same file: the last one
    to finish wins. After a kill the temporary file remains, hidden; nothing reads it.

    Args:
      path: the file to create or to replace; its folder exists.

    Yields:
      The path to write to, with the suffix of `path`. If the block raises, that file is removed and
      `path` stays as it was.

    Raises:
      OSError: the file cannot be written; the error names `path` and not the temporary file.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(_temporary_name(path.name))
    try:
        yield partial
        sync(partial)
        partial.rename(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, partial, str(partial)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):  # it would hide what went wrong before
            partial.unlink(missing_ok=True)


def unused_path(path: Path) -> Path:
    """Returns a path with nothing at it: this one, or the first with 2, 3, ... after it."""
    numbers = itertools.chain([''], itertools.count(2))
    paths = (path.with_name(f'{path.name}{number}') for number in numbers)
    return next(path for path in paths if not os.path.lexists(path))


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


def _temporary_name(name: str) -> str:
    """Returns a hidden name of this process for a file, which ends as the name does."""
    start = f'.{platform.node()[:32]}-{os.getpid()}-'
    if len(os.fsencode(start + name)) <= LONGEST_NAME:
        return start + name
    start += f'{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}-'
    while len(os.fsencode(start + name)) > LONGEST_NAME:
        name = name[1:]
    return start + name
