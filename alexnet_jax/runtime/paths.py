"""Checks of the paths that a user gives, before any work: one line says why a path is refused."""

import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, list_items

_PATTERN = re.compile(r'[][*?]')
# Flags and settings, by the last part of their names, whose folders Orbax or TFDS reads.
_WITHOUT_PATTERNS = ('workdir', 'from', 'data_dir')
BUCKET = re.compile('(gs|s3)://')  # addresses of Google Cloud Storage and of S3
_ONE_SLASH = re.compile('(gs|s3):/(?!/)')  # what is left of an address by tools that tidy paths
_NOT_IN_NAMES = ('Cc', 'Cs', 'Zl', 'Zp')  # control characters, bytes that are not UTF-8, line ends


def check_path(text: str, flag: str) -> Path:
    """Returns the path that a flag or a setting gives, with ~ expanded.

    Args:
      text: the value of the flag.
      flag: its name, as in '--workdir' or 'dataset.data_dir', for messages.

    Raises:
      UserError: the path is empty, is an address of cloud storage, ends with a space, is too long,
        has characters that file names do not have here, or begins with the home folder of someone
        who has none.
    """
    shown = f'{flag}={_show(text)}'
    if not text:
        raise UserError(f'{flag} is empty: give the path of a folder or file')
    if any(unicodedata.category(x) in _NOT_IN_NAMES for x in text):
        raise UserError(
            f'{shown} has a control character, a line break or bytes that are not UTF-8: choose '
            'another name'
        )
    if '://' in text:
        raise UserError(f'{shown} is an address{_advice_about_address(text, flag)}')
    if match := _ONE_SLASH.match(text):
        address = f'{match[1]}://{text[match.end() :]}'
        raise UserError(f'{shown} is an address with one slash: write {_show(address)}')
    if text != text.rstrip():
        raise UserError(f'{shown} ends with a space: leave it out')
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        home = text.partition('/')[0]
        raise UserError(f'{shown}: there is no home folder for {home}: give a full path') from error
    try:
        os.lstat(path.absolute())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except OSError as error:
        raise UserError(f'{shown} cannot be used: {error.strerror}') from error
    if flag.lstrip('-').rpartition('.')[2] in _WITHOUT_PATTERNS:
        refuse_pattern(path, flag)
    return path


def refuse_pattern(folder: Path, flag: str) -> None:
    """Refuses a folder that a library would take for a pattern.

    Orbax and TFDS look for files with `glob` on whole paths. In a folder named `exp[1]` they find
    nothing, so that Orbax loses what it has just written, and in `exp*` they also find the files of
    `exp2`.

    Args:
      folder: the folder; it need not exist.
      flag: the flag or setting that gives it, for the message.

    Raises:
      UserError: the absolute path has one of the characters [ ] * ?.
    """
    if _PATTERN.search(str(folder.absolute())):
        raise UserError(
            f'{printable(str(folder.absolute()))} has one of the characters [ ] * ?, which '
            f'libraries take for patterns: choose another {flag}'
        )


def split_folders(values: Iterable[str]) -> list[str]:
    """Returns the folders that a flag names, which may be repeated.

    Each value is split at its commas, unless it is the name of one folder.
    """
    return [
        name
        for value in values
        for name in ([value] if os.path.isdir(os.path.expanduser(value)) else list_items([value]))
    ]


def check_writable(folder: Path, flag: str) -> None:
    """Checks that a folder can be written to, or created; creates nothing that remains.

    Args:
      folder: the folder; it need not exist.
      flag: the name of the flag that gives it.

    Raises:
      UserError: a file is in its place or in the place of a folder above it, or the file system
        cannot be written to.
    """
    place = folder.absolute()
    try:
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            kind = 'a link to nothing' if place.is_symlink() else 'a file, not a folder'
            raise UserError(f'{place} is {kind}: choose another {flag}')
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = f'cannot write to {place}: {error.strerror}'
        raise UserError(f'{reason}; choose another {flag}') from error


def check_input_file(file: Path, kind: str) -> None:
    """Checks that there is a file to read.

    Args:
      file: the file.
      kind: what it must be, for the message, such as 'a .safetensors file'.

    Raises:
      UserError: there is no such file, or it is a folder or a device.
    """
    shown = printable(str(file))
    with explain_os_errors(f'read {shown}'):
        if not file.exists():
            raise UserError(f'there is no file {shown}: give the path of {kind}')
        if not file.is_file():
            raise UserError(f'{shown} is not a file: give the path of {kind}')


def check_output_file(file: Path, flag: str) -> None:
    """Checks that a file can be written or replaced; creates nothing that remains.

    Args:
      file: the file; it need not exist, but its folder must.
      flag: the name of the flag that gives it.

    Raises:
      UserError: it is a folder or a device, or its folder is missing or cannot be written to.
    """
    shown = f'{flag}={printable(str(file))}'
    if file.is_dir():
        raise UserError(f'{shown} is a folder: give the name of a file')
    if file.exists() and not file.is_file():
        raise UserError(f'{shown} is not a file that can be replaced: choose another name')
    if not file.parent.is_dir():
        raise UserError(f'{shown}: there is no folder {printable(str(file.parent))}')
    check_writable(file.parent, flag)


def _advice_about_address(text: str, flag: str) -> str:
    """Returns the end of a message: what to do instead of giving the address of cloud storage."""
    start = ': only paths of the file system can be used'
    commands = {'gs': 'gcloud storage cp --recursive', 's3': 'aws s3 cp --recursive'}
    match = BUCKET.match(text)
    if not match:
        return start
    command, name = commands[match[1]], flag.lower().rpartition('.')[2].lstrip('-$')
    if name.endswith('data_dir'):
        return (
            f'{start} here: prepare the data set in a folder of this machine, copy it ({command} '
            'DIR/NAME/ ADDRESS/NAME/), and train with --config.dataset.data_dir=ADDRESS'
        )
    if name in ('workdir', 'from', 'ablations', 'relu', 'tanh'):
        return (
            f'{start}, because a run needs locks, renames and appends: use a folder of this '
            f'machine, and copy it from or to the bucket ({command})'
        )
    return f'{start}: use a copy on this machine ({command})'


def _show(text: str) -> str:
    return printable(text if len(text) <= 200 else f'{text[:60]}...')
