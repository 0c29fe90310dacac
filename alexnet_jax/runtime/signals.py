"""Signals that ask a process to stop."""

import os
import signal
from types import FrameType
from typing import ClassVar


class Stopped(Exception):
    """A signal ended a long job before its end; what is complete remains and the job resumes."""


class StopSignal:
    """Records SIGTERM and Ctrl-C inside a `with` block, so that the program can save and stop.

    A second signal of the same kind is handled as outside the block, and ends the process at once.

    Attributes:
      signal: the name of the newest signal, such as 'SIGTERM'; '' before the first.
    """

    _active: 'ClassVar[StopSignal | None]' = None

    def __init__(self) -> None:
        self.signal = ''

    def __enter__(self) -> 'StopSignal':
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._previous = {n: signal.signal(n, self._record) for n in numbers}
        StopSignal._active = self
        return self

    def __exit__(self, *_: object) -> None:
        StopSignal._active = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        # Not print: a handler may interrupt one.
        os.write(2, b'\nstopping; a second signal ends the program without saving\n')
        signal.signal(number, self._previous[signal.Signals(number)])


def raise_if_stopped() -> None:
    """Raises Stopped if a signal has arrived inside the `with` block of a StopSignal.

    Long jobs call this between two images or two files. It does nothing in a program, or in a
    notebook, that does not use a StopSignal.
    """
    active = StopSignal._active
    if active is not None and active.signal:
        raise Stopped(active.signal)
