"""The group of the processes that train one net together; a program of one process is a group, too.

Every process of a group makes the same calls of these methods in the same order, whatever happens
to it alone. A process that ends with an error, is killed or hangs ends all others; see `monitor`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from alexnet_jax.processes.agreement import Agreement
from alexnet_jax.runtime.signals import StopSignal

_Result = TypeVar('_Result')

BARRIER_SECONDS = 120.0  # within which the others reach a point that all reach at about one time


class Group:
    """A group of one process, and the methods of every group.

    Attributes:
      count: the number of processes.
      index: the number of this process, from 0.
    """

    count, index = 1, 0

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which writes files and prints for all."""
        return self.index == 0

    def gather(self, name: str, value: Any, seconds: float = BARRIER_SECONDS) -> list[Any]:
        """Returns the values of all processes, in their order; it waits for all of them.

        Args:
          name: what the values are, for messages; the same in all processes.
          value: the value of this process, plain enough for JSON.
          seconds: how long the others may take.

        Raises:
          LostProcess: a process has not come within that time; the text names it.
        """
        return [value]

    def barrier(self, name: str, seconds: float = BARRIER_SECONDS) -> None:
        """Waits until all processes have come to this point; see `gather`."""
        self.gather(name, None, seconds)

    def broadcast(self, action: str, compute: Callable[[], Any]) -> Any:
        """Returns what process 0 computes; the others wait for as long as that takes.

        An error of process 0 ends the others, too.

        Args:
          action: what process 0 does, for the message of those that wait: 'reads the checkpoints'.
          compute: returns a value plain enough for JSON; only process 0 calls it.
        """
        return compute()

    def first_before_others(self, action: str, function: Callable[[], _Result]) -> _Result:
        """Calls a function in process 0, and then in the others, which then find what it has made.

        It returns when all have called it. That may take hours, where hosts have their own disks.

        Args:
          action: what process 0 does, for the message of those that wait: 'prepares the data set'.
          function: what all call.

        Returns:
          The result of this process.

        Raises:
          Stopped: a signal has arrived at a process that waits for another.
        """
        return function()

    def compare(self, values: Mapping[str, Any]) -> None:
        """Raises a UserError if a value is not the same in all processes.

        Args:
          values: plain enough for JSON, by name; the text of the error has the name, the two
            values and the number of the process.
        """

    def add_to_set(self, name: str, items: set[int]) -> set[int]:
        """Adds numbers to a set that all processes share, and returns all that it has.

        This does not wait for the other processes, and they need not call it as often.

        Args:
          name: the name of the set.
          items: the items of this process.
        """
        return items

    def expect_progress(self, seconds: float) -> None:
        """States that this process may be busy for so long before it next comes to a turn.

        Otherwise it counts as hanging after --hang_timeout; see `agreement`.
        """

    @contextlib.contextmanager
    def agreement(self, stop: StopSignal) -> Iterator[Agreement]:
        """Yields the agreement of all processes about when they stop or save.

        Within the block a process that comes to no turn for as long as --hang_timeout says counts
        as hanging.

        Args:
          stop: records the signals that ask this process to stop.
        """
        yield Agreement(stop)


_group = Group()


def current() -> Group:
    """Returns the group of this process."""
    return _group


def set_current(group: Group) -> None:
    """Makes a group that of this process."""
    global _group
    _group = group
