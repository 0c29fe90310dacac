"""The turns of a training loop: reading ahead, and acting on what all processes have agreed on."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from alexnet_jax.processes import group
from alexnet_jax.processes.agreement import Agreement, Notices
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import UserError, first_line

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

    def end(self, error: Exception | None = None, save: bool = False) -> Notices:
        """Ends a turn, and returns what all processes act on before they begin the next one.

        Args:
          error: the error with which this process can make only a few more turns; None for none.
          save: whether this process asks for a checkpoint.
        """
        if error is not None and self._stop.signal:
            self._agreement.hold()  # the signal may have ended the processes that read, too
        elif error is not None and self._error is None:
            self._error = error
            self._agreement.report_error(first_line(error))
        if save:
            self._agreement.request_save()
        notices = self._agreement.next_turn()
        self._notices = Notices.merge([self._notices, notices])
        self.signal, self.save = self._notices.signal, self.save or bool(notices)
        return notices

    def mark_saved(self) -> None:
        """Sets `save` to False again, once a checkpoint has been saved."""
        self.save = False

    def raise_error(self) -> None:
        """Raises the error that all processes have agreed to end with, if there is one."""
        if not self._notices.error:
            return
        if self._error is not None and self._notices.process == self._group.index:
            raise self._error
        raise UserError(f'process {self._notices.process}: {self._notices.error}')
