"""The turns of a training loop: reading ahead, and acting on what all processes have agreed on."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from alexnet_jax.processes import group
from alexnet_jax.processes.agreement import Agreement, Notices
from alexnet_jax.processes.errors import OtherFailed
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import first_line

_Item = TypeVar('_Item')


class LookAhead(Generic[_Item]):
    """Reads items before they are needed.

    A process that cannot read an image must still make the turns that other processes have already
    made; see `SharedAgreement`. It learns of the error `ahead` items before an item is missing.

    Args:
      items: the items, such as batches on the host.
      ahead: how many items are read in advance; 0 in a program of one process.
      has_stopped: returns whether a signal has arrived.

    Attributes:
      error: the exception that reading an item raised; None for none. `take` still returns the
        items before it.
    """

    def __init__(self, items: Iterator[_Item], ahead: int, has_stopped: Callable[[], bool]) -> None:
        self._items, self._ahead, self._has_stopped = items, ahead, has_stopped
        self._ready: collections.deque[_Item] = collections.deque()
        self._has_begun = self._has_ended = False
        self.error: Exception | None = None

    def fill(self) -> None:
        """Reads as many items as are read in advance."""
        while not self._has_ended and len(self._ready) < self._ahead:
            self._read()

    def take(self) -> _Item | None:
        """Returns the next item; None where there is none, because of the end or an error.

        In a program of one process it is also None once a signal has arrived, except for the first
        item: no turn has ended in which the signal could have been noticed.
        """
        while not self._has_ended and len(self._ready) <= self._ahead:
            if not self._ahead and self._has_begun and self._has_stopped():
                break
            self._read()
        self._has_begun = True
        return self._ready.popleft() if self._ready else None

    def _read(self) -> None:
        try:
            self._ready.append(next(self._items))
        except StopIteration:
            self._has_ended = True
        except Exception as error:
            self._has_ended, self.error = True, error


class Turns:
    """The turns of a loop that all processes make; see `agreement`.

    Args:
      stop: records the signals that ask this process to stop.

    Attributes:
      signal: the name of the signal for which all processes stop; '' for none.
      save: whether all have agreed to save a checkpoint since the last call of `mark_saved`.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop, self._group = stop, group.current()
        self._agreement = Agreement(stop)  # outside of `agree`
        self._error: Exception | None = None  # of this process
        self._notices = Notices()  # all so far
        self.signal, self.save = '', False

    @contextlib.contextmanager
    def agree(self) -> Iterator[None]:
        """Agrees with the other processes in the block, where one without progress is ended."""
        with self._group.agreement(self._stop) as self._agreement:
            yield

    def read_ahead(self, items: Iterator[_Item], turns_behind: int) -> LookAhead[_Item]:
        """Reads items as far ahead as another process may be ahead of this one.

        Args:
          items: one for each turn.
          turns_behind: how many turns a process makes before it waits for the result of one, in
            which all processes take part.
        """
        # Three more: the turn that a process is in, the turn whose result it waits for, and the
        # turn that all agree on, which no process has ended yet.
        ahead = turns_behind + 3 if self._group.count > 1 else 0
        return LookAhead(items, ahead, lambda: bool(self._stop.signal))

    def check_first(self, name: str, items: LookAhead[Any], seconds: float) -> None:
        """Reads the first items, and tells all processes of errors and signals before they go on.

        Other processes may end a turn before a process can tell them that it lacks the first item.

        Args:
          name: what the items are, for messages.
          items: the items, of which none has been taken.
          seconds: how long the other processes may take to read theirs.

        Raises:
          UserError: a process cannot read its first items.
        """
        items.fill()
        line = self._describe(items)
        values = self._group.gather(name, [self._stop.signal, line], seconds)
        self._act_on(
            Notices.merge(
                Notices(signal, error=other, process=process)
                for process, (signal, other) in enumerate(values)
            )
        )
        self.raise_error()

    def end(self, items: LookAhead[Any] | None = None, save: bool = False) -> Notices:
        """Ends a turn, and returns what all processes act on before they begin the next one.

        Args:
          items: what this process needs for the next turns; None for nothing. An error of reading
            them is told to all processes.
          save: whether this process asks for a checkpoint.
        """
        has_failed = items is not None and items.error is not None
        if items is not None and self._error is None and (line := self._describe(items)):
            self._agreement.report_error(line)
        if save:
            self._agreement.request_save()
        notices = self._agreement.next_turn(wait=has_failed)
        self._act_on(notices)
        return notices

    def _describe(self, items: LookAhead[Any]) -> str:
        """Returns the line of an error of reading; '' if there is none, or a signal is its cause.

        A signal may have ended the processes that read, too.
        """
        if items.error is None or self._stop.signal:
            return ''
        self._error = items.error
        return first_line(items.error)

    def _act_on(self, notices: Notices) -> None:
        self._notices = Notices.merge([self._notices, notices])
        self.signal, self.save = self._notices.signal, self.save or bool(notices)

    @property
    def concerns_all(self) -> bool:
        """Whether an error is that of all processes: there is one, or all have agreed on it."""
        return self._group.count == 1 or bool(self._notices.error)

    def mark_saved(self) -> None:
        """Sets `save` to False again, once a checkpoint has been saved."""
        self.save = False

    def raise_error(self) -> None:
        """Raises the error that all processes have agreed to end with, if there is one."""
        if not self._notices.error:
            return
        if self._error is not None and self._notices.process == self._group.index:
            raise self._error
        raise OtherFailed(self._notices.process, self._notices.error)
