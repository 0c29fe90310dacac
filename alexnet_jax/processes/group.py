"""The group of processes that train one net together; a single process is a group, too.

Every process of a group calls these methods in the same order, whatever happens to it alone. If a
process ends with an error, is killed or hangs, all others end; see `monitor`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from alexnet_jax.processes.agreement import Agreement
from alexnet_jax.runtime.signals import StopSignal

_Result = TypeVar('_Result')

BARRIER_SECONDS = 120.0  # for the others to reach a barrier that all reach at about the same time


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
        """Returns the values of all processes, by their numbers, once all have called this.

        Args:
          name: what the values are, for messages; the same in all processes.
          value: the value of this process, plain enough for JSON.
          seconds: how long the others may take.

        Raises:
          LostProcess: a process has not called this within that time; the text names it.
        """
        return [value]

    def barrier(self, name: str, seconds: float = BARRIER_SECONDS) -> None:
        """Waits until all processes have called this; see `gather`."""
        self.gather(name, None, seconds)

    def broadcast(self, action: str, compute: Callable[[], Any]) -> Any:
        """Returns what process 0 computes; the others wait for as long as that takes.

        An error in process 0 ends the others, too.

        Args:
          action: what process 0 does, for the message of those that wait, such as 'reads the
            checkpoints'.
          compute: returns a value plain enough for JSON; only process 0 calls it.
        """
        return compute()

    def first_before_others(self, action: str, function: Callable[[], _Result]) -> _Result:
        """Calls a function in process 0, and then in the others, which can use its files.

        Args:
          action: what process 0 does, for the message of those that wait, such as 'prepares the
            data set'.
          function: the function; every process calls it.

        Returns:
          The result of the call in this process.
        """
        return function()

    def compare(self, values: Mapping[str, Any]) -> None:
        """Raises a UserError if a value is not the same in all processes.

        Args:
          values: by name, plain enough for JSON.

        Raises:
          UserError: the text contains the name, both values and the number of the process.
        """

    def add_to_set(self, name: str, items: set[int]) -> set[int]:
        """Adds numbers to a set that all processes share, and returns the set.

        This does not wait for the other processes, which may call it more or less often.

        Args:
          name: the name of the set.
          items: the numbers to add.
        """
        return items

    def expect_progress(self, seconds: float) -> None:
        """Sets the time within which this process ends its next turn, or it counts as hanging.

        From the end of that turn on, the limit is that of --hang_timeout again; see `agreement`.

        Args:
          seconds: the time; where --hang_timeout is longer, it applies.
        """

    @contextlib.contextmanager
    def agreement(self, stop: StopSignal) -> Iterator[Agreement]:
        """Yields the agreement of all processes about when they stop or save.

        Within the block, a process that ends no turn within --hang_timeout counts as hanging.

        Args:
          stop: records the signals that ask this process to stop.
        """
        yield Agreement(stop)


_group = Group()


def current() -> Group:
    """Returns the group of this process."""
    return _group


def set_current(group: Group) -> None:
    """Sets the group of this process."""
    global _group
    _group = group
