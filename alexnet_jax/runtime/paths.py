"""Paths that a user gives: expanded, and refused where they cannot be meant."""

from pathlib import Path

from alexnet_jax.runtime.user_errors import UserError


def check_path(text: str, flag: str) -> Path:
    """Returns a path that a user gave, with ~ expanded.

    Args:
      text: the path as given.
      flag: the flag or setting that it was given by, for the message.

    Raises:
      UserError: it is an address such as gs://bucket, or has control characters.
    """
    if '://' in text:
        raise UserError(f'{flag}={text} must be a folder on this machine or a mounted one')
    if not text.isprintable() and any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise UserError(f'{flag}={text!r} has control characters: choose another path')
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f'{flag}={text}: ~ cannot be expanded ({error}): set HOME') from error
