"""The processes of a group meet, or each ends with one line; threads take the part of processes."""

import contextlib
import re
import socket
import socketserver
import threading
import time

import pytest

import groups
from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.starting import rendezvous
from alexnet_jax.runtime.user_errors import UserError


@pytest.fixture
def address():
    return f'localhost:{groups.free_port()}'


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    monkeypatch.setattr(rendezvous, 'NOTICE_SECONDS', 0.3)
    monkeypatch.setattr(rendezvous, 'FOREIGN_SECONDS', 0.6)
    monkeypatch.setattr(rendezvous, '_REPLY_SECONDS', 0.5)
    monkeypatch.setattr(rendezvous, '_RETRY_SECONDS', 0.02)


class Member(threading.Thread):
    """A process of a group: its result is '' or the line of its error, after some time."""

    def __init__(self, index, count, address, seconds=5.0):
        super().__init__(daemon=True)
        self.launch, self.limit = Launch(count, index, address, None, 'a test'), seconds
        self.line, self.seconds = 'still waiting', 0.0
        self.start()

    def run(self):
        begin = time.monotonic()
        try:
            self.address = rendezvous.meet(self.launch, self.limit)
            self.line = ''
        except UserError as error:
            self.line = str(error)
        self.seconds = time.monotonic() - begin


def ends(*members):
    """Waits for members; returns their lines."""
    for member in members:
        member.join(20)
    return [member.line for member in members]


@contextlib.contextmanager
def server(address, answer):
    """Another program that listens at an address; `answer` is called with each connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            answer(self.request)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    with Server(('localhost', int(address.rpartition(':')[2])), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield
        running.shutdown()


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0)])
def test_all_start_together_in_any_order(monkeypatch, address, order):
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    members = []
    for index in order:
        assert not any(member.line == '' for member in members)
        members.append(Member(index, 3, address))
        time.sleep(0.1)
    assert ends(*members) == ['', '', '']


def test_addresses_that_other_hosts_reach_are_chosen():
    """The coordinator's name may mean a loopback address on its own host."""

    class Connection:
        def __init__(self, address):
            self.getsockname = lambda: (address, 1)

    choose = rendezvous._choose_address
    assert choose(map(Connection, ['127.0.0.1', '::ffff:10.77.0.1'])) == '10.77.0.1'
    assert choose(map(Connection, ['::1', 'fd00::2', '127.0.0.1'])) == 'fd00::2'
    assert choose(map(Connection, ['127.0.1.1'])) == '127.0.1.1'


def test_a_process_on_the_host_of_process_0_has_the_same_address(monkeypatch, address):
    """Others reach it there, although it reaches process 0 by a loopback address."""
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)

    def answer(connection):
        rendezvous._read(connection, 1)
        rendezvous._send(connection, state='waiting')
        rendezvous._send(connection, state='start', address='10.77.0.1')

    with server(address, answer):
        member = Member(1, 3, address)
        assert ends(member) == ['']
    assert member.address == '10.77.0.1'


def test_a_group_meets_again_at_once_at_the_same_port(monkeypatch, address):
    """Connections in TIME_WAIT do not keep the port."""
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    for _ in range(3):
        assert ends(Member(0, 2, address), Member(1, 2, address)) == ['', '']


def test_a_missing_process_is_named_in_all_others(address):
    members = Member(0, 4, address, seconds=0.8), Member(1, 4, address, seconds=5)
    lines = ends(*members)
    assert lines[0].startswith('processes 2, 3 of 4 have not started within 0.8 s: ')
    assert lines[1] == lines[0]
    assert members[1].seconds < 2


def test_process_0_is_missing(address):
    member = Member(1, 2, address, seconds=0.5)
    (line,) = ends(member)
    start = f'process 0 has not answered at {address} within 0.5 s: Connection refused;'
    assert line.startswith(start)
    assert member.seconds < 1


