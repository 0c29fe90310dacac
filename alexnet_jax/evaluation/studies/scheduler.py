"""Trains the runs of a study: each in a process, one at a time on each worker."""

import heapq
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import IO, NamedTuple

from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.evaluation.studies.workers import Worker
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.progress import time_left
from alexnet_jax.runtime.signals import EXIT_INTERRUPTED, forward_to
from alexnet_jax.runtime.user_errors import EXIT_STOPPED, UserError

_SECONDS_BETWEEN_LOOKS = 0.05  # at the processes
_SECONDS_TO_END = 3.0  # from the second Ctrl-C to the end of all processes


class _Running(NamedTuple):
    """A run that is being trained: its place among the runs, its process, and when it started."""

    number: int
    name: str
    seed: int
    worker: Worker
    command: list[str]
    process: subprocess.Popen
    errors: IO[str]
    start: float


def train(study: Study, workers: Sequence[Worker]) -> Generator[tuple[str, int]]:
    """Trains the runs that have no result yet, and yields each when its result is written.

    A run that has diverged has a result, too. A stop signal is forwarded to the runs, which save.
    When the iterator is closed, or after an error, the runs in progress are stopped in the same
    way; it waits until they have ended.

    Args:
      study: the runs.
      workers: the devices; each trains one run at a time.

    Yields:
      The name and the seed of a run that has ended.

    Raises:
      UserError: a run ended with an error.
      SystemExit: a signal stopped the study (75).
      KeyboardInterrupt: a second Ctrl-C ended it.
    """
    processes: list[subprocess.Popen] = []
    with forward_to(processes) as signals:
        scheduler = _Scheduler(study, workers, processes, signals)
        try:
            while scheduler.has_work():
                scheduler.start_runs()
                ended = scheduler.wait()
                if scheduler.finish(ended):
                    yield ended.name, ended.seed
        finally:
            scheduler.stop_all()
    if signals.count('SIGINT') > 1:
        raise KeyboardInterrupt
    if scheduler.failure:
        raise UserError(scheduler.failure)
    if scheduler.is_stopping():
        show('stopped and saved: the same command resumes')
        sys.exit(EXIT_STOPPED)


