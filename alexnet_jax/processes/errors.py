"""Failures of a process, as all processes of its group report them; the exit codes of a group."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_jax.processes.keys import Unreachable
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.signals import EXIT_INTERRUPTED, Stopped
from alexnet_jax.runtime.user_errors import (
    EXIT_STOPPED,
    UserError,
    causes,
    describe_error,
    first_line,
)

EXIT_LOST_PROCESS = 69  # of a group that has lost a process; launchers start it again
EXIT_FAULT = 1  # of a Python program that ends with a traceback

RESUME = 'the same command, in all processes, resumes'  # the remedy for a lost process

# What XLA, Gloo, NCCL and gRPC report when a process that takes part in a collective is lost.
_COLLECTIVE_FAILURE = re.compile(
    r'gloo|nccl|collective|coordination|UNAVAILABLE|barrier timed out|socket closed'
    r'|connection (?:reset|closed|refused)',
    re.IGNORECASE,
)


def name_processes(numbers: Sequence[int]) -> str:
    """Names processes by their numbers, such as 'process 1' or 'processes 1, 2'."""
    names = list_names([str(number) for number in numbers])
    return f'process {names}' if len(numbers) == 1 else f'processes {names}'


class LostProcess(Exception):
    """Another process of the group has ended, hangs or cannot be reached; the text names it."""


class NotStarted(UserError):
    """A process of the group has not started within the time; a new start of all may help."""


class OtherFailed(UserError):
    """An error of another process, with which all have agreed to end.

    Args:
      process: the number of that process.
      line: what is wrong there.
    """

    def __init__(self, process: int, line: str) -> None:
        super().__init__(line)
        self.process = process


class Failure(NamedTuple):
    """Why one process, and with it all processes of its group, end.

    Attributes:
      process: the number of the process that failed first.
      line: what is wrong and what can be done about it.
      code: the exit code of all processes.
    """

    process: int
    line: str
    code: int

    @classmethod
    def of(cls, error: BaseException, process: int) -> 'Failure':
        """Describes an exception that process number `process` has raised."""
        if isinstance(error, Stopped):
            return cls(process, f'stopped by {error}: the same command resumes', EXIT_STOPPED)
        if isinstance(error, KeyboardInterrupt):
            return cls(process, 'interrupted', EXIT_INTERRUPTED)
        if isinstance(error, Unreachable):
            return cls(0, f'it was killed or cannot be reached; {RESUME}', EXIT_LOST_PROCESS)
        if isinstance(error, LostProcess) or is_collective_failure(error):
            return cls(process, f'{first_line(error)}; {RESUME}', EXIT_LOST_PROCESS)
        if isinstance(error, OtherFailed):
            process = error.process
        line = describe_error(error)
        if line is not None:
            return cls(process, line, 2)
        return cls(process, f'{type(error).__name__}: {first_line(error)}', EXIT_FAULT)

    def told_by(self, process: int) -> str:
        """Returns the line that a process prints when it ends; it names the process that failed."""
        line = ' '.join(self.line.split())
        if process == self.process:
            return f'process {process}: {line}' if process else line
        return f'process {process} ends with process {self.process}: {line}'


def is_collective_failure(error: BaseException) -> bool:
    """Returns whether the loss of another process may have caused an error."""
    return any(
        type(cause).__module__.startswith(('jax', 'builtins'))
        and isinstance(cause, RuntimeError | ValueError)
        and _COLLECTIVE_FAILURE.search(str(cause)) is not None
        for cause in causes(error)
    )
