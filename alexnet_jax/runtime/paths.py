"""Paths that a user gives: expanded, or refused in one line before any work."""

import os
from pathlib import Path

from alexnet_jax.runtime.user_errors import UserError

_LONGEST_NAME = 255  # bytes of one part of a path, on all usual file systems
_LONGEST_PATH = 4095
_PATTERN = '[]*?'  # Orbax and TFDS take paths with these characters for patterns


def check_path(text: str, flag: str) -> Path:
    """Returns a path that a user gave, with ~ expanded.

    Args:
      text: the path as given.
      flag: the flag or setting that it was given by, for the message.

    Raises:
      UserError: the path is empty, too long, an address such as gs://bucket, or has control
        characters; or it is a workdir or a data_dir with one of the characters [ ] * ?.
    """
    if not text:
        raise UserError(f'{flag}= is empty: write {flag}=PATH, or leave it out')
    if '://' in text:
        raise UserError(f'{flag}={text} must be a folder on this machine or a mounted one')
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise UserError(f'{flag}={text!r} has control characters: choose another path')
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f'{flag}={text}: ~ cannot be expanded: write the whole path') from error
    encoded = os.fsencode(path)
    if len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b'/'))) > _LONGEST_NAME:
        raise UserError(f'{flag}={text[:40]}... is too long for a path')
    if flag.endswith(('workdir', 'data_dir')) and any(c in str(path.absolute()) for c in _PATTERN):
        raise UserError(f'{flag}={text} must have none of the characters {" ".join(_PATTERN)}')
    return path
