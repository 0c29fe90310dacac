"""The one exception for a mistake that the user can mend, and how a program ends with it."""

import errno
import sys
from collections.abc import Callable, Iterator
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


def parse_flags(
    arguments: list[str],
    describe_unknown: Callable[[flags.UnrecognizedFlagError], str] = str,
) -> list[str]:
    """Parses absl flags; a mistake in them ends the process with one line.

    Args:
      arguments: the program and its arguments.
      describe_unknown: gives the message for a flag that does not exist.

    Returns:
      The program alone: there are no positional arguments.
    """
    with one_line():
        logging.set_verbosity(logging.FATAL)  # errors come as exceptions; --verbosity asks for more
        try:
            rest = flags.FLAGS(arguments)
        except flags.UnrecognizedFlagError as error:
            raise UserError(describe_unknown(error)) from error
        except flags.Error as error:
            raise UserError(str(error)) from error
        except SystemExit as end:  # after --help, which absl ends with code 1
            raise SystemExit(0) from end
        if rest[1:]:
            raise UserError(f'what is {rest[1]!r}? Flags are given as --NAME=VALUE')
        return rest
