"""The one exception for a mistake that the user can mend, and how a program ends with it."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from absl import flags, logging

STOPPED = 75  # exit code of a run that was told to stop, saved, and can go on

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class UserError(Exception):
    """Says in one line what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """What a library's error says first; its kind where it says nothing."""
    return str(error).strip().partition('\n')[0] or type(error).__name__


@contextmanager
def one_line() -> Iterator[None]:
    """Ends the process with one line: code 2 for a UserError or a full disk, 130 for Ctrl-C."""
    try:
        yield
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _DISK:
            raise
        print(f'alexnet_jax: {" ".join(str(error).split())}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print('\nalexnet_jax: interrupted', file=sys.stderr)
        sys.exit(130)


def parse_flags(arguments: list[str]) -> list[str]:
    """Reads absl flags; a mistake in them ends the process with one line."""
    with one_line():
        logging.set_verbosity(logging.FATAL)  # errors come as exceptions; --verbosity asks for more
        try:
            rest = flags.FLAGS(arguments)
        except flags.Error as error:
            raise UserError(str(error)) from error
        if rest[1:]:
            raise UserError(f'what is {rest[1]!r}? Flags are given as --NAME=VALUE')
        return rest
