"""The thread with which a process watches the others of its group, and ends when one of them ends.

Every POLL_SECONDS it publishes a heartbeat, with the number of turns that this process has ended,
and reads the failures of the others. It ends the process itself, with `os._exit`: the main thread
may be waiting for a process that will never answer. A second thread ends the process when the
coordination service does not answer: calls of the service have no time limit, and block while a
link is cut (JAX 0.10.2).

What ends a group, and after how long (docs/clusters.md has the table for users):

- An exception in one process: at the next poll of the others. Process 0, with which the
  coordination service ends, waits for them for PARTING_SECONDS at most.
- A process that was killed or suspended, or whose host or network is gone: after LOST_SECONDS
  without a heartbeat, or SUSPECT_SECONDS once a collective has failed.
- The death of process 0: at once, by XLA itself (exit code 134).
- A coordination service that does not answer, because of a cut link for example: after
  UNREACHABLE_SECONDS.
- A process that ends no turn: after --hang_timeout, but COMPILING_SECONDS or SAVING_SECONDS of
  `training.loop` for the turns in which it compiles or saves.
- A process that does not reach a barrier: after `group.BARRIER_SECONDS`, or SAVE_SECONDS of
  `training.checkpoint.manager` where a checkpoint is saved. For what process 0 does before the
  others, such as preparing a data set, there is no limit.
- A process that does not start: after --start_timeout; see `starting.rendezvous`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

from alexnet_jax.processes.agreement import SharedAgreement
from alexnet_jax.processes.errors import EXIT_LOST_PROCESS, RESUME, Failure
from alexnet_jax.processes.keys import Keys, Unreachable
from alexnet_jax.runtime.printing import complain, printable

POLL_SECONDS = 0.25
ROUND_SECONDS = 0.01  # between two polls while a round of the agreement is under way
LOST_SECONDS = 20.0  # without a heartbeat
SUSPECT_SECONDS = 4.0  # the same, after a collective has failed
UNREACHABLE_SECONDS = 20.0  # without an answer of the coordination service
PARTING_SECONDS = 5.0  # for which a process 0 that fails waits, so that the others learn why


class Monitor:
    """Watches the processes of a group; the thread begins with `start`.

    Args:
      keys: the keys of the run.
      index: the number of this process.
      count: the number of processes.
      hang_seconds: the time after which a process that ends no turn counts as hanging; 0 for never.

    Attributes:
      agreement: the agreement in which the thread takes part; None outside of training.
    """

    def __init__(self, keys: Keys, index: int, count: int, hang_seconds: float) -> None:
        self._keys, self._index, self._count = keys, index, count
        self._hang_seconds = hang_seconds
        self._deadline: float | None = None  # of the next turn of this process
        self._heartbeats = 0  # the number of those of this process
        # By process: its last heartbeat, and when it was first read.
        self._last_heartbeats: dict[int, tuple[list[Any] | None, float]] = {}
        self._silent: set[int] = set()  # the processes without a heartbeat
        self._closed = threading.Event()
        self._ending = threading.Lock()  # of the thread that ends the process
        self._failure: Failure | None = None  # with which this process ends
        self._is_told = False
        self._polls = 0  # those that the coordination service has answered
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
        """Ends the threads, once all processes have reached their end."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def expect_progress(self, seconds: float) -> None:
        """Sets the time within which this process ends its next turn; see `Group`."""
        if self._hang_seconds:
            self._deadline = time.monotonic() + max(seconds, self._hang_seconds)

    @contextlib.contextmanager
    def watch(self, agreement: SharedAgreement) -> Iterator[None]:
        """Takes part in an agreement, and in the block watches the progress of this process."""
        self.agreement = agreement
        self.expect_progress(0)
        try:
            yield
        finally:
            self._deadline = None

    def end_process(self, failure: Failure, collective: bool = False) -> NoReturn:
        """Tells the other processes why this one ends, and ends it; called by the main thread.

        Args:
          failure: what has happened in this process.
          collective: whether the cause may be the loss of another process, which is named then.
        """
        if collective:
            self._find_cause()
        with self._ending:
            self._end(failure)

    def _find_cause(self) -> None:
        """Waits until the monitors find the process that is lost; if they do, they end this one."""
        with contextlib.suppress(Unreachable):
            self._keys.set('events/suspicion', self._index)
        time.sleep(SUSPECT_SECONDS + 8 * POLL_SECONDS)

    def _end(self, failure: Failure) -> NoReturn:
        """Prints the first failure of the group and ends the process with its exit code."""
        self._failure = failure
        with contextlib.suppress(Unreachable):
            if not self._keys.set('events/failure', list(failure)):
                first = Failure(*self._keys.read('events/')['failure'])
                # An error that all processes have raised is an error of this process, too.
                failure = failure if failure.line == first.line else first
        self._tell(failure)
        with contextlib.suppress(Unreachable):
            self._keys.set(f'ended/{self._index}', True)
            # With process 0 the coordination service ends, and then XLA aborts the others.
            deadline = time.monotonic() + PARTING_SECONDS
            while self._index == 0 and time.monotonic() < deadline:
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
            try:
                is_in_round = self._poll()
                self._polls += 1
            except Unreachable:
                pass  # another thread ends this process where that lasts
            except Exception as error:  # without this thread nobody would notice what happens
                traceback.print_exc()
                self._end_by_thread(Failure.of(error, self._index))
            if self._closed.wait(ROUND_SECONDS if is_in_round else POLL_SECONDS):
                return

    def _watch_service(self) -> None:
        """Ends the process if the coordination service has not answered for UNREACHABLE_SECONDS.

        The time is counted in waits of this thread, so that a process that was suspended polls
        again before it is ended.
        """
        polls, waits = self._polls, 0
        while self._threads[0].is_alive():
            self._threads[0].join(POLL_SECONDS)
            polls, waits = (polls, waits + 1) if polls == self._polls else (self._polls, 0)
            if waits * POLL_SECONDS > UNREACHABLE_SECONDS:
                self._end_without_service()

    def _end_without_service(self) -> NoReturn:
        """Ends the process without a call of the coordination service, which might block."""
        self._ending.acquire(timeout=POLL_SECONDS)  # the thread that has it may be blocked, too
        failure = self._failure
        if failure is None or (failure.code == EXIT_LOST_PROCESS and not self._is_told):
            failure = _lost(0, UNREACHABLE_SECONDS)
        if not self._is_told:
            self._tell(failure)
        _exit(failure.code)

    def _poll(self) -> bool:
        """Publishes a heartbeat, and acts on what the other processes have published.

        Returns:
          Whether a round of the agreement is under way.
        """
        turns = self.agreement.turns if self.agreement else 0
        is_late = self._deadline is not None and time.monotonic() > self._deadline
        self._heartbeats += 1
        heartbeat = self._heartbeats, turns, is_late
        self._keys.set(f'alive/{self._index}', heartbeat, replace=True)
        events = self._keys.read('events/')
        if 'failure' in events:
            self._end_by_thread(Failure(*events['failure']))
        if self._index == 0:
            self._check_others('suspicion' in events)
        return self.agreement is not None and self.agreement.poll(events)

    def _check_others(self, is_suspicious: bool) -> None:
        """Finds a process that has no heartbeat or hangs; process 0 does this for all."""
        now, seconds = time.monotonic(), SUSPECT_SECONDS if is_suspicious else LOST_SECONDS
        heartbeats = {int(process): x for process, x in self._keys.read('alive/').items()}
        for process in range(self._count):
            heartbeat = heartbeats.get(process)
            last, since = self._last_heartbeats.setdefault(process, (heartbeat, now))
            if heartbeat != last:
                self._last_heartbeats[process] = heartbeat, now
            elif now - since > seconds:
                self._silent.add(process)
                self._end_by_thread(_lost(process, seconds))
        self._check_progress(heartbeats)

    def _check_progress(self, heartbeats: dict[int, list[Any]]) -> None:
        """Ends the group if all processes with the fewest turns are past their deadlines.

        The others wait for these in a collective, so they end no turn either.
        """
        if len(heartbeats) < self._count:
            return
        fewest = min(turns for _, turns, _ in heartbeats.values())
        slowest = [process for process, (_, turns, _) in heartbeats.items() if turns == fewest]
        if not all(heartbeats[process][2] for process in slowest):
            return
        limit = f'for more than {self._hang_seconds:g} s'
        line = f'it has made no step {limit}, and others wait for it'
        if len(slowest) == self._count:
            line = f'no process has made a step {limit}'
        line += f'; {RESUME}; if steps take that long, raise --hang_timeout'
        self._end_by_thread(Failure(min(slowest), line, EXIT_LOST_PROCESS))

    def _end_by_thread(self, failure: Failure) -> NoReturn:
        with self._ending:  # never released: the main thread may be ending the process, too
            self._end(failure)


def _lost(process: int, seconds: float) -> Failure:
    line = f'it was killed or cannot be reached (silent for {seconds:g} s); {RESUME}'
    return Failure(process, line, EXIT_LOST_PROCESS)


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
