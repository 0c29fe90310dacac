"""Paths that a library would take for a pattern."""

from pathlib import Path

from alexnet_jax.runtime.user_errors import UserError

_SPECIAL = '[]*?'


def refuse_glob_pattern(folder: Path, setting: str) -> None:
    """Raises a UserError if the absolute path of a folder holds [ ] * or ?.

    Orbax and TFDS look for files with `glob` on whole paths. In a folder named `exp[1]` they find
    nothing, so that Orbax loses what it has just written, and in `exp*` they also find the files of
    `exp2`.

    Args:
      folder: the folder to write to; it need not exist.
      setting: what the user can change, such as '--workdir', for the message.
    """
    path = str(folder.absolute())
    special = next((character for character in path if character in _SPECIAL), '')
    if special:
        raise UserError(
            f'{path} has a {special!r} in it, which a library takes for a pattern: choose another '
            f'{setting}, without any of {" ".join(_SPECIAL)}'
        )
