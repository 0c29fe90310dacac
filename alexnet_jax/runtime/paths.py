"""Paths that the user gives: refused in one line before any work, where they cannot be used."""

import os
import re
import tempfile
import unicodedata
from pathlib import Path

from alexnet_jax.runtime.user_errors import UserError

_PATTERN = re.compile(r'[][*?]')
# Flags and settings, by the last part of their names, whose folders Orbax or TFDS read; both take
# these characters for patterns, and then do not find what they have written.
_WITHOUT_PATTERNS = ('workdir', 'from', 'data_dir')
_NOT_IN_NAMES = ('Cc', 'Cs', 'Zl', 'Zp')  # control characters, bytes that are not UTF-8, line ends


def check_path(text: str, flag: str) -> Path:
    """Returns the path that a flag or a setting gives, with ~ expanded.

    Args:
      text: the value of the flag.
      flag: its name, as in '--workdir' or 'dataset.data_dir', for messages.

    Raises:
      UserError: the path is empty, is an address of cloud storage, ends with a blank, is too long,
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
        raise UserError(f'{shown} is an address: only paths of the file system can be used')
    if text != text.rstrip():
        raise UserError(f'{shown} ends with a blank: leave it out')
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        home = text.partition('/')[0]
        raise UserError(f'{shown}: there is no home folder for {home}: give a full path') from error
    try:
        whole = path.absolute()
        os.lstat(whole)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        whole = path.absolute()
    except OSError as error:
        raise UserError(f'{shown} cannot be used: {error.strerror}') from error
    if flag.lstrip('-').rpartition('.')[2] in _WITHOUT_PATTERNS:
        refuse_pattern(whole, flag)
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
            f'{_show(str(folder.absolute()))} has one of the characters [ ] * ?, which libraries '
            f'take for patterns: choose another {flag}'
        )


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


def _show(text: str) -> str:
    """Returns a text for messages: in quotes and escaped where it is odd, and not too long."""
    short = text if len(text) <= 200 else f'{text[:60]}...'
    return short if short.isprintable() and short == short.strip() else ascii(short)
