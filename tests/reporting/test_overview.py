import json
import xml.etree.ElementTree as ET

import numpy as np

import nets
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
    """One of four wrong, and none among the five most probable."""
    labels = np.int32([0, 1, 2, 3])
    p = np.full((4, 10), 0.05, np.float32)
    p[np.arange(4), labels] = 0.5
    p[3, 4] = 0.6
    found = tree(overview.errors(CONFIG, labels, np.full_like(p, 0.1), p))
    rows = [[text(c) for c in row] for row in found.findall('.//tbody/tr')]
    assert [row[0] for row in rows] == ['centre crop', 'mean of 5 views']
    assert rows[0][1].startswith('90.00 %')  # ten classes tie
    assert rows[0][2].startswith('50.00 %')
    assert rows[1][1] == '25.00 %4.56 % to 69.94 %'
    assert rows[1][2].startswith('0.00 %')
    assert '4 test images (test of digits)' in text(found)


def test_five_of_four_classes_are_no_measure():
    config = nets.small(dataset__classes=4)
    p = np.eye(4, dtype=np.float32)
    found = tree(overview.errors(config, np.arange(4, dtype=np.int32), p, p))
    assert [text(c) for c in found.findall('.//thead//th')] == ['', 'top-1 error']


def test_where_the_run_comes_from(tmp_path):
    again = START | {'started': '2026-11-22T01:00:00+00:00', 'device_kind': 'NVIDIA <H200>'}
    (tmp_path / 'config.json').write_text(json.dumps({'config': {}, 'starts': [START, again]}))
    section = overview.origin(tmp_path, CONFIG, 20, history.History(LINES), 'make --it=again')
    told = text(tree(section.body))
    assert 'Begun2026-11-21 12:34 UTC; started 2 times' in told
    assert '2 x NVIDIA <H200> (data 1 x tower 2); x86_64' in told
    assert 'Python 3.11.7, jax 0.10.2' in told
    assert '2.0 of 24 epochs: 20 steps of 8 images; seed 0' in told
    assert '40 images/s in training; about 0:04 of training steps' in told
    assert 'by make --it=again' in told
    assert '2 towers, 3' in told


def test_notes_only_where_there_is_something_to_know():
    log = history.History(LINES)
    assert overview.notes(CONFIG, 20, log) == ''
    assert 'gone on to step 20' in overview.notes(CONFIG, 10, log)
    synthetic = nets.small(dataset__name='synthetic')
    assert 'Made-up images' in overview.notes(synthetic, 20, log)


def test_three_plots_of_the_log():
    plots = tree(overview.curves(CONFIG, history.History(LINES)).body).findall('.//svg')
    assert len(plots) == 3
    curves = [[g for g in plot if g.get('class', '').startswith('curve')] for plot in plots]
    assert [len(each) for each in curves] == [2, 2, 1]
    assert 'Nothing has been logged' in overview.curves(CONFIG, history.History([])).body


def test_all_settings_are_there():
    found = tree(overview.settings_of(CONFIG).body)
    assert 'optimizer.momentum = 0.9' in text(found.find('details/pre'))
    assert text(found.find('details/summary')).startswith(
        str(len(text(found.find('.//pre')).splitlines()))
    )


def test_grey():
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 1), np.uint8).repeat(3, 2)
    assert overview.is_grey(image)
    image[2, 1, 2] ^= 1
    assert not overview.is_grey(image)
