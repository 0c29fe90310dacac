"""The calls of several processes, over keys in memory; threads play the processes."""

import threading
import time

import pytest
from fake_keys import Keys

from alexnet_jax.processes import several
from alexnet_jax.processes.several import Several
from alexnet_jax.runtime import signals


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    monkeypatch.setattr(several, '_SECONDS_BEFORE_MESSAGE', 0.05)
    monkeypatch.setattr(several, '_SECONDS_OF_A_WAIT', 0.02)
    monkeypatch.setattr(several, '_SECONDS_BETWEEN_LOOKS', 0.01)


def play(count, function, keys):
    """Calls a function of a group in each process; returns the results or errors in their order."""
    results = [None] * count

    def run(process):
        try:
            results[process] = function(Several(keys, process, count, None))
        except Exception as error:
            results[process] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_process_0_is_first_and_all_wait_for_the_last(capfd):
    """Hosts with their own disks may all prepare the data set; nobody goes on before the last."""
    keys, begun, ended, returned = Keys(3), [], [], []

    def prepare(group):
        begun.append((group.index, list(ended)))
        time.sleep(0.2)
        ended.append(group.index)

    def function(group):
        group.first_before_others('prepares the data set', lambda: prepare(group))
        returned.append(set(ended))
        group.barrier('next')
        return keys.names

    left = play(3, function, keys)
    assert begun[0] == (0, [])
    assert all(before[0] == 0 for _, before in begun[1:])
    assert returned == [{0, 1, 2}] * 3
    assert not any(name.startswith(('done/', 'broadcast/')) for name in left[0])
    lines = capfd.readouterr().err.splitlines()
    assert 'alexnet_jax: waiting for process 0, which prepares the data set' in lines
    assert (
        'alexnet_jax: waiting for process 1, which prepares the data set, and for 1 more' in lines
    )


def test_a_signal_ends_the_wait_for_another_process(monkeypatch):
    """Otherwise a process that waits for hours would be killed before the others learn of it."""

    class Active:
        signal = ''

    monkeypatch.setattr(signals.StopSignal, '_active', Active)

    def function(group):
        group.first_before_others('prepares', lambda: group.index or time.sleep(0.5))

    threading.Timer(0.1, setattr, (Active, 'signal', 'SIGTERM')).start()
    errors = play(2, function, Keys(2))
    assert [str(error) for error in errors] == ['SIGTERM'] * 2
    assert all(isinstance(error, signals.Stopped) for error in errors)
