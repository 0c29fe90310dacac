"""A process that is cut off from the coordination service, whose calls then never return."""

import threading

import pytest

from alexnet_jax.processes import monitor
from alexnet_jax.processes.errors import EXIT_LOST_PROCESS, Failure

# SystemExit ends a thread here, in place of the process.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')


class BlockedKeys:
    """Answers some calls, and then none."""

    def __init__(self, answers):
        self._answers = answers
        self.repaired = threading.Event()

    def set(self, *_, **__):
        self._answers -= 1
        if self._answers < 0:
            self.repaired.wait()
            raise monitor.Unreachable
        return True

    def read(self, folder):
        return {}


@pytest.fixture
def codes(monkeypatch):
    """The exit codes with which the process would have ended."""
    ended = []

    def leave(code):
        ended.append(code)
        raise SystemExit  # ends the thread

    monkeypatch.setattr(monitor, '_exit', leave)
    monkeypatch.setattr(monitor, 'UNREACHABLE_SECONDS', 1.0)
    return ended


def watch(keys):
    watcher = monitor.Monitor(keys, index=1, count=2, hang_seconds=0)
    watcher.start()
    return watcher


def finish(keys, watcher):
    watcher._threads[1].join(10)
    assert not watcher._threads[1].is_alive()
    keys.repaired.set()
    watcher.close()


@pytest.mark.parametrize('answers', [0, 3])
def test_a_process_that_is_cut_off_ends_with_one_line(answers, codes, capsys):
    keys = BlockedKeys(answers)
    finish(keys, watch(keys))
    assert codes == [EXIT_LOST_PROCESS]
    (line,) = capsys.readouterr().err.splitlines()
    assert 'process 1 ends with process 0: it was killed or cannot be reached' in line


def test_a_process_that_fails_while_it_is_cut_off_says_why(codes, capsys):
    keys = BlockedKeys(1)
    watcher = watch(keys)
    failure = Failure(1, 'the disk is full', 2)
    end = threading.Thread(target=watcher.end_process, args=(failure,))
    end.start()
    finish(keys, watcher)
    assert codes[0] == 2
    assert 'process 1: the disk is full' in capsys.readouterr().err
    end.join()


def test_a_process_whose_calls_return_is_not_ended(codes):
    keys = BlockedKeys(10_000)
    watcher = watch(keys)
    watcher._threads[1].join(2.0)
    assert watcher._threads[1].is_alive()
    keys.repaired.set()
    watcher.close()
    assert codes == []
