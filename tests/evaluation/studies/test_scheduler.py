"""The scheduler of a study, with stubs in place of the runs of training."""

import contextlib
import os
import signal
import sys
import threading
import time

import pytest

import nets
from alexnet_jax.evaluation.studies.ablation_study import (
    ablation_rows,
    ablation_table,
    ablation_text,
)
from alexnet_jax.evaluation.studies.scheduler import seconds_left, train
from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.evaluation.studies.workers import Worker
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir

WORKERS = [Worker(1), Worker(2)]

# A run that writes its last evaluation; and one that saves when a signal arrives.
ENDS = 'open("metrics.jsonl", "w").write(\'{"step": 1, "eval/top1_error": 0.25}\\n\')'
SAVES = """
import signal
def save(*_): open("saved", "w"); sys.exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
open("ready", "w")
time.sleep(60)
"""
REFUSES_TO_END = """
import signal
for name in ("SIGTERM", "SIGINT"): signal.signal(getattr(signal, name), signal.SIG_IGN)
open("ready", "w")
time.sleep(60)
"""
DIVERGES = """
open('diverged.txt', 'w').write('the loss is nan at step 3\\n')
sys.exit('alexnet_jax: the loss is nan at step 3, and nothing was saved yet')
"""
FAILS = 'sys.exit("alexnet_jax: the disk is full")'


def wait_for(*files):
    return f'while not all(map(os.path.exists, {[str(file) for file in files]})): time.sleep(0.01)'


class StubStudy(Study):
    """Two seeds of the base and of lrn; a run executes its source, or else ENDS."""

    def __init__(self, folder, **sources):
        self.raw = nets.load('digits')
        super().__init__(ablation_rows(self.raw, ['lrn'])[0], 2, folder)
        self.sources = {name.replace('_', '-'): source for name, source in sources.items()}
        for name, seed in self.runs():
            with Workdir(self.folder(name, seed)).claim(self.config(name, seed), nets.mesh_of(2)):
                pass

    def command(self, name, seed):
        folder = self.folder(name, seed)
        source = self.sources.get(folder.name, ENDS)
        start = f'import os, sys, time; os.chdir({str(folder)!r})\n'
        return [sys.executable, '-S', '-c', start + source]

    def ended(self):
        return {run for run in self.runs() if self.result(*run)}


@contextlib.contextmanager
def signals_when_ready(*files, names=('SIGTERM',)):
    """Sends signals to this process, a tenth of a second apart, when these files exist."""

    def send():
        while not all(file.exists() for file in files):
            time.sleep(0.01)
        for name in names:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


def test_as_many_runs_as_workers_are_trained_at_once(tmp_path, capsys):
    """A slow run, here one that waits for the others, does not hold them up."""
    others = [tmp_path / name / 'result.json' for name in ('lrn-0', 'base-1', 'lrn-1')]
    study = StubStudy(tmp_path, base_0=f'{wait_for(*others)}\n{ENDS}')
    assert list(train(study, WORKERS)) == [
        ('lrn', 0),
        ('base', 1),
        ('lrn', 1),
        ('base', 0),
    ]
    assert study.ended() == set(study.runs())
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        '[1/4] base, seed 0: worker 1 (all cores)',
        '[2/4] lrn, seed 0: worker 2 (all cores)',
    ]
    ends = '[2/4] lrn, seed 0: 25.00% top-1 error, worker 2 (all cores), 0:0'
    assert lines[2].startswith(ends)
    assert lines[2].endswith(' left')
    assert lines[3].startswith('[3/4] base, seed 1: worker 2 (all cores), 0:0')
    assert lines[-1] == '[1/4] base, seed 0: 25.00% top-1 error, worker 1 (all cores)'


def test_a_signal_stops_and_saves_all_runs_and_the_study_resumes(tmp_path, capfd):
    study = StubStudy(tmp_path, lrn_0=SAVES, base_1=SAVES)
    ready = [tmp_path / name / 'ready' for name in ('lrn-0', 'base-1')]
    with signals_when_ready(*ready), pytest.raises(SystemExit) as stopped:
        list(train(study, WORKERS))
    assert stopped.value.code == 75
    assert all((file.parent / 'saved').exists() for file in ready)
    assert study.ended() == {('base', 0)}
    out, err = capfd.readouterr()
    assert out.endswith('stopped and saved: the same command resumes\n')
    assert 'stopping (SIGTERM) when all runs in progress have saved' in err
    study.sources = {}
    assert sorted(train(study, WORKERS)) == [('base', 1), ('lrn', 0), ('lrn', 1)]


def test_a_run_that_ends_after_a_signal_keeps_its_result(tmp_path):
    source = 'import signal; signal.signal(signal.SIGTERM, lambda *_: None)\nopen("ready", "w")\n'
    ends_later = f'{source}{wait_for(tmp_path / "lrn-0" / "saved")}\n{ENDS}'
    study = StubStudy(tmp_path, base_0=ends_later, lrn_0=SAVES)
    ready = [tmp_path / name / 'ready' for name in ('base-0', 'lrn-0')]
    with signals_when_ready(*ready), pytest.raises(SystemExit):
        list(train(study, WORKERS))
    assert study.ended() == {('base', 0)}
    assert not (tmp_path / 'base-1' / 'output.txt').exists()  # no run was started after it


