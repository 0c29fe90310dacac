"""The point where the processes of a group meet, before JAX connects them.

JAX alone would not do (measured with 0.10.2 and 0.12): if a process is missing, if two have the
same number, or if something else listens at the address, the processes abort with exit code 134 and
a stack trace after twice the time that they were told to wait; a process whose number is too high
aborts; and two coordinators at one port both start, because gRPC sets SO_REUSEPORT.

Process 0 therefore first listens itself at the coordinator's port. Each of the others connects and
says its number in one line of JSON. Process 0 answers that it waits, and, when all have come, that
JAX may start, or else what is wrong. By these connections each process also learns which of its
host's addresses the others can reach.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import secrets
import selectors
import socket
import time
from collections.abc import Iterable
from typing import Any

from alexnet_jax.processes.errors import NotStarted
from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.starting.launchers import split_address
from alexnet_jax.runtime import printing
from alexnet_jax.runtime.user_errors import UserError

FOREIGN_SECONDS = 30.0  # how long something else may answer: a group that just ends, for example
NOTICE_SECONDS = 5.0  # after which the user is told what a process waits for
_REPLY_SECONDS = 5.0  # within which process 0 answers a line
_SERVICE_SECONDS = 30.0  # within which JAX's service listens, when all have met
_HELLO_SECONDS = 2.0  # within which a process that connects says its number
_RETRY_SECONDS = 0.25
_LONGEST_LINE = 4096
_PROGRAM = 'alexnet_jax'


def meet(launch: Launch, seconds: float) -> str:
    """Waits until all processes of a group have come.

    Args:
      launch: the place of this process.
      seconds: how long this process waits.

    Returns:
      The numerical address by which the other processes reach this one: a loopback address if all
      are on one host.

    Raises:
      NotStarted: a process has not come within that time.
      UserError: a process is none of this group, or this one cannot listen.
    """
    return _receive(launch, seconds) if launch.index == 0 else _visit(launch, seconds)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _choose_address(connections: Iterable[socket.socket]) -> str:
    """Returns the address at which connections from other hosts arrive, or else any of them."""
    addresses = [connection.getsockname()[0] for connection in connections] or ['127.0.0.1']
    addresses = [address.removeprefix('::ffff:') for address in addresses]  # IPv4 in IPv6
    return min(addresses, key=_is_loopback)


class _Notice:
    """Tells the user once what a process waits for, if that takes long."""

    def __init__(self) -> None:
        self._time = time.monotonic() + NOTICE_SECONDS

    def show(self, text: str) -> None:
        if time.monotonic() > self._time:
            self._time = float('inf')
            printing.warn(text)


class _Foreign(Exception):
    """What answers is not process 0 of this group."""


def _send(connection: socket.socket, **message: Any) -> None:
    line = json.dumps({'program': _PROGRAM, **message})
    connection.sendall(f'{line}\n'.encode())


def _read(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """Returns a message of this program; None if the connection was closed without one.

    Raises:
      _Foreign: another program has sent something else.
      TimeoutError: nothing has come within the time, in seconds.
    """
    deadline = time.monotonic() + seconds
    line = b''
    while not line.endswith(b'\n'):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(1)
        if not part and not line:
            return None
        line += part
        if not part or len(line) > _LONGEST_LINE:
            raise _Foreign
    try:
        message = json.loads(line)
    except ValueError:
        raise _Foreign from None
    if not isinstance(message, dict) or message.get('program') != _PROGRAM:
        raise _Foreign
    return message


def _listen(launch: Launch) -> socket.socket:
    """Returns a socket that listens where JAX's service will, without SO_REUSEPORT.

    Connections of an earlier run that are in TIME_WAIT do not matter, as SO_REUSEADDR is set.
    """
    name = 'JAX_COORDINATOR_BIND_ADDRESS'
    address = os.environ.get(name) or f'[::]:{split_address(launch.coordinator)[1]}'
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise UserError(f'{name}={address} is no HOST:PORT: correct or unset it') from error
    is_any = host in ('', '::', '0.0.0.0')
    host, is_dual = '' if is_any else host, is_any and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual or ':' in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port), family=family, dualstack_ipv6=is_dual, backlog=launch.count
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f'port {port} of this host is in use, by another program or a second process 0: '
                f'give all processes another --coordinator than {launch.coordinator}'
            ) from error
        raise UserError(
            f'process 0 cannot listen at port {port} of this host ({error.strerror}): give all '
            f'processes another --coordinator than {launch.coordinator}'
        ) from error


def _receive(launch: Launch, seconds: float) -> str:
    """Waits in process 0 for all others, and tells them to start, or why they do not."""
    visitors: dict[int, _Visitor] = {}
    try:
        with _listen(launch) as listener:
            _gather(launch, seconds, listener, visitors)
        address = _choose_address(visitor.connection for visitor in visitors.values())
        for visitor in visitors.values():
            with contextlib.suppress(OSError):  # JAX will notice that it has ended
                _send(visitor.connection, state='start', address=address)
        return address
    except BaseException as error:
        text = (
            str(error)
            if isinstance(error, UserError)
            else 'process 0 has ended before all had started'
        )
        for visitor in visitors.values():
            with contextlib.suppress(OSError):
                _send(visitor.connection, state='refused', error=text)
        raise
    finally:
        for visitor in visitors.values():
            visitor.connection.close()


class _Visitor:
    """A process that has come to process 0."""

    def __init__(self, connection: socket.socket, hello: dict[str, Any]) -> None:
        self.connection = connection
        self.index, self.count = int(hello['process']), int(hello['count'])
        if not 0 < self.index < self.count:
            raise ValueError(self.index)
        self.identity = str(hello['identity'])
        self.name = printing.printable(f'{hello["host"]}, process ID {hello["pid"]}')


def _gather(
    launch: Launch, seconds: float, listener: socket.socket, visitors: dict[int, _Visitor]
) -> None:
    """Adds all other processes to `visitors`, or raises a UserError."""
    deadline, notice = time.monotonic() + seconds, _Notice()
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while len(visitors) < launch.count - 1:
            missing = [str(i) for i in range(1, launch.count) if i not in visitors]
            notice.show(
                f'waiting for {len(missing)} of {launch.count} processes '
                f'({printing.list_names(missing)})'
            )
            if time.monotonic() > deadline:
                raise NotStarted(_describe_missing(launch, missing, seconds))
            ready = [key for key, _ in selector.select(timeout=_RETRY_SECONDS)]
            for key in ready:
                if key.fileobj is not listener:  # it has ended: only then can something be read
                    _drop(key.data.index, visitors, selector)
            if not any(key.fileobj is listener for key in ready):
                continue
            visitor = _admit(listener)
            if visitor is None:
                continue
            earlier = visitors.get(visitor.index)
            if earlier is not None and earlier.identity == visitor.identity:  # it tries again
                _drop(visitor.index, visitors, selector)
            _check(launch, visitor, visitors)
            selector.register(visitor.connection, selectors.EVENT_READ, visitor)


def _drop(index: int, visitors: dict[int, _Visitor], selector: selectors.BaseSelector) -> None:
    connection = visitors.pop(index).connection
    selector.unregister(connection)
    connection.close()


def _describe_missing(launch: Launch, missing: list[str], seconds: float) -> str:
    numbers = printing.list_names(missing)
    which = f'process {numbers}' if len(missing) == 1 else f'processes {numbers}'
    verb = 'has' if len(missing) == 1 else 'have'
    return (
        f'{which} of {launch.count} {verb} not started within {seconds:g} s: see the output there, '
        f'and whether {launch.coordinator} is an address of the host of process 0'
    )


def _admit(listener: socket.socket) -> _Visitor | None:
    """Takes a connection; returns None for a visitor that is none of this program's processes."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return None
    try:
        hello = _read(connection, _HELLO_SECONDS)
        if hello is not None:
            visitor = _Visitor(connection, hello)
            _send(connection, state='waiting')
            return visitor
    except (OSError, _Foreign, KeyError, TypeError, ValueError):
        pass
    connection.close()
    return None


