"""Processes act on signals, errors and times to save after one common turn; threads play them."""

import contextlib
import random
import threading
import time

import pytest
from fake_keys import Keys

from alexnet_jax.processes import turns
from alexnet_jax.processes.agreement import Notices, SharedAgreement
from alexnet_jax.processes.group import Group
from alexnet_jax.processes.keys import Unreachable
from alexnet_jax.runtime.user_errors import UserError

SECONDS = 10.0  # after which the threads have hung


class Stop:
    """A StopSignal without signals."""

    signal = ''


class Processes:
    """Processes that make turns; each has a main thread and the thread of a monitor.

    Args:
      count: the number of processes.
      ahead: the turns that a process can end before the others end theirs, as collectives allow.
      seed: of all moments.
    """

    def __init__(self, count, ahead, seed):
        self.count, self._ahead, self._rng = count, ahead, random.Random(seed)
        self.stops = [Stop() for _ in range(count)]
        keys = Keys(count, random.Random(seed))
        self.agreements = [
            SharedAgreement(self.stops[i], keys, i, count, lambda: None) for i in range(count)
        ]
        self._keys, self._over = keys, threading.Event()
        self._moved = threading.Condition()
        self.begun = [0] * count  # turns, by process
        self.actions = [[] for _ in range(count)]  # (turn, notices), by process

    def _nap(self):
        time.sleep(self._rng.choice([0, 0, 0.0002, 0.001]))

    def _monitor(self, agreement):
        while not self._over.is_set():
            with contextlib.suppress(Unreachable):
                events = self._keys.read('events/')
                self._nap()
                agreement.poll(events)
            self._nap()

    def _main(self, process, requests, limit):
        agreement = self.agreements[process]
        for turn in range(1, limit + 1):
            with self._moved:
                self.begun[process] = turn
                self._moved.notify_all()
                is_allowed = self._moved.wait_for(
                    lambda turn=turn: min(self.begun) >= turn - self._ahead, SECONDS
                )
            assert is_allowed, f'process {process} waits in turn {turn}'
            self._nap()
            wait = False
            for action in requests.get((process, turn), []):
                wait |= action(self, process)
            notices = agreement.next_turn(wait)
            if notices:
                self.actions[process].append((turn, notices))
            if notices.signal or notices.error:
                return

    def run(self, requests, limit=400):
        """Makes turns until a signal or an error, with requests by process and turn."""
        monitors = [threading.Thread(target=self._monitor, args=(a,)) for a in self.agreements]
        mains = [
            threading.Thread(target=self._main, args=(i, requests, limit), daemon=True)
            for i in range(self.count)
        ]
        for thread in monitors + mains:
            thread.start()
        for thread in mains:
            thread.join(SECONDS)
        self._over.set()
        for thread in monitors:
            thread.join()
        assert not any(thread.is_alive() for thread in mains)


def save(processes, process):
    processes.agreements[process].request_save()
    return False


def stop(processes, process):
    processes.stops[process].signal = 'SIGTERM'
    return False


def fail(processes, process):
    processes.agreements[process].report_error(f'process {process} fails')
    return True


@pytest.mark.parametrize('seed', range(40))
def test_all_act_after_the_same_turns_whatever_the_interleaving(seed):
    """No request is lost, nobody makes a turn beyond the common one, and keys do not pile up."""
    rng = random.Random(seed)
    count, ahead = rng.choice([2, 2, 3, 5]), rng.choice([0, 1, 4])
    processes, requests = Processes(count, ahead, seed), {}
    for _ in range(rng.randint(0, 4)):
        requests.setdefault((rng.randrange(count), rng.randint(1, 30)), []).append(save)
    saves = max([turn for _, turn in requests], default=0)
    last = [
        (rng.randrange(count), rng.randint(max(1, saves), 40)) for _ in range(rng.randint(1, 3))
    ]
    for moment in last:
        requests.setdefault(moment, []).append(rng.choice([stop, fail]))
    processes.run(requests)
    first, *others = processes.actions
    assert all(actions == first for actions in others)
    turn, final = first[-1]
    assert final.signal == 'SIGTERM' or final.error
    assert processes.begun == [turn] * count
    assert not any(notices.signal or notices.error for _, notices in first[:-1])
    saves = [turn for turn, notices in first if notices.save]
    for (process, turn), actions in requests.items():
        if save in actions:  # it is acted on, or on its way when the run stops, which saves, too
            agreement = processes.agreements[process]
            is_under_way = agreement._save or agreement._answer or agreement._agreed
            assert is_under_way or any(later >= turn for later in saves)


def test_a_process_that_waits_makes_no_turn_before_all_know():
    """It lacks the images for more turns, and the others need time to learn of that."""
    agreements_of, keys = [], Keys()
    for process in range(2):
        agreements_of.append(SharedAgreement(Stop(), keys, process, 2, lambda: None))
    failing, other = agreements_of
    for _ in range(3):
        other.next_turn()
    failing.report_error('no image')
    results = []
    thread = threading.Thread(target=lambda: results.append(failing.next_turn(wait=True)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert failing.turns == 0
    while thread.is_alive():
        for agreement in agreements_of:
            agreement.poll(keys.read('events/'))
    assert results == [Notices()]
    error = Notices(error='no image', process=0)
    assert [failing.next_turn() for _ in range(3)] == [Notices(), Notices(), error]
    assert other.next_turn() == error


class TwoProcesses(Group):
    """A group whose other process has no error."""

    count = 2

    def gather(self, name, value, seconds=0.0):
        return [value, ['', '']]


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(turns.group, 'current', TwoProcesses)


def broken(good):
    """Yields some items, and then fails."""
    yield from range(good)
    raise UserError('image 7 is damaged')


@pytest.mark.usefixtures('two_processes')
def test_an_error_of_the_first_items_is_raised_by_all_before_the_first_turn():
    """After a turn the others would already wait for this process, which lacks an item."""
    for good in range(3):
        loop = turns.Turns(Stop())
        items = loop.read_ahead(broken(good), 0)
        with pytest.raises(UserError, match='image 7 is damaged'):
            loop.check_first('images', items, 1.0)
        assert loop.concerns_all
    loop = turns.Turns(Stop())
    items = loop.read_ahead(broken(3), 0)
    loop.check_first('images', items, 1.0)
    assert [items.take() for _ in range(4)] == [0, 1, 2, None]
    assert str(items.error) == 'image 7 is damaged'


@pytest.mark.usefixtures('two_processes')
def test_items_that_end_after_a_signal_are_no_error_but_must_be_waited_for():
    """Ctrl-C on a terminal also ends the processes that read."""
    stop_signal = Stop()
    items = turns.Turns(stop_signal).read_ahead(broken(9), 0)
    assert items.take() == 0
    stop_signal.signal = 'SIGINT'
    assert [items.take() for _ in range(9)] == [1, 2, 3, 4, 5, 6, 7, 8, None]
    loop = turns.Turns(stop_signal)
    loop.end(items)
    assert loop.signal == 'SIGINT'
    assert not loop.concerns_all