def test_an_unknown_name_is_tried_until_it_is_known(monkeypatch, address):
    """In Kubernetes, names are known only when the pods of the others have started."""
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    connect = socket.create_connection
    names = iter(['unknown.invalid', 'unknown.invalid', 'localhost'])
    monkeypatch.setattr(
        socket, 'create_connection', lambda to, timeout: connect((next(names), to[1]), timeout)
    )
    assert ends(Member(0, 2, address), Member(1, 2, address)) == ['', '']


def test_an_unknown_name_is_said():
    (line,) = ends(Member(1, 2, 'unknown.invalid:61440', seconds=0.3))
    assert 'the name unknown.invalid is unknown' in line


@pytest.mark.parametrize('listener', ['another program', 'a second process 0', 'SO_REUSEPORT'])
def test_a_port_in_use_is_refused(address, listener):
    port = int(address.rpartition(':')[2])
    line = f'port {port} of this host is in use'
    if listener == 'a second process 0':
        first, second = Member(0, 2, address, seconds=1.0), Member(0, 2, address)
        lines = sorted(ends(first, second))
        assert lines[0].startswith(line)
        assert lines[1].startswith('process 1 of 2 has not started within')
        return
    with socket.socket() as other:
        if listener == 'SO_REUSEPORT':  # as the coordinator of another group
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(('', port))
        other.listen()
        member = Member(0, 2, address)
        assert ends(member)[0].startswith(line)
        assert member.seconds < 1


@pytest.mark.parametrize('counts', [(2, 3), (3, 2)])
def test_another_number_of_processes_is_refused_in_both(address, counts):
    members = [Member(index, count, address) for index, count in enumerate(counts)]
    expected = (
        f'process 1 was started as one of {counts[1]}, and process 0 as one of {counts[0]}: '
        'start all with the same number of processes'
    )
    assert ends(*members) == [expected, expected]
    assert max(member.seconds for member in members) < 1


def test_two_processes_with_one_number_are_refused_in_all(address):
    members = [Member(index, 4, address) for index in (0, 1, 2, 1)]
    lines = ends(*members)
    assert re.match(r'two processes have the number 1 \(.+, process ID \d+; .+\): ', lines[0])
    assert lines.count(lines[0]) >= 3  # number 2 may not have come when the others are refused
    assert members[0].seconds < 1


def http(connection):
    connection.recv(1000)
    connection.sendall(b'HTTP/1.1 400 Bad request\r\n\r\n')


def grpc(connection):
    connection.sendall(b'\0\0\x12\4\0\0\0\0\0\0\3\x7f\xff\xff\xff\0\4\0@\0\0\0\5\0@\0\0\n')


@pytest.mark.parametrize('answer', [http, grpc, lambda connection: connection.sendall(b'{}\n')])
def test_another_program_that_answers_is_refused_soon(address, answer):
    with server(address, answer):
        member = Member(1, 2, address, seconds=10)
        (line,) = ends(member)
    assert f'answered at {address} within 0.6 s: another program, or a group that has' in line
    assert member.seconds < 2


def test_a_program_that_never_answers_is_refused(address):
    with server(address, lambda connection: time.sleep(3)):
        member = Member(1, 2, address, seconds=1)
        (line,) = ends(member)
    assert f'process 0 has not answered at {address} within 1 s: there is no answer' in line
    assert member.seconds < 3


def test_a_group_that_ends_does_not_stop_the_next_one(monkeypatch, address):
    """After a restart, process 1 may reach what the last process 0 has left."""
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    monkeypatch.setattr(rendezvous, '_RETRY_SECONDS', 0.2)  # it sees no time without a listener
    with server(address, grpc):
        member = Member(1, 2, address)
        time.sleep(0.3)
        assert member.line == 'still waiting'
    assert ends(Member(0, 2, address), member) == ['', '']