def _check(launch: Launch, visitor: _Visitor, visitors: dict[int, _Visitor]) -> None:
    """Adds a process to those that have come, or raises a UserError, which all are told."""
    index, earlier = visitor.index, visitors.get(visitor.index)
    if earlier is None:
        visitors[index] = visitor
    else:
        visitors[-1] = visitor  # so that it is told, too
        raise UserError(
            f'two processes have the number {index} ({earlier.name}; {visitor.name}): give each '
            'its own --process'
        )
    if visitor.count != launch.count:
        raise UserError(
            f'process {index} was started as one of {visitor.count}, and process 0 as one of '
            f'{launch.count}: start all with the same number of processes'
        )


def _visit(launch: Launch, seconds: float) -> str:
    """Waits in another process for process 0, and then until process 0 says to start."""
    host, port = split_address(launch.coordinator)
    hello = {
        'process': launch.index,
        'count': launch.count,
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'identity': secrets.token_hex(8),  # process IDs may be the same in two containers
    }
    notice = _Notice()
    foreign_since: float | None = None
    begin = now = time.monotonic()
    while True:
        is_foreign = False
        rest = max(_RETRY_SECONDS, begin + seconds - now)
        try:
            # The limit is short because a packet to a host that is just starting can be lost.
            with socket.create_connection((host, port), timeout=min(5, rest)) as connection:
                address_of_first = _ask(connection, hello, min(_REPLY_SECONDS, rest), seconds)
                address = _choose_address([connection])
            _wait_for_service(launch)
            # The name of the host of process 0 may be a loopback address there.
            return address_of_first if _is_loopback(address) else address
        except socket.gaierror:
            problem = f'the name {host} is unknown'
        except TimeoutError:
            problem = 'a connection brings no answer'
        except _Foreign:
            problem, is_foreign = 'another program, or a group that has started, answers', True
        except OSError as error:
            problem = error.strerror or str(error)
        foreign_since = (foreign_since or now) if is_foreign else None
        now = time.monotonic()
        if foreign_since is not None and now - foreign_since > FOREIGN_SECONDS:
            raise NotStarted(_describe_no_answer(launch, FOREIGN_SECONDS, problem))
        if now - begin >= seconds:
            raise NotStarted(_describe_no_answer(launch, seconds, problem))
        notice.show(f'waiting for process 0 at {launch.coordinator} ({problem})')
        time.sleep(_RETRY_SECONDS)


