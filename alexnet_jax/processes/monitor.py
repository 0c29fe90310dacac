"""The thread with which a process watches the others of its group, and ends when one of them ends.

Every quarter of a second it tells the others that this process lives and how many turns it has
made, and looks for their failures. It ends the process itself, with `os._exit`: the main thread may
be waiting for a process that will never come. A second thread ends the process if the coordination
service gives no answer: calls to it have no time limit of their own, and block where a link is cut
(JAX 0.10.2 and 0.12).

What ends a group, and after how long:

- an exception in one process: after the next look of the others, a fraction of a second;
- a process that was killed or stopped, or whose host or network is gone: after LOST_SECONDS, or
  SUSPECT_SECONDS where a collective has failed; that process itself, if it is only cut off, after
  UNREACHABLE_SECONDS; the death of process 0, which runs the coordination
  service, at once, by XLA itself (exit code 134);
- a process that makes no turn any more: after the limit of --hang_timeout.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from alexnet_jax.processes.agreement import SharedAgreement
from alexnet_jax.processes.errors import EXIT_LOST_PROCESS, Failure
from alexnet_jax.processes.keys import Keys, Unreachable
from alexnet_jax.runtime.printing import complain, printable

POLL_SECONDS = 0.25
ROUND_SECONDS = 0.01  # between two looks while a round of the agreement is under way
LOST_SECONDS = 20.0  # without a sign of life
SUSPECT_SECONDS = 4.0  # the same after a collective has failed
UNREACHABLE_SECONDS = 20.0  # without an answer of the coordination service
_RESUME = 'the same command, in all processes, resumes'
PARTING_SECONDS = 5.0  # for which process 0 stays when it fails, so that the others learn why


class Monitor:
    """Watches the processes of a group; the thread begins with `start`.

    Args:
      keys: the keys of the run.
      index: the number of this process.
      count: the number of processes.
      hang_seconds: a process that makes no turn for so long counts as hanging; 0 for never.

    Attributes:
      agreement: the agreement in which the thread takes part; None outside of training.
    """

    def __init__(self, keys: Keys, index: int, count: int, hang_seconds: float) -> None:
        self._keys, self._index, self._count = keys, index, count
        self._hang_seconds = hang_seconds
        self._deadline: float | None = None  # by which this process makes progress
        self._beats = 0
        # By process: its last sign of life, and when it changed.
        self._alive: dict[int, tuple[list[Any] | None, float]] = {}
        self._silent: set[int] = set()  # the processes that give no sign of life
        self._closed = threading.Event()
        self._ending = threading.Lock()  # of the thread that ends the process
        self._failure: Failure | None = None  # with which this process ends
        self._is_told = False
        self._looks = 0  # that the coordination service has answered
        self._threads = [
            threading.Thread(target=self._run, name='monitor', daemon=True),
            threading.Thread(target=self._watch_service, name='service watch', daemon=True),
        ]
        self.agreement: SharedAgreement | None = None

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the threads, once all processes have come to their end."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def expect_progress(self, seconds: float) -> None:
        """States that this process may be busy for so long before its next turn."""
        if self._hang_seconds:
            self._deadline = time.monotonic() + max(seconds, self._hang_seconds)

    @contextlib.contextmanager
    def watch(self, agreement: SharedAgreement) -> Iterator[None]:
        """Takes part in an agreement, and watches the progress of this process in the block."""
        self.agreement = agreement
        self.expect_progress(0)
        try:
            yield
        finally:
            self._deadline = None

    def end_process(self, failure: Failure, collective: bool = False) -> NoReturn:
        """Tells the other processes why this one ends, and ends it; called by the main thread.

        Args:
          failure: what has happened here.
          collective: whether another process that is gone may be the cause; then it is named.
        """
        if collective:
            self._find_cause()
        with self._ending:
            self._end(failure)

    def _find_cause(self) -> None:
        """Gives the monitors the time to find the process that is gone; they end this one."""
        with contextlib.suppress(Unreachable):
            self._keys.set('events/suspicion', self._index)
        time.sleep(SUSPECT_SECONDS + 8 * POLL_SECONDS)

    def _end(self, failure: Failure) -> NoReturn:
        """Prints the first failure of the group and ends the process with its exit code."""
        self._failure = failure
        with contextlib.suppress(Unreachable):
            if not self._keys.set('events/failure', list(failure)):
                first = Failure(*self._keys.read('events/')['failure'])
                # An error that all processes have raised is this one's, too.
                failure = failure if failure.line == first.line else first
        self._tell(failure)
        with contextlib.suppress(Unreachable):
            self._keys.set(f'ended/{self._index}', True)
            # With process 0 the coordination service ends, and then XLA aborts the others.
            give_up = time.monotonic() + PARTING_SECONDS
            while self._index == 0 and time.monotonic() < give_up:
                if len(self._keys.read('ended/')) >= self._count - len(self._silent):
                    break
                time.sleep(ROUND_SECONDS)
        _exit(failure.code)

    def _tell(self, failure: Failure) -> None:
        self._failure, self._is_told = failure, True
        complain(printable(f'alexnet_jax: {failure.told_by(self._index)}'))

    def _run(self) -> None:
        while True:
            is_in_round = False
            with contextlib.suppress(Unreachable):
                is_in_round = self._look()
                self._looks += 1
            if self._closed.wait(ROUND_SECONDS if is_in_round else POLL_SECONDS):
                return

    def _watch_service(self) -> None:
        """Ends the process if the coordination service has not answered for UNREACHABLE_SECONDS.

        The time is counted in waits of this thread: if the process itself was suspended, the other
        thread first has the time for another look.
        """
        looks, waits = self._looks, 0
        while self._threads[0].is_alive():
            self._threads[0].join(POLL_SECONDS)
            looks, waits = (looks, waits + 1) if looks == self._looks else (self._looks, 0)
            if waits * POLL_SECONDS > UNREACHABLE_SECONDS:
                self._end_cut_off()

    def _end_cut_off(self) -> NoReturn:
        """Ends the process without a call of the coordination service, which might block."""
        self._ending.acquire(timeout=POLL_SECONDS)  # the thread that has it may be blocked, too
        failure = self._failure
        if failure is None or (failure.code == EXIT_LOST_PROCESS and not self._is_told):
            failure = _lost(0, UNREACHABLE_SECONDS)
        if not self._is_told:
            self._tell(failure)
        _exit(failure.code)

    def _look(self) -> bool:
        """Gives a sign of life and acts on what the others have done.

        Returns:
          Whether a round of the agreement is under way.
        """
        turns = self.agreement.turns if self.agreement else 0
        is_late = self._deadline is not None and time.monotonic() > self._deadline
        self._beats += 1
        self._keys.set(f'alive/{self._index}', [self._beats, turns, is_late], replace=True)
        events = self._keys.read('events/')
        if 'failure' in events:
            self._end_by_thread(Failure(*events['failure']))
        if self._index == 0:
            self._check_others('suspicion' in events)
        return self.agreement is not None and self.agreement.poll(events)

    def _check_others(self, is_suspicious: bool) -> None:
        """Finds a process that gives no sign of life, or hangs; process 0 does this for all."""
        now, seconds = time.monotonic(), SUSPECT_SECONDS if is_suspicious else LOST_SECONDS
        signs = {int(process): sign for process, sign in self._keys.read('alive/').items()}
        for process in range(self._count):
            sign = signs.get(process)
            last, since = self._alive.setdefault(process, (sign, now))
            if sign != last:
                self._alive[process] = sign, now
            elif now - since > seconds:
                self._silent.add(process)
                self._end_by_thread(_lost(process, seconds))
        self._check_progress(signs)

    def _check_progress(self, signs: dict[int, list[Any]]) -> None:
        """Ends the group if the processes that have made the fewest turns have had their time.

        The others wait for these in a collective, so they have made no turn either.
        """
        if len(signs) < self._count:
            return
        fewest = min(turns for _, turns, _ in signs.values())
        slowest = [process for process, (_, turns, _) in signs.items() if turns == fewest]
        if not all(signs[process][2] for process in slowest):
            return
        limit = f'for more than {self._hang_seconds:g} s (--hang_timeout)'
        line = f'it has made no step {limit}, and others wait for it'
        if len(slowest) == self._count:
            line = f'no process has made a step {limit}'
        self._end_by_thread(Failure(min(slowest), line, EXIT_LOST_PROCESS))

    def _end_by_thread(self, failure: Failure) -> NoReturn:
        with self._ending:  # never released: the main thread may be ending the process, too
            self._end(failure)


def _lost(process: int, seconds: float) -> Failure:
    line = f'it was killed or cannot be reached (silent for {seconds:g} s); {_RESUME}'
    return Failure(process, line, EXIT_LOST_PROCESS)


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
