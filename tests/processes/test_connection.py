"""Two real processes connect by JAX, with proxies in the environment, and again at once."""

import os
import re
import socket
import subprocess
import sys

import pytest

import groups
import nets
from alexnet_jax.processes import connection
from alexnet_jax.processes.launch import Launch

PROGRAM = """
import sys
from alexnet_jax.processes import connection
from alexnet_jax.processes.launch import Launch
from alexnet_jax.runtime.user_errors import report_user_errors

index, address, expected, seconds = sys.argv[1:]
launch = Launch(2, int(index), address, None, 'a test')
with report_user_errors():
    client = connection.connect(launch, float(seconds))
    import jax, signal
    client.key_value_set(f'from {index}', index)
    other = 1 - int(index)
    print(client.blocking_key_value_get(f'from {other}', 10_000))
    print(jax.process_index(), jax.process_count(), jax.device_count(), jax.local_device_count())
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    try:
        connection.connect(launch, 1)
    except RuntimeError as error:
        print(error)
    jax.distributed.shutdown()
"""


def free_address():
    return f'{socket.gethostname()}:{groups.free_port()}'


def start(index, address, seconds=60.0, **environment):
    return subprocess.Popen(
        [sys.executable, '-c', PROGRAM, str(index), address, '2', str(seconds)],
        cwd=nets.ROOT,
        env={**os.environ, 'JAX_NUM_CPU_DEVICES': '1', **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.groups
def test_two_processes_connect_and_again_at_once_at_the_same_port():
    """A proxy that does not answer would make gRPC abort both."""
    address = free_address()
    nowhere = 'http://127.0.0.1:9'
    proxies = {'http_proxy': nowhere, 'grpc_proxy': nowhere}
    for exceptions in ({'no_proxy': 'elsewhere'}, {'no_grpc_proxy': 'elsewhere'}):
        processes = [start(index, address, **proxies, **exceptions) for index in range(2)]
        for index, process in enumerate(processes):
            out, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (0, '')
            assert out.splitlines() == [
                str(1 - index),
                f'{index} 2 2 1',
                'True',  # no handler of JAX's for SIGTERM
                'this process is already connected: connect() is called once',
            ]


@pytest.mark.slow
@pytest.mark.groups
def test_a_process_that_is_alone_ends_with_one_line():
    process = start(0, free_address(), seconds=1)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, '')
    assert re.fullmatch(r'alexnet_jax: process 1 of 2 has not started within 1 s: .*\n', err)


def test_devices_that_are_in_use_are_refused():
    """The tests have used devices; this must be said before processes wait for each other."""
    with pytest.raises(RuntimeError, match='comes before the first use of a device'):
        connection.connect(Launch(2, 1, 'localhost:1', None, 'a test'), 1)


PROXY_VARIABLES = ('grpc_proxy', 'https_proxy', 'http_proxy', 'no_proxy', 'no_grpc_proxy')


@pytest.mark.parametrize(
    ('before', 'added'),
    [
        ({}, {}),
        ({'no_proxy': 'a'}, {}),
        ({'http_proxy': 'p'}, {'no_proxy': 'node01'}),
        ({'https_proxy': 'p', 'no_proxy': 'a,b'}, {'no_proxy': 'a,b,node01'}),
        (
            {'grpc_proxy': 'p', 'no_grpc_proxy': 'a', 'no_proxy': 'b'},
            {'no_grpc_proxy': 'a,node01'},
        ),
    ],
)
def test_the_coordinator_is_excluded_from_proxies(monkeypatch, before, added):
    for name in PROXY_VARIABLES:
        monkeypatch.setenv(name, '')  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    connection._bypass_proxies(Launch(2, 0, 'node01:61440', None, 'a test'))
    after = {name: os.environ[name] for name in PROXY_VARIABLES if name in os.environ}
    assert after == before | added


def test_the_description_is_one_line():
    launch = Launch(4, 0, 'node01:61452', None, 'a Slurm step of 4 tasks on 2 nodes')
    line = 'process 0 of 4 (a Slurm step of 4 tasks on 2 nodes), coordinator node01:61452'
    assert connection.describe(launch) == line
    assert connection.describe(launch._replace(local_devices=(0, 1))) == f'{line}, GPUs 0, 1'
