import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import nets
from alexnet_jax.config.schema import as_dict
from alexnet_jax.reporting import history, overview

CONFIG = nets.small()
LINES = [
    {'step': 10, 'train/loss': 2.0, 'train/top1_error': 0.5, 'epoch': 1.0, 'learning_rate': 0.01},
    {'step': 10, 'eval/loss': 1.5, 'eval/top1_error': 0.4},
    {
        'step': 20,
        'train/loss': 1.0,
        'train/top1_error': 0.2,
        'epoch': 2.0,
        'learning_rate': 0.01,
        'images_per_second': 40.0,
    },
]
START = {
    'started': '2026-11-21T12:34:51+00:00',
    'python': '3.11.7',
    'versions': {'jax': '0.10.2'},
    'mesh': {'data': 1, 'tower': 2},
    'devices': ['cpu:0', 'cpu:1'],
    'device_kind': 'cpu',
    'processor': 'x86_64',
}


def tree(markup):
    return ET.fromstring(f'<div>{markup}</div>')


def text(element):
    return ''.join(element.itertext()).replace('\N{NO-BREAK SPACE}', ' ')


def test_errors_have_their_intervals():
    """One of four images is wrong; the true label is always among the five most probable."""
    labels = np.int32([0, 1, 2, 3])
    p = np.full((4, 10), 0.05, np.float32)
    p[np.arange(4), labels] = 0.5
    p[3, 4] = 0.6
    table = tree(overview.errors(CONFIG, labels, np.full_like(p, 0.1), p))
    rows = [[text(c) for c in row] for row in table.findall('.//tbody/tr')]
    assert [row[0] for row in rows] == ['centre crop', 'mean of 5 views']
    assert rows[0][1].startswith('90.00 %')  # ten classes tie
    assert rows[0][2].startswith('50.00 %')
    assert rows[1][1] == '25.00 %4.56 % to 69.94 %'
    assert rows[1][2].startswith('0.00 %')
    assert '4 test images (test of digits)' in text(table)


@pytest.mark.parametrize(
    ('classes', 'header'),
    [
        (4, ['', 'top-1 error']),
        (5, ['', 'top-1 error']),
        (6, ['', 'top-1 error', 'top-5 error']),
    ],
)
def test_the_top_5_error_needs_more_than_five_classes(classes, header):
    config = nets.small(dataset__classes=classes)
    p = np.eye(classes, dtype=np.float32)
    table = tree(overview.errors(config, np.arange(classes, dtype=np.int32), p, p))
    assert [text(c) for c in table.findall('.//thead//th')] == header


def test_the_origin_of_a_run(tmp_path):
    again = START | {'started': '2026-11-22T01:00:00+00:00', 'device_kind': 'NVIDIA <H200>'}
    record = {'config': as_dict(CONFIG), 'starts': [START, again]}
    (tmp_path / 'config.json').write_text(json.dumps(record))
    section = overview.origin(tmp_path, CONFIG, 20, history.History(LINES), 'make --it=again')
    shown = text(tree(section.body))
    assert 'Started2026-11-21 12:34 UTC; started 2 times' in shown
    assert '2 x NVIDIA <H200> (data 1 x tower 2); x86_64' in shown
    assert 'Python 3.11.7, jax 0.10.2' in shown
    assert '2.0 of 24 epochs: 20 steps of 8 images; seed 0' in shown
    assert '40 images/s in training; about 0:04 of training steps' in shown
    assert 'by make --it=again' in shown
    assert '2 towers, 3' in shown
    assert 'parameters, float32' in shown  # such a start does not say what float32 meant


def test_the_origin_says_what_the_arithmetic_was(tmp_path):
    start = START | {'arithmetic': 'float32, products in TF32'}
    record = {'config': as_dict(CONFIG), 'starts': [START, start]}
    (tmp_path / 'config.json').write_text(json.dumps(record))
    section = overview.origin(tmp_path, CONFIG, 20, history.History(LINES), 'make')
    assert 'parameters, float32, products in TF32' in text(tree(section.body))


def test_notes_appear_only_where_they_apply():
    log = history.History(LINES)
    assert overview.notes(CONFIG, 20, log) == ''
    assert 'continued to step 20' in overview.notes(CONFIG, 10, log)
    synthetic = nets.small(dataset__name='synthetic')
    assert 'synthetic noise' in overview.notes(synthetic, 20, log)


def test_the_log_has_three_plots():
    plots = tree(overview.curves(CONFIG, history.History(LINES)).body).findall('.//svg')
    assert len(plots) == 3
    curves = [[g for g in plot if g.get('class', '').startswith('curve')] for plot in plots]
    assert [len(each) for each in curves] == [2, 2, 1]
    assert 'Nothing has been logged' in overview.curves(CONFIG, history.History([])).body


def test_all_settings_are_listed():
    section = tree(overview.settings(CONFIG).body)
    assert 'optimizer.momentum = 0.9' in text(section.find('details/pre'))
    count = len(text(section.find('.//pre')).splitlines())
    assert text(section.find('details/summary')) == f'All {count} settings of the run'


def test_grey():
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 1), np.uint8).repeat(3, 2)
    assert overview.is_grey(image)
    image[2, 1, 2] ^= 1
    assert not overview.is_grey(image)
