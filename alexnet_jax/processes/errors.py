"""What a process that fails, or loses another one of its group, tells the others."""

import re
from typing import NamedTuple

from alexnet_jax.runtime.signals import EXIT_INTERRUPTED, Stopped
from alexnet_jax.runtime.user_errors import (
    EXIT_STOPPED,
    UserError,
    causes,
    describe_error,
    first_line,
)

EXIT_LOST_PROCESS = 69  # exit code of a group that lost a process; launchers start it again
EXIT_FAULT = 1  # that of a Python program with a traceback

# What XLA, Gloo, NCCL and gRPC say when a process that takes part in a collective is gone.
_COLLECTIVE_FAILURE = re.compile(
    r'gloo|nccl|collective|coordination|UNAVAILABLE|barrier timed out|socket closed'
    r'|connection (?:reset|closed|refused)',
    re.IGNORECASE,
)


class LostProcess(Exception):
    """Another process of the group has ended, hangs or cannot be reached; the text names it."""


class NotStarted(UserError):
    """A process has not started within the time; a later start of all may find it."""


class Failure(NamedTuple):
    """Why a process ends, for all processes.

    Attributes:
      process: the number of the process that failed first.
      line: what is wrong and what can be done.
      code: the exit code of all processes.
    """

    process: int
    line: str
    code: int

    @classmethod
    def of(cls, error: BaseException, process: int) -> 'Failure':
        """Describes an exception of this process."""
        if isinstance(error, Stopped):
            return cls(process, f'stopped by {error}: the same command resumes', EXIT_STOPPED)
        if isinstance(error, KeyboardInterrupt):
            return cls(process, 'interrupted', EXIT_INTERRUPTED)
        if isinstance(error, LostProcess) or is_collective_failure(error):
            return cls(process, first_line(error), EXIT_LOST_PROCESS)
        line = describe_error(error)
        if line is not None:
            return cls(process, line, 2)
        return cls(process, f'{type(error).__name__}: {first_line(error)}', EXIT_FAULT)

    def told_by(self, process: int) -> str:
        """Returns the line that a process prints when it ends; it names the one that failed."""
        line = ' '.join(self.line.split())
        if process == self.process:
            return f'process {process}: {line}' if process else line
        return f'process {process} ends with process {self.process}: {line}'


def is_collective_failure(error: BaseException) -> bool:
    """Returns whether an error may come of another process that is gone."""
    return any(
        type(cause).__module__.startswith(('jax', 'builtins'))
        and isinstance(cause, RuntimeError | ValueError)
        and _COLLECTIVE_FAILURE.search(str(cause)) is not None
        for cause in causes(error)
    )
