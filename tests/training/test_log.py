import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_jax.config.durations import Durations
from alexnet_jax.runtime import progress
from alexnet_jax.training import filter_pictures, log, progress_line
from alexnet_jax.training.workdir import Workdir

PLAN = Durations(examples=100, batch_size=10, steps=50, evaluate_every=10, save_every=10)


def write(folder, steps, step=0, evaluated=0):
    writer = log.Writer(Workdir(folder), step, evaluated)
    for s in steps:
        writer.scalars(s, {'train/loss': float(s)})
        if s % 10 == 0:
            writer.scalars(s, {'eval/top1_error': 1.0 / s})
    writer.close()


def test_a_resumed_run_discards_what_was_logged_after_the_checkpoint(tmp_path):
    write(tmp_path, range(1, 16))
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 16, "tra')  # torn by a kill
    write(tmp_path, range(11, 21), step=10, evaluated=10)
    lines = Workdir(tmp_path).read_metrics()
    assert [x['step'] for x in lines if 'train/loss' in x] == list(range(1, 21))
    assert [x['step'] for x in lines if 'eval/top1_error' in x] == [10, 20]


def test_an_evaluation_that_will_be_repeated_is_discarded(tmp_path):
    write(tmp_path, range(1, 11))
    write(tmp_path, [], step=10, evaluated=0)
    assert [x['step'] for x in Workdir(tmp_path).read_metrics()] == list(range(1, 11))


def test_tensorboard_reads_curves_without_a_zigzag(tmp_path):
    write(tmp_path, range(1, 16))
    write(tmp_path, range(11, 21), step=10, evaluated=10)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars('train/loss')] == list(range(1, 21))


def test_filters_of_both_towers_are_side_by_side():
    kernels = np.random.default_rng(0).normal(size=(2, 11, 11, 3, 48))
    kernels[1] = 0.0  # all weights of this tower are equal
    picture = filter_pictures.filter_picture(kernels)
    assert picture.dtype == np.uint8
    half = picture.shape[1] // 2
    assert len(np.unique(picture[:, :half])) > 200
    assert len(np.unique(picture[:, half:])) <= 2
    corner = picture[1:34:3, 1:34:3]  # the first kernel, scaled to the full range
    low, high = kernels[0, ..., 0].min(), kernels[0, ..., 0].max()
    np.testing.assert_array_equal(corner, np.uint8(255 * (kernels[0, ..., 0] - low) / (high - low)))


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0, '0:00'), (59.6, '1:00'), (3723, '1:02:03'), (-5, '0:00')]
)
def test_time_left(seconds, text):
    assert progress.time_left(seconds) == text


def test_the_progress_line_shows_the_progress_of_training(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_line.time, 'monotonic', lambda: clock[0])
    line = progress_line.ProgressLine(PLAN)
    values = {'loss': 1.25, 'top1_error': 0.5}
    assert line.step(1, values, 0.01) == 0  # the first step was compilation
    clock[0] += 20
    assert line.step(11, values, 0.01) == pytest.approx(5)  # 10 steps of 10 images in 20 s
    with line.pause():
        clock[0] += 100
    clock[0] += 2
    assert line.step(12, values, 0.01) == pytest.approx(5)  # the pause does not count
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        'epoch 1.1/5.0  step 11/50  loss 1.2500  error 50.0%  learning rate 0.01  '
        '5 images/s  1:18 left'
    )


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Returns a function that prints a step to a terminal of so many columns, and the line."""
    plan = Durations(1_281_167, 128, 900_810, evaluate_every=10_010, save_every=10_010)
    clock = [0.0]
    monkeypatch.setattr(progress_line.time, 'monotonic', lambda: clock[0])

    def show(columns):
        monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
        monkeypatch.setenv('COLUMNS', str(columns))
        line = progress_line.ProgressLine(plan)
        line.evaluated({'top1_error': 0.4567})
        values = {'loss': 1.25, 'top1_error': 0.5}
        for step in (450_404, 450_405):
            line.step(step, values, 0.001)
            clock[0] += 0.128
        return capsys.readouterr().out.removeprefix('\r\x1b[K')

    return show


@pytest.mark.parametrize('columns', [1, 20, 40, 60, 80, 90, 100, 120, 200])
def test_the_progress_line_is_never_wider_than_the_terminal(terminal, columns):
    line = terminal(columns)
    assert len(line) <= columns - 1
    assert '\n' not in line


def test_a_narrow_terminal_does_without_the_learning_rate_and_the_speed(terminal):
    names = ('epoch', 'step', 'loss', 'error', '(test', 'learning rate', 'images/s', 'left')
    lines = {}
    for columns in (200, 120, 100, 80, 60):
        line = terminal(columns)
        lines[columns] = [name for name in names if name in line]
    assert lines[200] == list(names)
    assert lines[120] == [name for name in names if name != 'learning rate']
    assert lines[100] == ['epoch', 'step', 'loss', 'error', '(test', 'left']
    assert lines[80] == ['step', 'loss', 'error', '(test', 'left']
    assert lines[60] == ['step', 'loss', 'left']


def test_a_towers_picture_is_its_own():
    kernels = np.random.default_rng(0).normal(size=(2, 5, 5, 3, 7))
    both = filter_pictures.filter_picture(kernels, columns=4, zoom=2)
    one, other = (filter_pictures.tower_picture(kernel, 4, 2) for kernel in kernels)
    assert one.shape == (2 * 11 + 1, 4 * 11 + 1, 3)
    np.testing.assert_array_equal(both[:, : one.shape[1]], one)
    np.testing.assert_array_equal(both[:, one.shape[1] + 3 : -3], other)
    assert (one[12:, 34:] == 255).all()  # no eighth kernel
    assert (one[::11] == 255).all()  # white between and around them
    assert (one[:, ::11] == 255).all()
