"""The exception for a mistake that the user can correct, and how a program reports errors."""

import errno
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO

from absl import flags, logging

from alexnet_jax.runtime import printing
from alexnet_jax.runtime.signals import EXIT_INTERRUPTED, Stopped

EXIT_BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended
EXIT_STOPPED = 75  # exit code of a run that a signal stopped, was saved, and can be resumed

_NO_SPACE = 'make room there, and run the same command again'
_NOT_ALLOWED = 'choose another folder, or change its permissions'
_OTHER_PATH = 'choose another path'
_FAILED = 'the disk or the network failed: run the same command again when it works'
_TOO_MANY_FILES = 'raise that limit (ulimit -n), or close other programs'
_TOO_MANY_PROCESSES = 'raise the limit of processes (ulimit -u), or close other programs'

# What the user can do about errors of the system. Others, such as a file that is missing although
# the program had found it, are faults of the program.
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: 'raise the limit of file sizes (ulimit -f), or choose another disk',
    errno.EROFS: _NOT_ALLOWED,
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.ENAMETOOLONG: _OTHER_PATH,
    errno.ENOTDIR: _OTHER_PATH,
    errno.EISDIR: _OTHER_PATH,
    errno.ELOOP: _OTHER_PATH,
    errno.EIO: _FAILED,
    errno.ESTALE: _FAILED,
    errno.ENXIO: _FAILED,
    errno.ENODEV: _FAILED,
    errno.ETIMEDOUT: _FAILED,
    errno.EHOSTDOWN: _FAILED,
    errno.ENOTCONN: _FAILED,
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.EAGAIN: _TOO_MANY_PROCESSES,
    errno.ENOMEM: 'close other programs, or use a machine with more memory',
}
OUT_OF_MEMORY = re.compile('RESOURCE_EXHAUSTED|out of memory|ALLOC_FAILED', re.IGNORECASE)
_JAX_VARIABLE = re.compile(
    r'invalid (?:truth )?value (.*) for (?:JAX flag|environment) \'?(\w+)', re.IGNORECASE
)


class UserError(Exception):
    """A mistake that the user can correct: one line that says what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's error, or the error's class where it has no text."""
    return str(error).strip().partition('\n')[0] or type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, and the errors that it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def explain_os_errors(action: str) -> Iterator[None]:
    """Raises an OSError of the block as a UserError: 'cannot ', the action, and the reason.

    Args:
      action: what the block does, such as 'read FILE'.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f'cannot {action}: {error.strerror or error}') from error


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Prints a mistake as one line instead of a traceback, and ends the process.

    The exit code is 2 for a UserError and for errors of the system (see `describe_error`), 75 where
    a signal stopped a job that can be resumed, 130 for Ctrl-C, and 141 without a line where the
    reader of the output has ended, as `head` does. Other errors are faults of the program and keep
    their traceback.
    """
    try:
        yield
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except Stopped as error:
        _complain(f'stopped by {error}: the same command resumes')
        sys.exit(EXIT_STOPPED)
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # while a library is being imported
            _end_interrupted()
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO):
            gone = [stream for stream in (sys.stdout, sys.stderr) if _has_gone(stream)]
            for stream in gone:
                printing.discard(stream)
            if gone:
                sys.exit(EXIT_BROKEN_PIPE)
        line = describe_error(error)
        if line is None:
            raise
        _complain(line)
        sys.exit(2)
    finally:
        # Otherwise Python would try to print it when it ends, and end with exit code 120.
        printing.drop_unprintable()


def describe_error(error: BaseException) -> str | None:
    """Describes a mistake of the user or an error of the system: what is wrong, and what to do.

    These include a full disk, files that cannot be opened, too little memory of the machine or of a
    device, an unknown home directory, and variables of the environment that JAX cannot read.

    Returns:
      One line; None for a fault of the program.
    """
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        detail = first_line(error).removeprefix('RESOURCE_EXHAUSTED: ').rstrip('.')[:160]
        return (
            f'out of memory ({detail}): lower optimizer.batch_size (in training), '
            'evaluation.batch_size (in an evaluation) or model.width, or set loader.resident=no'
        )
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, RuntimeError) and 'determine home directory' in text:
        return 'the home directory is unknown: set HOME, or TFDS_DATA_DIR and paths without ~'
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return f'too many threads: {_TOO_MANY_PROCESSES}'
    variable = _JAX_VARIABLE.match(text) if isinstance(error, ValueError) else None
    if variable:
        value, name = variable.groups()
        return f'{name.upper()}={value} is not a value that JAX knows: change it, or unset it'
    return None


