"""Signals that ask a process to stop."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import ClassVar

# From a user or a scheduler; Ctrl-C; a terminal that is closed; often Slurm's --signal.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1')
    if hasattr(signal, name)
)
EXIT_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended

# What a forwarded signal waits for, by the number of processes that are running.
_FORWARDED = {0: '', 1: ' when the present run has saved'}
_FORWARDED_TO_SEVERAL = ' when all runs in progress have saved'

_AGAIN = b'\0'  # in the pipe, beside the numbers of signals: the second Ctrl-C


class Stopped(Exception):
    """A signal ended a long job before its end; what is complete remains and the job resumes."""


class StopSignal:
    """Records signals inside a `with` block, so that the program can save and stop.

    The signals are SIGTERM, Ctrl-C (SIGINT), SIGHUP and SIGUSR1. Those that were ignored when the
    block is entered stay ignored, as nohup and a shell's background jobs require.
    A line on stderr acknowledges a signal at once: a thread prints it, because the main thread may
    be compiling, and handles signals in Python only after that.

    The program ends by itself once it has saved; more signals do not hurry it, since schedulers
    repeat theirs. Only the second Ctrl-C ends it at once: by a KeyboardInterrupt, and where this
    does not leave the block, as in a compilation, by ending the process with exit code 130.

    A block within another one begins with the signal of the other, and leaves its own to it.
    Outside the main thread, where Python handles no signals, the block does nothing.

    Args:
      saves: whether the program saves something before it stops, which the line says.

    Attributes:
      signal: the name of the newest signal, such as 'SIGTERM'; '' before the first.
    """

    SECONDS_TO_LEAVE = 1.0  # from the second Ctrl-C to the end of the process

    _active: 'ClassVar[StopSignal | None]' = None

    def __init__(self, saves: bool = True) -> None:
        self.signal, self._saves = '', saves
        self._handlers: dict[int, Callable | int] = {}  # those of before, by signal
        self._acknowledged: dict[int, object] = {}
        self._interrupts = 0
        self._left = threading.Event()
        self._process = os.getpid()

    def __enter__(self) -> 'StopSignal':
        if threading.current_thread() is not threading.main_thread():
            return self
        self._outer, StopSignal._active = StopSignal._active, self
        if self._outer is not None:
            self.signal = self._outer.signal
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(
            target=self._read_signals, args=(reader,), name='signals', daemon=True
        )
        self._thread.start()
        self._outer_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # None: a C library handles it
                self._handlers[number] = handler
                signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if StopSignal._active is not self:
            return
        StopSignal._active = self._outer
        if self._outer is not None:
            self._outer.signal = self.signal or self._outer.signal
        self._restore_handlers()
        os.close(self._writer)  # ends the thread
        self._thread.join(timeout=1.0)  # it may be printing where nobody reads

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._outer_writer)

    def _record(self, number: int, _: FrameType | None) -> None:
        """Records a signal in the main thread, between two operations of Python."""
        if os.getpid() != self._process:  # it arrived at a process that has just been forked
            _handle_as_before_in_child()
            signal.raise_signal(number)
            return
        self._acknowledge(number)
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                os.write(self._writer, _AGAIN)
                raise KeyboardInterrupt

    def _read_signals(self, reader: int) -> None:
        """Reads the numbers of signals in a thread, while the main thread may be anywhere."""
        interrupts = 0
        while data := os.read(reader, 1):
            if data == _AGAIN:
                interrupts = 2
            else:
                self._acknowledge(data[0])
                interrupts += data[0] == signal.SIGINT
            if interrupts > 1 and not self._left.wait(self.SECONDS_TO_LEAVE):
                _write_line('alexnet_jax: interrupted')
                os._exit(EXIT_INTERRUPTED)
        os.close(reader)

    def _acknowledge(self, number: int) -> None:
        """Prints a line for the first signal of its kind, in the thread that learns of it first."""
        if number not in STOP_SIGNALS:
            return
        self.signal, token = signal.Signals(number).name, object()
        if self._acknowledged.setdefault(number, token) is token:
            after, without = (' after saving', ', without saving') if self._saves else ('', '')
            _write_line(f'stopping ({self.signal}){after}; a second Ctrl-C ends at once{without}')


def raise_if_stopped() -> None:
    """Raises Stopped if a signal has arrived inside the `with` block of a StopSignal.

    Long jobs call this between two images or two files. It does nothing in a program, or in a
    notebook, that does not use a StopSignal.
    """
    active = StopSignal._active
    if active is not None and active.signal:
        raise Stopped(active.signal)


@contextlib.contextmanager
def forward_to(processes: Collection[subprocess.Popen]) -> Iterator[list[str]]:
    """Forwards the signals of StopSignal to processes, so that each saves and stops.

    Signals that are ignored stay ignored. A line on stderr acknowledges the first of each kind.

    Args:
      processes: processes in sessions of their own, which a terminal's Ctrl-C does not reach. The
        caller may add and remove some within the block; those that have ended get no signal.

    Yields:
      The names of the signals that have arrived so far. A process that is started meanwhile may
      have missed them.
    """
    names: list[str] = []

    def forward(number: int, _: FrameType | None) -> None:
        name, running = signal.Signals(number).name, [x for x in processes if x.poll() is None]
        if name not in names:
            _write_line(f'stopping ({name}){_FORWARDED.get(len(running), _FORWARDED_TO_SEVERAL)}')
        names.append(name)
        for process in running:
            process.send_signal(number)

    handlers = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    handlers = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
    for number in handlers:
        signal.signal(number, forward)
    try:
        yield names
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _write_line(text: str) -> None:
    # Not print: a signal may interrupt one, and the reader of stderr may have gone.
    start = '\n' if os.isatty(2) else ''  # a progress line, or ^C, may stand on the terminal
    with contextlib.suppress(OSError):
        if sys.__stderr__ is not None:  # a stderr that was closed may be another file's number
            os.write(2, f'{start}{text}\n'.encode())


def _handle_as_before_in_child() -> None:
    """Restores the handlers in a forked process, which would write into the pipe of its parent."""
    active, StopSignal._active = StopSignal._active, None
    while active is not None:
        active._restore_handlers()
        active = active._outer


os.register_at_fork(after_in_child=_handle_as_before_in_child)
