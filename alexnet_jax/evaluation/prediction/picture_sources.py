"""Finds the pictures that a command names: files, folders, and what is on standard input."""

import codecs
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from alexnet_jax.data.images import FORMATS
from alexnet_jax.data.preparation import folder_tree
from alexnet_jax.evaluation.pictures import MAX_BYTES
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

STANDARD_INPUT = '-'  # as an argument
_NAME_OF_STANDARD_INPUT = '(standard input)'  # as grep names it

# The first bytes of each format. They distinguish a damaged picture from a list of paths.
_SIGNATURES = re.compile(
    rb'\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|II\*\x00|MM\x00\*|BM.{10}\x00\x00',
    re.DOTALL,
)
_UTF_16 = re.compile(rb'\xff\xfe.\0.\0|\xfe\xff\0.\0.', re.DOTALL)  # a list, as Windows writes it
_CONTROL = re.compile(rb'[\x00-\x1f\x7f]')
_PICTURES_BETWEEN_SHOWS = 1_000
_LONGEST_PATH = 4096  # bytes, the limit of Linux


class PictureSource(NamedTuple):
    """A picture before it is read.

    Attributes:
      name: its path as the user gave it, or '(standard input)'.
      picture: its path or its bytes.
    """

    name: str
    picture: str | bytes


class Pictures(NamedTuple):
    """The pictures of a command.

    Attributes:
      sources: the pictures, in the order of the arguments; those of a folder sorted by name.
      problems: a line for each folder that cannot be read.
      others: the numbers of files in the folders that are not pictures, by suffix.
    """

    sources: list[PictureSource]
    problems: list[str]
    others: Counter[str]


def find(arguments: Sequence[str]) -> Pictures:
    """Finds the pictures that arguments name.

    Args:
      arguments: files, which are pictures whatever their suffix; folders, which are searched as
        `folder_tree.find_images` does; and '-' for standard input, which has a picture or a list of
        files and folders.

    Raises:
      UserError: there is no picture at all, or standard input cannot be used.
    """
    if arguments.count(STANDARD_INPUT) > 1:
        raise UserError('- is given twice: standard input can be read only once')
    pictures = Pictures([], [], Counter())
    for argument in arguments:
        if argument == STANDARD_INPUT:
            _add_standard_input(pictures)
        else:
            _add_path(argument, pictures)
    _check_that_one_exists(pictures, arguments)
    return pictures


def _add_path(path: str, pictures: Pictures) -> None:
    if not path:
        raise UserError('an argument is empty: name a picture or a folder')
    if not os.path.isdir(path):
        pictures.sources.append(PictureSource(path, path))
        return

    def add_problem(error: UserError) -> None:
        pictures.problems.append(str(error))

    with ProgressBars() as bars:
        for image in folder_tree.find_images(Path(path), pictures.others, add_problem):
            pictures.sources.append(PictureSource(str(image.path), str(image.path)))
            if len(pictures.sources) % _PICTURES_BETWEEN_SHOWS == 0:
                bars.show_images('finding pictures', len(pictures.sources), 0)


def _add_standard_input(pictures: Pictures) -> None:
    with explain_os_errors('read standard input'):
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f'standard input has more than {MAX_BYTES:,} bytes: name files instead')
    if is_picture(data):
        pictures.sources.append(PictureSource(_NAME_OF_STANDARD_INPUT, data))
        return
    paths = [*split_paths(data)]
    if not paths:
        raise UserError('standard input is empty: it must be a picture, or a list of paths')
    for path in paths:
        _add_path(path, pictures)


def is_picture(data: bytes) -> bool:
    """Checks whether bytes are a picture, which may be damaged, and not a list of paths."""
    if _SIGNATURES.match(data):
        return True
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS):
            return True
    except Exception:  # Pillow raises many kinds of errors
        return False


def split_paths(data: bytes) -> Iterator[str]:
    """Yields the paths of a list with one on each line, or with NUL after each.

    Empty lines are left out, and the line ends and the byte order mark of Windows are removed.

    Raises:
      UserError: this is no such list.
    """
    if _UTF_16.match(data):
        raise UserError('standard input is a list of paths in UTF-16: it must be in UTF-8')
    data = data.removeprefix(codecs.BOM_UTF8)
    if b'\0' in data:
        paths, has_lines = data.split(b'\0'), False
    else:
        paths, has_lines = [line.rstrip(b'\r') for line in data.split(b'\n')], True
    for path in paths:
        if len(path) > _LONGEST_PATH or (has_lines and _CONTROL.search(path)):
            raise UserError(
                'standard input is neither a picture in a known format nor a list of paths, with '
                'one on each line or NUL after each'
            )
        if path:
            yield os.fsdecode(path)


def _check_that_one_exists(pictures: Pictures, arguments: Sequence[str]) -> None:
    """Raises a UserError if there is nothing to read: then the command is wrong."""
    sources, problems, others = pictures
    if any(isinstance(x.picture, bytes) or os.path.lexists(x.picture) for x in sources):
        return
    if len(problems) == 1 and not sources:
        raise UserError(problems[0])
    if len(sources) == 1:
        raise UserError(f'{printable(sources[0].name)} cannot be read: there is no such file')
    if sources:
        names = list_names([source.name for source in sources], 3)
        raise UserError(f'none of the {len(sources):,} files exists: {names}')
    suffixes = ' '.join(folder_tree.SUFFIXES)
    raise UserError(
        f'there are no pictures in {list_names(list(arguments), 3)}: in a folder they have one of '
        f'the suffixes {suffixes}{describe_others(others)}'
    )


def describe_others(others: Counter[str]) -> str:
    """Says how many files in the folders are not pictures; '' if there are none."""
    if not others:
        return ''
    kinds = ', '.join(f'{number:,} {suffix}' for suffix, number in others.most_common(3))
    return f'; other files: {kinds}{", ..." if len(others) > 3 else ""}'
