import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_jax.config.durations import Durations
from alexnet_jax.runtime import progress
from alexnet_jax.training import filter_pictures, log, progress_line

PLAN = Durations(examples=100, batch_size=10, steps=50, evaluate_every=10, save_every=10)


def write(folder, steps, step=0, evaluated=0):
    writer = log.Writer(folder, step, evaluated)
    for s in steps:
        writer.scalars(s, {'train/loss': float(s)})
        if s % 10 == 0:
            writer.scalars(s, {'eval/top1_error': 1.0 / s})
    writer.close()


def lines(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_a_restart_takes_back_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, range(1, 16))
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 16, "tra')  # torn by a kill
    write(tmp_path, range(11, 21), step=10, evaluated=10)
    found = lines(tmp_path)
    assert [x['step'] for x in found if 'train/loss' in x] == list(range(1, 21))
    assert [x['step'] for x in found if 'eval/top1_error' in x] == [10, 20]


def test_an_evaluation_that_will_be_repeated_is_taken_back(tmp_path):
    write(tmp_path, range(1, 11))
    write(tmp_path, [], step=10, evaluated=0)
    assert [x['step'] for x in lines(tmp_path)] == list(range(1, 11))


def test_tensorboard_reads_curves_without_a_zigzag(tmp_path):
    write(tmp_path, range(1, 16))
    write(tmp_path, range(11, 21), step=10, evaluated=10)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars('train/loss')] == list(range(1, 21))


def test_filters_of_both_towers_are_side_by_side():
    kernels = np.random.default_rng(0).normal(size=(2, 11, 11, 3, 48))
    kernels[1] = 0.0  # a tower that is flat
    picture = filter_pictures.filter_picture(kernels)
    assert picture.dtype == np.uint8
    half = picture.shape[1] // 2
    assert len(np.unique(picture[:, :half])) > 200
    assert len(np.unique(picture[:, half:])) <= 2
    corner = picture[1:34:3, 1:34:3]  # the first kernel, stretched to the whole range
    low, high = kernels[0, ..., 0].min(), kernels[0, ..., 0].max()
    np.testing.assert_array_equal(corner, np.uint8(255 * (kernels[0, ..., 0] - low) / (high - low)))


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0, '0:00'), (59.6, '1:00'), (3723, '1:02:03'), (-5, '0:00')]
)
def test_time_left(seconds, text):
    assert progress.time_left(seconds) == text


def test_the_progress_line_says_where_training_stands(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(log.time, 'monotonic', lambda: clock[0])
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
    assert (
        first
        == 'epoch 1.1/5.0  step 11/50  loss 1.2500  error 50.0%  rate 0.01  5 images/s  1:18 left'
    )


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
