import dataclasses
import errno
import os
import signal
import threading
import time

import pytest

import tars
from alexnet_jax.data import child_processes
from alexnet_jax.data.preparation import shards, workers
from alexnet_jax.data.preparation.own_images.class_folders import list_images
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.runtime.signals import Stopped, StopSignal
from alexnet_jax.runtime.user_errors import UserError


class Faulty(Storage):
    """A storage that meets an error of another kind than a bad image."""

    def convert(self, data, upright):
        raise TypeError('of the program')


class Probing(Storage):
    """A storage that reports the environment of the process."""

    def convert(self, data, upright):
        names = ('RAYON_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS')
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        raise UserError(' '.join(str(os.environ.get(name)) for name in names) + f' {blocked}')


class Killing(Storage):
    """A storage whose process is killed, as for lack of memory."""

    def convert(self, data, upright):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def make_shards(tmp_path):
    """Returns a function that makes the two shards of a folder of 40 images."""

    def make(storage):
        catalogue = list_images(tars.class_folders(tmp_path / 'pets'))
        folder = tmp_path / 'set'
        (folder / shards.SUMMARIES).mkdir(parents=True)
        return shards.divide(catalogue, storage, folder, skip_bad=False)

    return make


def write(jobs, processes=1, report=lambda _: None):
    workers.write_shards(jobs, processes, report)


def test_a_signal_stops_the_work_and_keeps_complete_shards(make_shards):
    jobs = make_shards(Storage(size=16))
    first = len(jobs[0].names)

    def report(images):
        if images == first + 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with StopSignal(), pytest.raises(Stopped):
        write(jobs, report=report)
    assert shards.Summary.load(jobs[0]) is not None
    assert shards.Summary.load(jobs[1]) is None
    assert list(jobs[0].path.parent.glob('*record-*')) == [jobs[0].path]
    assert not list(jobs[0].path.parent.glob('.*record-*'))  # no incomplete file
    write(jobs[1:])
    assert shards.Summary.load(jobs[1]) is not None


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (MemoryError(), 'Cannot allocate memory.*--workers'),
        (OSError(errno.EIO, 'Input/output error'), 'Input/output error.*the data may be intact'),
    ],
)
def test_trouble_of_the_system_is_one_line(make_shards, monkeypatch, error, message):
    jobs = make_shards(Storage(size=16))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Storage, 'convert', fail)
    with pytest.raises(UserError, match=message):
        write(jobs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('storage', 'message'),
    [
        (Faulty(size=16), r'a worker process failed \(TypeError: of the program\)'),
        (Probing(size=16), '^1 1 1 1 True$'),
        (Killing(size=16), 'a worker process was killed'),
    ],
)
def test_a_worker_that_fails_is_one_line(make_shards, storage, message):
    """The second storage shows that a worker computes in one thread and ignores Ctrl-C."""
    environment = dict(os.environ)
    with pytest.raises(UserError, match=message):
        write(make_shards(storage), processes=2)
    assert dict(os.environ) == environment
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.slow
def test_a_signal_stops_worker_processes(make_shards):
    jobs = make_shards(Storage(size=16))
    reports = []

    def report(images):
        reports.append(images)
        if len(reports) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with StopSignal(), pytest.raises(Stopped):
        write([*jobs, *_more(jobs)], processes=2, report=report)
    assert len(reports) == 1


def _more(jobs):
    """Returns the same shards under other names."""
    for number in range(4):
        for job in jobs:
            yield dataclasses.replace(job, path=job.path.with_name(f'{number}-{job.path.name}'))


@pytest.fixture
def _ctrl_c():
    """Handles Ctrl-C as Python does, also where the tests were started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('_ctrl_c')
def test_a_ctrl_c_within_the_start_of_workers_is_not_lost():
    environment = dict(os.environ)
    with pytest.raises(KeyboardInterrupt), child_processes.worker_environment():
        os.kill(os.getpid(), signal.SIGINT)
    assert dict(os.environ) == environment


@pytest.mark.usefixtures('_ctrl_c')
def test_a_ctrl_c_that_another_thread_receives_waits_for_the_start_of_workers():
    """The system hands a signal to any thread that does not block it."""
    environment, end, steps = dict(os.environ), threading.Event(), []
    thread = threading.Thread(target=end.wait)
    thread.start()

    def start_workers():
        with child_processes.worker_environment():
            signal.pthread_kill(thread.ident, signal.SIGINT)
            time.sleep(0.1)
            steps.append('all workers are started')

    try:
        with pytest.raises(KeyboardInterrupt):
            start_workers()
    finally:
        end.set()
        thread.join()
    assert steps
    assert dict(os.environ) == environment


@pytest.mark.usefixtures('_ctrl_c')
def test_one_ctrl_c_within_the_start_of_workers_is_one_for_the_program():
    """A second one would end the program at once, without saving."""
    with StopSignal() as stop:
        with child_processes.worker_environment():
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(StopSignal.SECONDS_TO_LEAVE + 0.2)
        assert stop.signal == 'SIGINT'
