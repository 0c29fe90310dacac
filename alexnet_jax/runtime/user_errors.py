"""The exception for a mistake that the user can correct, and how a program reports it."""

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from absl import flags, logging

from alexnet_jax.runtime.signals import Stopped

EXIT_BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended
EXIT_STOPPED = 75  # exit code of a run that was told to stop, was saved, and can be resumed

# Errors of the file system that the user can correct: a full disk or quota, or no permission.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class UserError(Exception):
    """A mistake that the user can correct: one line that says what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's error, or the error's class where it has no text."""
    return str(error).strip().partition('\n')[0] or type(error).__name__


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Prints a mistake as one line instead of a traceback, and ends the process.

    The exit code is 2 for a UserError and for a disk that cannot be written, 75 where a signal
    stopped a job that can be resumed, 130 for Ctrl-C, and 141 without a line where the reader of
    the output has ended, as `head` does. Other errors are faults of the program and keep their
    traceback.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is buffered
        sys.exit(EXIT_BROKEN_PIPE)
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _DISK:
            raise
        print(f'alexnet_jax: {" ".join(str(error).split())}', file=sys.stderr)
        sys.exit(2)
    except Stopped as error:
        print(f'alexnet_jax: stopped by {error}: the same command resumes', file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except KeyboardInterrupt:
        print('\nalexnet_jax: interrupted', file=sys.stderr)
        sys.exit(130)


def list_items(values: Iterable[str]) -> list[str]:
    """Returns the items of a flag that may be repeated and has several items in one value."""
    return [item for value in values for item in value.split(',') if item]


def parse_flags(
    arguments: list[str],
    describe_unknown: Callable[[flags.UnrecognizedFlagError], str] = str,
) -> list[str]:
    """Parses absl flags; a mistake in them ends the process with one line.

    Args:
      arguments: the program and its arguments.
      describe_unknown: returns the message for a flag that does not exist.

    Returns:
      The program alone: there are no positional arguments.
    """
    with report_user_errors():
        logging.set_verbosity(logging.FATAL)  # errors come as exceptions; --verbosity shows more
        try:
            rest = flags.FLAGS(arguments)
        except flags.UnrecognizedFlagError as error:
            raise UserError(describe_unknown(error)) from error
        except flags.Error as error:
            raise UserError(str(error).removeprefix('ERROR:: ')) from error
        except SystemExit as end:  # after --help, which absl ends with code 1
            raise SystemExit(0) from end
        if rest[1:]:
            raise UserError(f'unexpected argument {rest[1]!r}: flags are given as --NAME=VALUE')
        return rest