def test_strangers_do_not_disturb(monkeypatch, address):
    """A port may be scanned, or probed by a load balancer."""
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    monkeypatch.setattr(rendezvous, '_HELLO_SECONDS', 0.1)
    first = Member(0, 2, address)
    time.sleep(0.1)
    host, _, port = address.partition(':')
    with contextlib.ExitStack() as strangers:
        for text in (b'', b'GET / HTTP/1.1\r\n\r\n', b'\xff\n', b'{"program": "alexnet_jax"}\n'):
            stranger = strangers.enter_context(socket.create_connection((host, int(port))))
            stranger.sendall(text)
        socket.create_connection((host, int(port))).close()
        assert ends(Member(1, 2, address), first) == ['', '']


def test_a_process_that_ended_while_it_waited_can_come_again(monkeypatch, address):
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    first = Member(0, 3, address)
    time.sleep(0.1)
    host, _, port = address.partition(':')
    with socket.create_connection((host, int(port))) as connection:
        rendezvous._send(connection, process=1, count=3, host='a', pid=1, identity='a')
        assert rendezvous._read(connection, 1)['state'] == 'waiting'
    time.sleep(0.1)
    assert ends(Member(1, 3, address), Member(2, 3, address), first) == ['', '', '']


def test_a_process_may_try_again_before_its_first_connection_is_seen_to_end(monkeypatch, address):
    """Process 0 may have been too slow to answer in time."""
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    first = Member(0, 3, address)
    time.sleep(0.1)
    host, _, port = address.partition(':')
    hello = {'process': 1, 'count': 3, 'host': 'a', 'pid': 1, 'identity': 'the same'}
    with contextlib.ExitStack() as attempts:
        for _ in range(2):
            connection = attempts.enter_context(socket.create_connection((host, int(port))))
            rendezvous._send(connection, **hello)
            assert rendezvous._read(connection, 1)['state'] == 'waiting'
        assert ends(Member(2, 3, address), first) == ['', '']
        assert rendezvous._read(connection, 1)['state'] == 'start'


def test_a_process_that_waits_long_says_what_it_waits_for(capsys, address):
    ends(Member(0, 3, address, 0.8), Member(1, 3, address, 0.8))
    ends(Member(2, 3, address, 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == [
        f'alexnet_jax: waiting for process 0 at {address} (Connection refused)',
        'alexnet_jax: waiting for process 2 of 3',
        'alexnet_jax: waiting until all 3 processes have started',
    ]


def test_process_0_listens_where_jax_will(monkeypatch, address):
    """The address may differ from the one that the others use, behind a load balancer."""
    monkeypatch.setattr(rendezvous, '_wait_for_service', lambda launch: None)
    monkeypatch.setenv('JAX_COORDINATOR_BIND_ADDRESS', address.replace('localhost', '127.0.0.1'))
    assert ends(Member(0, 2, 'elsewhere.invalid:1'), Member(1, 2, address)) == ['', '']
    monkeypatch.setenv('JAX_COORDINATOR_BIND_ADDRESS', 'everywhere')
    (line,) = ends(Member(0, 2, address))
    assert line.startswith('JAX_COORDINATOR_BIND_ADDRESS=everywhere is not HOST:PORT')


def test_process_0_ends_when_all_have_met(monkeypatch, address):
    monkeypatch.setattr(rendezvous, '_SERVICE_SECONDS', 0.3)
    lines = ends(Member(0, 2, address), Member(1, 2, address))
    assert lines[0] == ''
    assert 'it ended after all processes had started' in lines[1]


def test_ctrl_c_in_process_0_ends_the_others(monkeypatch, address):
    def interrupt(*_):
        time.sleep(0.3)
        raise KeyboardInterrupt

    monkeypatch.setattr(rendezvous, '_describe_missing', interrupt)
    member = Member(1, 3, address)
    with pytest.raises(KeyboardInterrupt):
        rendezvous.meet(Launch(3, 0, address, None, 'a test'), 0.5)
    assert ends(member) == ['process 0 has ended before all had started']
