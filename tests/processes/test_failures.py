"""How a failure of one process is described to all, and what watches over that."""

import pytest
from fake_keys import Keys

from alexnet_jax.processes import monitor as monitors
from alexnet_jax.processes.errors import EXIT_LOST_PROCESS, Failure, OtherFailed
from alexnet_jax.processes.group import Group
from alexnet_jax.processes.keys import Unreachable
from alexnet_jax.processes.monitor import Monitor
from alexnet_jax.training.checkpoint import Checkpoints, folders


def test_a_main_thread_that_cannot_reach_process_0_ends_with_the_code_of_a_lost_process():
    """It may notice this before XLA does; launchers start the group again."""
    failure = Failure.of(Unreachable('UNAVAILABLE: connection reset'), 1)
    assert (failure.process, failure.code) == (0, EXIT_LOST_PROCESS)
    assert failure.told_by(1).startswith('process 1 ends with process 0: it was killed')


def test_an_error_that_all_have_agreed_on_names_its_process():
    failure = Failure.of(OtherFailed(1, 'image 7 is damaged'), 0)
    assert failure == Failure(1, 'image 7 is damaged', 2)
    assert failure.told_by(0) == 'process 0 ends with process 1: image 7 is damaged'


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_fault_of_the_monitor_ends_the_process(monkeypatch, capfd):
    """Without this thread nobody would notice that another process is gone."""
    failures = []

    class Ended(BaseException):
        pass

    def end(self, failure):
        failures.append(failure)
        raise Ended

    def fail(self):
        raise ZeroDivisionError('a fault')

    monkeypatch.setattr(Monitor, '_end_by_thread', end)
    monkeypatch.setattr(Monitor, '_poll', fail)
    monkeypatch.setattr(monitors, 'POLL_SECONDS', 0.01)
    monitor = Monitor(Keys(), 1, 2, 0)
    monitor.start()
    monitor.close()
    assert failures == [Failure(1, 'ZeroDivisionError: a fault', 1)]
    assert 'Traceback' in capfd.readouterr().err


class Second(Group):
    """Process 1 of a group whose process 0 has shown it a file."""

    count, index = 2, 1

    def broadcast(self, action, compute):
        return 'file'

    def gather(self, name, value, seconds=0.0):
        return [True, value]


def test_each_process_checks_that_it_can_write_checkpoints(tmp_path, monkeypatch):
    """Otherwise a process with a read-only mount would end the group at the first save."""
    (tmp_path / 'file').touch()
    checked = []
    monkeypatch.setattr(folders, 'check_writable', lambda *arguments: checked.append(arguments))
    folders.check_shared(tmp_path, Second())
    assert checked == [(tmp_path, '--workdir')]


def test_the_next_start_removes_the_file_that_tells_whether_a_folder_is_shared(tmp_path):
    (tmp_path / '.shared_0123').touch()
    with Checkpoints(tmp_path, keep=1):
        assert not (tmp_path / '.shared_0123').exists()
