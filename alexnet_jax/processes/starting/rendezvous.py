"""The rendezvous of a group: process 0 waits for all others, before JAX connects them.

JAX alone is not enough (measured with 0.10.2 and 0.12): if a process is missing, if two have the
same number, or if something else listens at the address, the processes abort with exit code 134 and
a stack trace after twice the time limit; a process whose number is too high aborts; and two
coordinators at one port both start, because gRPC sets SO_REUSEPORT.

Therefore process 0 first listens at the coordinator's port itself. Each of the others connects and
sends its number in one line of JSON. Process 0 answers that it is waiting and, once all have
connected, that JAX may start, or what is wrong. These connections also show by which address the
other processes reach each host.
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

from alexnet_jax.processes.errors import NotStarted, name_processes
from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.starting.launchers import split_address
from alexnet_jax.runtime import printing
from alexnet_jax.runtime.user_errors import UserError

FOREIGN_SECONDS = 30.0  # for which something else may answer, such as a group that is just ending
NOTICE_SECONDS = 5.0  # after which the user is told what a process waits for
_REPLY_SECONDS = 5.0  # within which process 0 answers a line
_SERVICE_SECONDS = 30.0  # within which JAX's service listens, once all have connected
_HELLO_SECONDS = 2.0  # within which a process that has connected sends its number
_RETRY_SECONDS = 0.25  # between two attempts to connect
_LONGEST_LINE = 4096  # bytes
_PROGRAM = 'alexnet_jax'


def meet(launch: Launch, seconds: float) -> str:
    """Waits until all processes of a group have started.

    Args:
      launch: the place of this process.
      seconds: how long this process waits.

    Returns:
      The numerical address by which the other processes reach this one: a loopback address if all
      are on one host.

    Raises:
      NotStarted: a process has not started within that time.
      UserError: a process does not belong to this group, or this one cannot listen.
    """
    return _receive(launch, seconds) if launch.index == 0 else _visit(launch, seconds)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _choose_address(connections: Iterable[socket.socket]) -> str:
    """Returns the address at which connections from other hosts arrive, or else any of them."""
    addresses = [connection.getsockname()[0] for connection in connections] or ['127.0.0.1']
    addresses = [address.removeprefix('::ffff:') for address in addresses]  # IPv4 in IPv6
    return min(addresses, key=_is_loopback)


class _Foreign(Exception):
    """The other end of a connection is not a process of this program."""


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

    Connections of an earlier run in TIME_WAIT do not prevent this, as SO_REUSEADDR is set.
    """
    name = 'JAX_COORDINATOR_BIND_ADDRESS'
    address = os.environ.get(name) or f'[::]:{split_address(launch.coordinator)[1]}'
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise UserError(f'{name}={address} is not HOST:PORT: correct or unset it') from error
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
    """Waits in process 0 for all others, and tells them to start, or why they cannot."""
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
    """A process that has connected to process 0."""

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
    deadline, notice = time.monotonic() + seconds, printing.LateNotice(NOTICE_SECONDS)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while len(visitors) < launch.count - 1:
            missing = [i for i in range(1, launch.count) if i not in visitors]
            notice.show(f'waiting for {name_processes(missing)} of {launch.count}')
            if time.monotonic() > deadline:
                raise NotStarted(_describe_missing(launch, missing, seconds))
            ready = [key for key, _ in selector.select(timeout=_RETRY_SECONDS)]
            for key in ready:
                if key.fileobj is not listener:  # it has ended: only then is this readable
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


def _describe_missing(launch: Launch, missing: list[int], seconds: float) -> str:
    verb = 'has' if len(missing) == 1 else 'have'
    return (
        f'{name_processes(missing)} of {launch.count} {verb} not started within {seconds:g} s: '
        f'check the output there, and whether {launch.coordinator} is an address of the host of '
        'process 0'
    )


def _admit(listener: socket.socket) -> _Visitor | None:
    """Accepts a connection; returns None if its other end is not a process of this program."""
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
    """Adds a process to those that have connected, or raises a UserError, which is sent to all."""
    index, earlier = visitor.index, visitors.get(visitor.index)
    if earlier is None:
        visitors[index] = visitor
    else:
        visitors[-1] = visitor  # so that it gets the error, too
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
    """Connects to process 0 from another process, and waits until process 0 says to start."""
    host, port = split_address(launch.coordinator)
    hello = {
        'process': launch.index,
        'count': launch.count,
        'host': socket.gethostname(),
        'pid': os.getpid(),
        'identity': secrets.token_hex(8),  # process IDs may be the same in two containers
    }
    notice = printing.LateNotice(NOTICE_SECONDS)
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
            problem = 'there is no answer'
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
        f'process 0 has not answered at {launch.coordinator} within {seconds:g} s: {problem}; '
        'check whether process 0 runs, and whether this is the address of its host and a port that '
        'is free there and open to this host'
    )


def _ask(
    connection: socket.socket, hello: dict[str, Any], reply_seconds: float, start_seconds: float
) -> str:
    """Sends the number of this process to process 0, and waits until it says to start.

    Args:
      connection: a connection to process 0.
      hello: the description of this process.
      reply_seconds: how long process 0 may take to answer.
      start_seconds: how long the other processes may take to start.

    Returns:
      The address by which the other processes reach process 0, when they may start.

    Raises:
      UserError: process 0 has said why the group cannot start.
      ConnectionError: process 0 has ended; the text says when.
      TimeoutError: there was no answer within the time.
      _Foreign: another program has answered.
    """
    problem = 'it closes the connection at once'
    try:
        _send(connection, **hello)
        reply = _read(connection, reply_seconds)
        if reply is not None and reply['state'] == 'waiting':
            problem = 'process 0 has ended while it waited for the others'
            if not _has_reply(connection):
                printing.warn(f'waiting until all {hello["count"]} processes have started')
            # Process 0 itself says when its own time is over.
            reply = _read(connection, start_seconds + _REPLY_SECONDS)
    except ConnectionError:
        reply = None
    if reply is None:
        raise ConnectionError(problem)
    if reply['state'] != 'start':
        raise UserError(str(reply['error']))
    return str(reply['address'])


def _has_reply(connection: socket.socket) -> bool:
    """Returns whether something arrives within NOTICE_SECONDS."""
    connection.settimeout(NOTICE_SECONDS)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    return True


def _wait_for_service(launch: Launch) -> None:
    """Waits until JAX's service listens in process 0.

    JAX would abort if it never did, and gRPC retries only after a second.
    """
    deadline = time.monotonic() + _SERVICE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(split_address(launch.coordinator), timeout=1).close()
            return
        time.sleep(0.02)
    problem = 'it ended after all processes had started'
    raise NotStarted(_describe_no_answer(launch, _SERVICE_SECONDS, problem))
