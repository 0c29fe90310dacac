"""A group of several processes, which communicate by JAX's coordination service."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from alexnet_jax.processes.agreement import Agreement, SharedAgreement
from alexnet_jax.processes.errors import LostProcess, name_processes
from alexnet_jax.processes.group import BARRIER_SECONDS, Group
from alexnet_jax.processes.keys import Keys
from alexnet_jax.processes.monitor import Monitor
from alexnet_jax.runtime.printing import LateNotice
from alexnet_jax.runtime.signals import StopSignal, raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError

_Result = TypeVar('_Result')

_SECONDS_BEFORE_MESSAGE = 3.0  # after which the user is told what this process waits for
_SECONDS_OF_A_WAIT = 1.0  # of one call of the service; it is repeated until there is an answer
_SECONDS_BETWEEN_LOOKS = 0.05


class Several(Group):
    """A group of several processes; see `Group` for its methods.

    Args:
      keys: the keys of the run.
      index: the number of this process.
      count: the number of processes.
      monitor: the thread that watches the other processes.
    """

    def __init__(self, keys: Keys, index: int, count: int, monitor: Monitor) -> None:
        self.index, self.count = index, count
        self._keys, self._monitor = keys, monitor
        self._calls = itertools.count()  # the calls of all processes have the same numbers
        self._old: list[str] = []  # keys that are deleted once all processes have read them
        self._own_items: set[tuple[str, int]] = set()  # that this process has added to sets

    def gather(self, name: str, value: Any, seconds: float = BARRIER_SECONDS) -> list[Any]:
        """Returns the values of all processes; see `Group.gather`."""
        number = next(self._calls)
        folder = f'gather/{number}/'
        self._keys.set(f'{folder}{self.index}', [name, value])
        try:
            self._keys.meet(f'gather-{number}', seconds)
        except TimeoutError as error:
            missing = sorted({*range(self.count)} - {int(x) for x in self._keys.read(folder)})
            verb = 'has' if len(missing) == 1 else 'have'
            raise LostProcess(
                f'{name_processes(missing)} {verb} not reached the barrier "{name}" within '
                f'{seconds:g} s'
            ) from error
        answers = self._keys.read(folder)
        names = {other for other, _ in answers.values()}
        if names != {name}:
            raise AssertionError(f'the processes are at different barriers: {sorted(names)}')
        if self.is_first:
            for key in self._old:  # all have read those
                self._keys.delete(key)
            self._old = [folder]
        return [answers[str(process)][1] for process in range(self.count)]

    def broadcast(self, action: str, compute: Callable[[], Any]) -> Any:
        """Returns what process 0 computes; see `Group.broadcast`."""
        key = self._new_broadcast()
        if self.is_first:
            value = json.loads(json.dumps(compute()))
            self._keys.set(key, value)
            return value
        return self._wait_for_first(key, action)

    def first_before_others(self, action: str, function: Callable[[], _Result]) -> _Result:
        """Calls a function in process 0, then in the others; see `Group.first_before_others`."""
        key = self._new_broadcast()
        if not self.is_first:
            self._wait_for_first(key, action, raise_if_stopped)
        result = function()
        if self.is_first:
            self._keys.set(key, None)
        self._wait_for_others(action)
        return result

    def _wait_for_others(self, action: str) -> None:
        """Waits, without a limit, until all processes have come here; a signal ends the wait."""
        folder, notice = f'done/{next(self._calls)}/', LateNotice(_SECONDS_BEFORE_MESSAGE)
        self._keys.set(f'{folder}{self.index}', None)
        while missing := sorted({*range(self.count)} - {int(x) for x in self._keys.read(folder)}):
            raise_if_stopped()
            others = f', and for {len(missing) - 1} more' if missing[1:] else ''
            notice.show(f'waiting for process {missing[0]}, which {action}{others}')
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        self._old.append(folder)  # deleted after the next point to which all come

    def _new_broadcast(self) -> str:
        key = f'broadcast/{next(self._calls)}'
        self._old.append(key)  # deleted after the next barrier
        return key

    def _wait_for_first(
        self, key: str, action: str, check: Callable[[], None] = lambda: None
    ) -> Any:
        notice = LateNotice(_SECONDS_BEFORE_MESSAGE)
        while True:  # if process 0 ends, the monitor ends this process
            try:
                return self._keys.wait(key, _SECONDS_OF_A_WAIT)
            except TimeoutError:
                check()
                notice.show(f'waiting for process 0, which {action}')

    def compare(self, values: Mapping[str, Any]) -> None:
        """Raises a UserError if a value is not the same in all processes; see `Group.compare`."""
        first, *others = self.gather('comparison', dict(values))
        for process, other in enumerate(others, 1):
            for name in sorted(first.keys() | other.keys()):
                if first.get(name) != other.get(name):
                    raise UserError(
                        f'process {process} has {name}={other.get(name)}, and process 0 has '
                        f'{name}={first.get(name)}: start all processes with the same command, '
                        'the same versions and the same data'
                    )

    def add_to_set(self, name: str, items: set[int]) -> set[int]:
        """Adds numbers to a set that all processes share; see `Group.add_to_set`."""
        for item in items:
            if (name, item) not in self._own_items:
                self._keys.set(f'set/{name}/{item}', item)  # or another process has done it
                self._own_items.add((name, item))
        return set(self._keys.read(f'set/{name}/').values())

    def expect_progress(self, seconds: float) -> None:
        """Sets the time within which this process ends its next turn; see `Group`."""
        self._monitor.expect_progress(seconds)

    @contextlib.contextmanager
    def agreement(self, stop: StopSignal) -> Iterator[Agreement]:
        """Yields the agreement of all processes; see `Group.agreement`."""
        shared = SharedAgreement(
            stop, self._keys, self.index, self.count, lambda: self._monitor.expect_progress(0)
        )
        with self._monitor.watch(shared):
            yield shared