class _Scheduler:
    """Gives each worker the next run until all have ended, one has failed, or a signal arrives.

    Args:
      study, workers: as for `train`.
      processes: receives the processes of the runs in progress.
      signals: the names of the signals that have arrived, to which more are added.

    Attributes:
      failure: what the first run that failed said, as a line; '' while none has.
    """

    def __init__(
        self,
        study: Study,
        workers: Sequence[Worker],
        processes: list[subprocess.Popen],
        signals: Sequence[str],
    ) -> None:
        missing = [run for run in study.runs() if study.result(*run) is None]
        self.failure = ''
        self._study, self._workers = study, workers
        self._processes, self._signals = processes, signals
        self._missing, self._total = deque(enumerate(missing, 1)), len(missing)
        self._running: list[_Running] = []
        self._durations: list[float] = []  # of the runs that have ended, in seconds
        self._was_stopped = False  # a run was, by a signal that did not reach this process

    def is_stopping(self) -> bool:
        """Returns whether no more runs are started."""
        return bool(self._signals or self.failure or self._was_stopped)

    def has_work(self) -> bool:
        """Returns whether a run is in progress or is to be started."""
        return bool(self._running or (self._missing and not self.is_stopping()))

    def start_runs(self) -> None:
        """Starts a run on each worker that has none."""
        busy = [run.worker for run in self._running]
        for worker in self._workers:
            if worker not in busy and self._missing and not self.is_stopping():
                self._start(worker)

    def _start(self, worker: Worker) -> None:
        number, (name, seed) = self._missing.popleft()
        command = self._study.command(name, seed)
        folder = self._study.make_folder(name, seed)
        # Not a pipe: nobody would read it while another run is waited for.
        errors = tempfile.TemporaryFile('w+', errors='replace')  # noqa: SIM115
        with (folder / 'output.txt').open('a') as output:
            process = worker.start(command, stdout=output, stderr=errors)
        self._running.append(
            _Running(number, name, seed, worker, command, process, errors, time.monotonic())
        )
        self._processes.append(process)
        if self._signals:  # one arrived before the process was in the list
            process.terminate()
        left = self._time_left()
        if len(self._workers) == 1:
            show(f'[{number}/{self._total}] {name}, seed {seed}{left}')
        else:
            show(f'[{number}/{self._total}] {name}, seed {seed}: {worker.describe()}{left}')

    def _time_left(self) -> str:
        if not self._durations or not self.has_work():
            return ''
        now = time.monotonic()
        elapsed = [now - run.start for run in self._running]
        mean = sum(self._durations) / len(self._durations)
        seconds = seconds_left(mean, elapsed, len(self._missing), len(self._workers))
        return f', {time_left(seconds)} left'

    def wait(self) -> _Running:
        """Waits until a run has ended, and returns it; a second Ctrl-C gives them little time."""
        deadline = float('inf')
        while True:
            for run in self._running:
                if run.process.poll() is not None:
                    return run
            if self._signals.count('SIGINT') > 1:
                deadline = min(deadline, time.monotonic() + _SECONDS_TO_END)
            if time.monotonic() > deadline:
                for run in self._running:
                    run.process.kill()
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def finish(self, run: _Running) -> bool:
        """Writes the result of a run that has ended; returns False if it was stopped or failed.

        If it failed, or was stopped by itself, the other runs are stopped, too.
        """
        self._running.remove(run)
        self._processes.remove(run.process)
        with run.errors:
            run.errors.seek(0)
            errors = run.errors.read().strip().splitlines()
        code = run.process.returncode
        if code == 0 or (code > 0 and self._study.has_diverged(run.name, run.seed)):
            self._record(run)
            return True
        # Below 0, or interrupted: it had nothing to save yet.
        ended_by_signal = code < 0 or code == EXIT_INTERRUPTED
        if code == EXIT_STOPPED or (self.is_stopping() and ended_by_signal):
            self._was_stopped = True
        elif not self.failure:
            reason = (errors or [f'exit code {code}'])[-1].removeprefix('alexnet_jax: ')
            self.failure = (
                f'{run.name} with seed {run.seed} failed: {reason} ({shlex.join(run.command)})'
            )
        if not self._signals and self._running:
            show('stopping the other runs when they have saved')
            self._terminate()
        return False

    def _record(self, run: _Running) -> None:
        seconds = time.monotonic() - run.start
        result = self._study.record_result(run.name, run.seed, seconds)
        outcome = f'{result.views:.2%} top-1 error'
        if result.diverged:
            outcome = f'diverged, {result.diverged}'
        else:  # the time of a run that ends early says little about the others
            self._durations.append(seconds)
        if len(self._workers) == 1:
            show(f'    {outcome} with seed {run.seed}')
            return
        show(
            f'[{run.number}/{self._total}] {run.name}, seed {run.seed}: {outcome}, '
            f'{run.worker.describe()}{self._time_left()}'
        )

    def _terminate(self) -> None:
        for run in self._running:
            run.process.terminate()

    def stop_all(self) -> None:
        """Stops the runs in progress, which save, and waits for their ends."""
        self._terminate()
        while self._running:
            run = self.wait()
            self._running.remove(run)
            self._processes.remove(run.process)
            run.errors.close()


def seconds_left(mean: float, elapsed: Sequence[float], waiting: int, workers: int) -> float:
    """Estimates the time until all runs have ended, if each takes as long as the mean.

    Args:
      mean: the seconds that a run takes.
      elapsed: the seconds since the start of each run in progress.
      waiting: the number of runs that have not been started.
      workers: the number of runs that are trained at once.

    Returns:
      Seconds.
    """
    # When each worker is free; the next run begins on the one that is free first.
    free = [max(0.0, mean - seconds) for seconds in elapsed] + [0.0] * (workers - len(elapsed))
    heapq.heapify(free)
    for _ in range(waiting):
        heapq.heapreplace(free, free[0] + mean)
    return max(free)
