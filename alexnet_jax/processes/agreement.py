"""Agreement of all processes on the turn at which they act on what one of them has noticed.

A turn is a training step or a batch of an evaluation. All processes make the same turns. A signal,
a batch that cannot be read or a clock concerns one process at first; if it acted alone, the others
would wait for it for ever.
"""

from __future__ import annotations

import dataclasses

from alexnet_jax.runtime.signals import StopSignal


@dataclasses.dataclass(frozen=True)
class Notices:
    """What the processes act on at a turn.

    Attributes:
      signal: the name of a signal that asks the run to stop, such as 'SIGTERM'; '' for none.
      save: whether a checkpoint is saved.
      error: the line of an error that ends the run after it has saved; '' for none.
      process: the number of the process with that error.
    """

    signal: str = ''
    save: bool = False
    error: str = ''
    process: int = 0

    def __bool__(self) -> bool:
        return bool(self.signal or self.save or self.error)


class Agreement:
    """What one process notices, told to all at the same turn. This class is that of one process.

    Args:
      stop: records the signals that ask this process to stop.
    """

    turns_ahead = 0  # turns that another process may be ahead of this one, beyond those on devices

    def __init__(self, stop: StopSignal) -> None:
        self._stop, self._save, self._error = stop, False, ''

    def request_save(self) -> None:
        """Asks for a checkpoint."""
        self._save = True

    def report_error(self, line: str) -> None:
        """Tells all processes of an error that keeps this one from making more than a few turns."""
        self._error = line

    def next_turn(self) -> Notices:
        """Begins a turn, and returns what all processes act on at this turn."""
        notices = Notices(self._stop.signal, self._save, self._error)
        self._save, self._error = False, ''
        return notices
