"""Lists the images below a folder: links are followed, and what programs leave there is ignored."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

SUFFIXES = ('.jpeg', '.jpg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff')

# Folders and files of file managers, network drives and archives, in lower case. They have
# thumbnails and deleted images. Names that begin with a dot are ignored, too.
IGNORED = (
    '@eadir',
    '__macosx',
    '#recycle',
    '$recycle.bin',
    'system volume information',
    'lost+found',
    'thumbs.db',
    'desktop.ini',
)


class ImageFile(NamedTuple):
    """An image below a folder.

    Attributes:
      path: where it is.
      size: its length in bytes.
      depth: the number of folders between that folder and the image.
      modified: when it was last written, in seconds.
    """

    path: Path
    size: int
    depth: int
    modified: float


def list_entries(folder: Path) -> list[Path]:
    """Lists what is in a folder, sorted by name, without what programs leave there.

    Raises:
      UserError: the folder cannot be read.
    """
    with explain_os_errors(f'list {printable(str(folder))}'):
        names = sorted(os.listdir(folder))
    return [folder / name for name in names if not _is_ignored(name)]


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders in a folder, and the links to folders, sorted by name."""
    return [
        path
        for path in list_entries(folder)
        if (status := _status(path)) is not None and stat.S_ISDIR(status.st_mode)
    ]


def find_images(
    folder: Path, others: Counter[str], on_error: Callable[[UserError], None] | None = None
) -> Iterator[ImageFile]:
    """Yields the images in a folder and in its sub-folders, sorted by name.

    A link to a folder counts as a folder. No folder is entered twice, so links may form a cycle.

    Args:
      folder: where to look.
      others: receives the number of files that are not images, by suffix.
      on_error: receives the error for a folder or file that cannot be read, which is then left out;
        None: the error is raised.

    Raises:
      UserError: a folder cannot be read, and `on_error` is None.
    """
    visited = {identity(folder)}
    levels = [iter(_list_entries(folder, on_error))]
    while levels:
        raise_if_stopped()
        path = next(levels[-1], None)
        if path is None:
            levels.pop()
            continue
        try:
            status = _status(path)
        except UserError as error:
            _raise_or_pass(error, on_error)
            continue
        if status is None:
            others['broken links'] += 1
        elif stat.S_ISDIR(status.st_mode):
            number = status.st_dev, status.st_ino
            if number not in visited:
                visited.add(number)
                levels.append(iter(_list_entries(path, on_error)))
        elif stat.S_ISREG(status.st_mode) and path.suffix.lower() in SUFFIXES:
            yield ImageFile(path, status.st_size, len(levels) - 1, status.st_mtime)
        else:
            others[printable(path.suffix.lower()) or 'without a suffix'] += 1


def _list_entries(folder: Path, on_error: Callable[[UserError], None] | None) -> list[Path]:
    try:
        return list_entries(folder)
    except UserError as error:
        _raise_or_pass(error, on_error)
        return []


def _raise_or_pass(error: UserError, on_error: Callable[[UserError], None] | None) -> None:
    if on_error is None:
        raise error
    on_error(error)


def _is_ignored(name: str) -> bool:
    return name.startswith('.') or name.lower() in IGNORED


def identity(folder: Path) -> tuple[int, int]:
    """Returns what two paths to the same folder have in common."""
    status = _status(folder)
    return (status.st_dev, status.st_ino) if status else (-1, -1)


def _status(path: Path) -> os.stat_result | None:
    """Returns what the file system says about a path; None for a link that leads nowhere.

    Raises:
      UserError: the file system does not answer.
    """
    try:
        return path.stat()
    except OSError as error:
        if os.path.islink(path):  # Path.is_symlink raises an error of its own in Python 3.11
            return None
        raise UserError(f'cannot read {printable(str(path))}: {error.strerror}') from error
