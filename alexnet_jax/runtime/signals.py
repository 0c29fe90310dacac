"""Signals that ask a process to stop."""

import signal
from types import FrameType


class Stop:
    """Whether the process was told to end (SIGTERM, Ctrl-C). A second signal ends it at once."""

    def __init__(self) -> None:
        self.signal = ''

    def __enter__(self) -> 'Stop':
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._previous = {n: signal.signal(n, self._note) for n in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        signal.signal(number, self._previous[signal.Signals(number)])