def _describe_os_error(error: OSError) -> str | None:
    if error.errno == errno.ENOENT and not _current_folder_exists():
        return 'the current folder no longer exists: change to another one'
    if error.errno not in _REMEDIES:
        return None
    names = [os.fsdecode(name) for name in (error.filename,) if isinstance(name, str | bytes)]
    reason = error.strerror or os.strerror(error.errno)
    return ': '.join([*names, f'{reason}; {_REMEDIES[error.errno]}'])


def _current_folder_exists() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _is_out_of_memory(error: BaseException) -> bool:
    """Returns whether JAX has too little memory, without importing JAX."""
    jax_errors = ('JaxRuntimeError', 'XlaRuntimeError')
    is_of_jax = any(base.__name__ in jax_errors for base in type(error).__mro__)
    return is_of_jax and OUT_OF_MEMORY.search(str(error)) is not None


def _has_gone(stream: TextIO | None) -> bool:
    """Returns whether a stream is a pipe without a reader, or a terminal that was closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # pyrefly: ignore[missing-attribute]
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def _complain(text: str) -> None:
    """Prints a message as one line, in which control characters are escaped."""
    line = re.sub(r'[ \t]*\n\s*', ' ', text.strip())
    printing.complain(printing.printable(printing.line_of_program(line)))


def _end_interrupted() -> None:
    printing.complain('\nalexnet_jax: interrupted')
    _end_at_once(EXIT_INTERRUPTED)


def _end_at_once(code: int) -> None:
    """Ends the process, and does not wait for threads, which may be writing a checkpoint."""
    threads = set(threading.enumerate()) - {threading.main_thread()}
    if all(thread.daemon for thread in threads):
        sys.exit(code)
    os._exit(code)


def list_items(values: Iterable[str]) -> list[str]:
    """Returns the items of a flag that may be repeated and has several items in one value."""
    return [item for value in values for item in value.split(',') if item]


def parse_flags(
    arguments: list[str],
    describe_unknown: Callable[[flags.UnrecognizedFlagError], str] = str,
    positional: bool = False,
) -> list[str]:
    """Parses absl flags; a mistake in them ends the process with one line.

    What is printed from here on may contain any character, whatever the terminal's encoding: what
    it cannot show is escaped.

    Args:
      arguments: the program and its arguments.
      describe_unknown: returns the message for a flag that does not exist.
      positional: whether there may be arguments that are not flags, before, between and after them.

    Returns:
      The program, and the arguments that are not flags.
    """
    with report_user_errors():
        printing.prepare_streams()
        logging.set_verbosity(logging.FATAL)  # errors come as exceptions; --verbosity shows more
        try:
            rest = flags.FLAGS(arguments)
        except flags.UnrecognizedFlagError as error:
            raise UserError(describe_unknown(error)) from error
        except flags.Error as error:
            raise UserError(_describe_flag_error(error)) from error
        except UnicodeDecodeError as error:
            raise UserError(f'the flag file cannot be read: {error}') from error
        except SystemExit as end:  # after --help, which absl ends with code 1
            raise SystemExit(0) from end
        if rest[1:] and not positional:
            raise UserError(f'unexpected argument {rest[1]!r}: flags are given as --NAME=VALUE')
        return rest


def _describe_flag_error(error: flags.Error) -> str:
    text = str(error).removeprefix('ERROR:: ')
    demands = {
        ": ('Non-boolean argument": 'must be true or false',
        ': invalid literal for int()': 'must be a whole number',
    }
    for reason, demand in demands.items():
        if reason in text:
            return f'{text.partition(reason)[0].removeprefix("flag ")} {demand}'
    return text