def _describe_no_answer(launch: Launch, seconds: float, problem: str) -> str:
    return (
        f'no process 0 answers at {launch.coordinator} within {seconds:g} s: {problem}; see '
        'whether process 0 runs, and whether this is the address of its host and a port that is '
        'free there and open to this host'
    )


def _ask(
    connection: socket.socket, hello: dict[str, Any], reply_seconds: float, start_seconds: float
) -> str:
    """Tells process 0 the number of this process, and waits until it says to start.

    Args:
      connection: a connection to process 0.
      hello: what this process says of itself.
      reply_seconds: how long process 0 may take to answer.
      start_seconds: how long the other processes may take to come.

    Returns:
      The address by which the other processes reach process 0, when they may start.

    Raises:
      UserError: process 0 has told why the group does not start.
      ConnectionError: process 0 has ended; the text says when.
      TimeoutError: nothing has come within the time.
      _Foreign: another program has answered.
    """
    problem = 'the connection is closed at once'
    try:
        _send(connection, **hello)
        reply = _read(connection, reply_seconds)
        if reply is not None and reply['state'] == 'waiting':
            problem = 'process 0 has ended while it waited for the others'
            if not _has_reply(connection):
                printing.warn(f'waiting until all {hello["count"]} processes have started')
            # Process 0 says by itself when its own time is over.
            reply = _read(connection, start_seconds + _REPLY_SECONDS)
    except ConnectionError:
        reply = None
    if reply is None:
        raise ConnectionError(problem)
    if reply['state'] != 'start':
        raise UserError(str(reply['error']))
    return str(reply['address'])


def _has_reply(connection: socket.socket) -> bool:
    """Returns whether something comes within the time after which a user wants to know."""
    connection.settimeout(NOTICE_SECONDS)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    return True


def _wait_for_service(launch: Launch) -> None:
    """Waits until JAX's service listens in process 0.

    JAX would abort if it never did, and gRPC tries again only after a second.
    """
    deadline = time.monotonic() + _SERVICE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(split_address(launch.coordinator), timeout=1).close()
            return
        time.sleep(0.02)
    problem = 'it has ended when all processes had started'
    raise NotStarted(_describe_no_answer(launch, _SERVICE_SECONDS, problem))
