import json

import numpy as np
import pytest

from alexnet_jax.reporting import history

LINES = [
    {'step': 10, 'train/top1_error': 0.5, 'epoch': 1.0},
    {'step': 10, 'eval/top1_error': 0.4},
    {'step': 20, 'train/top1_error': 0.2, 'epoch': 2.0, 'images_per_second': 50.0},
    {'step': 30, 'train/top1_error': 0.3, 'epoch': 3.0, 'images_per_second': 100.0},
    {'step': 35, 'eval/top1_error': 0.1},
]


def test_curves_are_over_epochs_also_where_a_line_has_none():
    run = history.History(LINES)
    x, y = run.curve('eval/top1_error')
    np.testing.assert_allclose(x, [1.0, 3.5])
    np.testing.assert_allclose(y, [0.4, 0.1])
    assert run.step == 35
    assert run.images_per_second == 100
    assert len(run.curve('eval/top5_error')[0]) == 0


@pytest.mark.parametrize(('level', 'epoch'), [(0.5, 1.0), (0.25, 2.0), (0.2, 2.0), (0.1, None)])
def test_the_first_epoch_at_a_level(level, epoch):
    assert history.History(LINES).epochs_to_reach('train/top1_error', level) == epoch


def test_time_is_images_over_speed():
    """20 steps of 5 images at 50 images/s, then 10 at 100 images/s."""
    assert history.History(LINES).training_seconds(5) == pytest.approx(20 * 5 / 50 + 10 * 5 / 100)


def test_an_incomplete_line_is_left_out(tmp_path):
    assert history.read(tmp_path).step == 0
    text = '\n'.join(map(json.dumps, LINES))
    (tmp_path / 'metrics.jsonl').write_text(text + '\n{"step": 40, "tra')
    assert history.read(tmp_path).step == 35


def test_downsampling_keeps_means():
    x, y = np.arange(1001.0), np.arange(1001.0) ** 2
    few_x, few_y = history.downsample((x, y), 100)
    assert len(few_x) == 91
    assert few_x[0] == np.arange(11).mean()
    assert few_y[-1] == y[990:].mean()
    np.testing.assert_array_equal(history.downsample((x, y), 1001)[1], y)