def test_a_second_ctrl_c_ends_all_runs_at_once(tmp_path):
    study = StubStudy(tmp_path, base_0=REFUSES_TO_END, lrn_0=REFUSES_TO_END)
    ready = [tmp_path / name / 'ready' for name in ('base-0', 'lrn-0')]
    start = time.monotonic()
    with signals_when_ready(*ready, names=['SIGINT', 'SIGINT']), pytest.raises(KeyboardInterrupt):
        list(train(study, WORKERS))
    assert time.monotonic() - start < 30


def test_when_a_run_fails_the_others_save_and_its_line_is_reported(tmp_path, capsys):
    ready = tmp_path / 'lrn-0' / 'ready'
    study = StubStudy(tmp_path, base_0=f'{wait_for(ready)}\n{FAILS}', lrn_0=SAVES)
    with pytest.raises(UserError, match='base with seed 0 failed: the disk is full '):
        list(train(study, WORKERS))
    assert (ready.parent / 'saved').exists()
    assert study.ended() == set()
    assert 'stopping the other runs when they have saved' in capsys.readouterr().out


def test_a_run_that_diverges_has_a_row_and_the_others_continue(tmp_path, capsys):
    study = StubStudy(tmp_path, lrn_0=DIVERGES, base_1=DIVERGES, lrn_1=DIVERGES)
    assert list(train(study, WORKERS[:1])) == study.runs()
    assert '    diverged, the loss is nan at step 3 with seed 0' in capsys.readouterr().out
    base, lrn = ablation_table(study, study.raw)
    assert (base['errors'], base['diverged']) == ([0.25], {1: 'the loss is nan at step 3'})
    assert (lrn['mean'], lrn['difference'], list(lrn['diverged'])) == (None, None, [0, 1])
    text = ablation_text([base, lrn])
    assert '25.00% (1 of 2 diverged)' in text
    assert text.splitlines()[2].split()[:2] == ['lrn', 'diverged']
    assert list(train(study, WORKERS)) == []  # its result is kept


def test_the_record_of_an_earlier_divergence_does_not_hide_another_error(tmp_path):
    study = StubStudy(tmp_path, base_0=FAILS)
    (tmp_path / 'base-0' / 'diverged.txt').write_text('the loss is nan at step 3')
    with pytest.raises(UserError, match='the disk is full'):
        list(train(study, WORKERS))


def test_a_run_that_is_stopped_alone_stops_the_others(tmp_path):
    """As where a scheduler signals the runs but not the study."""
    ready = tmp_path / 'lrn-0' / 'ready'
    study = StubStudy(tmp_path, base_0=f'{wait_for(ready)}\nsys.exit(75)', lrn_0=SAVES)
    with pytest.raises(SystemExit) as stopped:
        list(train(study, WORKERS))
    assert stopped.value.code == 75
    assert (ready.parent / 'saved').exists()


def test_runs_in_progress_save_when_the_study_cannot_continue(tmp_path):
    """As where the disk is too full for the table."""
    ready = tmp_path / 'lrn-0' / 'ready'
    study = StubStudy(tmp_path, base_0=f'{wait_for(ready)}\n{ENDS}', lrn_0=SAVES)
    with contextlib.closing(train(study, WORKERS)) as ended:
        assert next(ended) == ('base', 0)
        assert not (ready.parent / 'saved').exists()
    assert (ready.parent / 'saved').exists()


def test_an_ablation_that_ends_before_the_base_has_no_difference_yet(tmp_path):
    study = StubStudy(tmp_path, base_0=wait_for(tmp_path / 'never'))
    with contextlib.closing(train(study, WORKERS)) as ended:
        assert next(ended) == ('lrn', 0)
    (row,) = ablation_table(study, study.raw)
    assert (row['name'], row['mean'], row['difference'], row['low']) == ('lrn', 0.25, None, None)
    assert 'lrn' in ablation_text([row])


def test_one_worker_prints_the_lines_without_its_name(tmp_path, capsys):
    study = StubStudy(tmp_path)
    assert list(train(study, WORKERS[:1])) == study.runs()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ['[1/4] base, seed 0', '    25.00% top-1 error with seed 0']
    assert lines[2].startswith('[2/4] lrn, seed 0, 0:0')


def test_the_devices_of_all_starts_of_a_row_are_compared(tmp_path):
    study = StubStudy(tmp_path)
    list(train(study, WORKERS))
    assert study.device_counts('lrn') == {2}
    with Workdir(study.folder('lrn', 1)).claim(study.config('lrn', 1), nets.mesh_of(1)):
        pass  # resumed on one device
    assert (study.device_counts('lrn'), study.device_counts('base')) == ({1, 2}, {2})


@pytest.mark.parametrize(
    ('elapsed', 'waiting', 'workers', 'expected'),
    [
        ([0], 3, 1, 40),  # one after the other
        ([0, 0], 2, 2, 20),
        ([4, 0], 1, 2, 16),  # the next one begins when the first has 6 seconds left
        ([12], 0, 2, 0),  # it takes longer than the mean
        ([], 3, 2, 20),
    ],
)
def test_the_time_left_is_that_of_all_workers(elapsed, waiting, workers, expected):
    assert seconds_left(10, elapsed, waiting, workers) == expected
