"""The agreement of all processes on the turn at which they act on what one of them has noticed.

A turn is a training step or a batch of an evaluation; all processes make the same turns in the same
order. A signal, a batch that cannot be read, or a time to save is noticed by one process first. If
it acted alone, the others would wait for it forever. A thread beside the training loop makes the
agreement on the host, so that a turn at which nothing happens costs no more than a lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable
from typing import Any

from alexnet_jax.processes.keys import Keys, Unreachable
from alexnet_jax.runtime.signals import StopSignal


@dataclasses.dataclass(frozen=True)
class Notices:
    """The events that one process has noticed, or on which all of them act at a turn.

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

    @classmethod
    def merge(cls, notices: Iterable[Notices]) -> Notices:
        """Returns all notices in one; of several signals or errors, it holds the first."""
        merged = cls()
        for other in notices:
            first_error = merged if merged.error else other
            merged = cls(
                merged.signal or other.signal,
                merged.save or other.save,
                first_error.error,
                first_error.process,
            )
        return merged


class Agreement:
    """The notices of one process, returned to its training loop at the end of each turn.

    Args:
      stop: records the signals that ask this process to stop.
      process: the number of this process.
    """

    def __init__(self, stop: StopSignal, process: int = 0) -> None:
        self._stop, self._process = stop, process
        self._save, self._error, self._is_signal_taken = False, '', False
        self._own_lock = threading.Lock()  # for what this process has noticed

    def request_save(self) -> None:
        """Asks for a checkpoint at one of the next turns."""
        with self._own_lock:
            self._save = True

    def report_error(self, line: str) -> None:
        """Reports an error to all processes, with which this one can make only a few more turns."""
        with self._own_lock:
            self._error = line

    def next_turn(self, wait: bool = False) -> Notices:
        """Ends a turn, and returns what all processes act on before they begin the next one.

        Args:
          wait: whether to wait until all processes know what this one has noticed. Otherwise a
            process that cannot make many more turns may make all of them before the others know.
        """
        return self._take_notices()

    def _has_notices(self) -> bool:
        """Returns whether this process has noticed something since `_take_notices`."""
        with self._own_lock:
            has_signal = bool(self._stop.signal) and not self._is_signal_taken
            return self._save or bool(self._error) or has_signal

    def _take_notices(self) -> Notices:
        """Returns what this process has noticed since the last call."""
        with self._own_lock:
            signal = '' if self._is_signal_taken else self._stop.signal
            notices = Notices(signal, self._save, self._error, self._process)
            self._is_signal_taken |= bool(signal)
            self._save, self._error = False, ''
        return notices


class SharedAgreement(Agreement):
    """The agreement of several processes.

    When a process has noticed something, its thread opens a round. In a round, the threads of all
    processes let no turn end, and store how many have ended. All processes act after the first turn
    that none of them has ended yet. Each of them reaches it, since each can make the turns that the
    fastest one has made.

    A call that finds the coordination service unreachable may have had its effect or not: it is
    repeated, with the same values.

    Args:
      stop: records the signals that ask this process to stop.
      keys: the keys of the run.
      process: the number of this process.
      count: the number of processes.
      show_progress: called at each turn.
    """

    def __init__(
        self,
        stop: StopSignal,
        keys: Keys,
        process: int,
        count: int,
        show_progress: Callable[[], None],
    ) -> None:
        super().__init__(stop, process)
        self._keys, self._count, self._show_progress = keys, count, show_progress
        self._changed = threading.Condition()  # guards what follows
        self._turns, self._round = 0, 0
        self._agreed: dict[int, Notices] = {}  # by the turn after which they are acted on
        self._answer: dict[str, Any] | None = None  # in the round under way; then no turn ends

    @property
    def turns(self) -> int:
        """The number of turns that this process has ended."""
        return self._turns

    def next_turn(self, wait: bool = False) -> Notices:
        """Ends a turn, and returns what all processes act on; see `Agreement.next_turn`."""
        self._show_progress()
        with self._changed:
            while self._answer is not None or (wait and self._has_notices()):
                self._changed.wait()
            self._turns += 1
            return self._agreed.pop(self._turns, Notices())

    def poll(self, events: dict[str, Any]) -> bool:
        """Takes part in rounds; the thread of the monitor calls this every fraction of a second.

        Args:
          events: the values of the keys in the folder 'events/'.

        Returns:
          Whether a round is under way, so that the next call should follow at once.

        Raises:
          Unreachable: the coordination service does not answer; the next call repeats what this one
            has not done.
        """
        if self._answer is None:
            key = f'round/{self._round}'
            if key not in events:
                if not self._has_notices():
                    return False
                self._keys.set(f'events/{key}', self._process)  # or another process has done it
            with self._changed:
                notices = dataclasses.asdict(self._take_notices())
                self._answer = {'turns': self._turns, 'notices': notices}
        folder = f'rounds/{self._round}/'
        answers = self._keys.read(folder)
        if str(self._process) not in answers:
            self._keys.set(f'{folder}{self._process}', self._answer)
            answers = self._keys.read(folder)
        if len(answers) < self._count:
            return True
        self._close_round([answers[process] for process in sorted(answers, key=int)])
        return False

    def _close_round(self, answers: list[dict[str, Any]]) -> None:
        turn = 1 + max(answer['turns'] for answer in answers)
        told = [Notices(**answer['notices']) for answer in answers]
        with self._changed:
            self._agreed[turn] = Notices.merge([self._agreed.get(turn, Notices()), *told])
            self._round += 1
            self._answer = None
            self._changed.notify_all()
        earlier = self._round - 2  # nobody looks at it any more, since all have answered after it
        if self._process == 0 and earlier >= 0:
            with contextlib.suppress(Unreachable):  # then they stay, which harms nothing
                self._keys.delete(f'events/round/{earlier}')
                self._keys.delete(f'rounds/{earlier}/')
