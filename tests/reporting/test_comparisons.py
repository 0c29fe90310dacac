import json
import xml.etree.ElementTree as ET

import pytest

import nets
from alexnet_jax.reporting import comparisons
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir


def run(folder, errors, **settings):
    """Makes a workdir in which these training errors are logged, one per epoch."""
    folder.mkdir()
    lines = [
        {'step': 10 * n, 'epoch': float(n), 'train/top1_error': e} for n, e in enumerate(errors, 1)
    ]
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    with Workdir(folder).claim(nets.small(**settings), nets.mesh_of(1)):
        return folder


def text_of(section):
    return ''.join(ET.fromstring(f'<div>{section.body}</div>').itertext())


@pytest.mark.parametrize(
    ('relu', 'tanh', 'sentence'),
    [
        ([0.5, 0.25], [0.9, 0.6, 0.5, 0.4, 0.3, 0.2], 'ReLU: 2.00 epochs; tanh: 6.00 epochs.'),
        (
            [0.5, 0.25],
            [0.9, 0.6, 0.5, 0.4, 0.3, 0.2],
            'The net with tanh takes 3.0 times as many epochs.',
        ),
        (
            [0.2],
            [0.9, 0.6],
            'tanh: not reached in 2.00 epochs. The net with tanh takes more than 2.0 times as many',
        ),
        ([0.9, 0.6, 0.2], [0.9], 'ReLU: 3.00 epochs; tanh: not reached in 1.00 epochs.The two'),
        ([0.9, 0.2], [0.9, 0.8], 'ReLU: 2.00 epochs; tanh: not reached in 2.00 epochs.The two'),
        ([0.9], [0.9, 0.1], 'ReLU: not reached in 1.00 epochs; tanh: 2.00 epochs.The'),
    ],
)
def test_epochs_to_a_quarter_are_compared(tmp_path, relu, tanh, sentence):
    section = comparisons.figure1(run(tmp_path / 'relu', relu), run(tmp_path / 'tanh', tanh))
    assert sentence in text_of(section)
    root = ET.fromstring(f'<div>{section.body}</div>')
    curves = [g.get('class') for g in root.find('.//svg') if g.get('class', '')[:5] == 'curve']
    assert curves == ['curve0 solid', 'curve1 dashed']


def test_settings_that_differ_are_named(tmp_path):
    relu = run(tmp_path / 'relu', [0.2], model__fc6__nonlinearity='relu', seed=3)
    tanh = run(tmp_path / 'tanh', [0.3], model__fc6__nonlinearity='tanh', seed=3)
    assert 'differ in model.fc6.nonlinearity.' in text_of(comparisons.figure1(relu, tanh))
    assert 'the same settings' in text_of(comparisons.figure1(relu, relu))


def test_a_folder_without_a_run_is_a_mistake(tmp_path):
    relu = run(tmp_path / 'relu', [0.2])
    with pytest.raises(UserError, match=r'has no metrics.jsonl with a training error'):
        comparisons.figure1(relu, tmp_path)
    (relu / 'config.json').write_text('{"conf')
    with pytest.raises(UserError, match=r'config.json is damaged'):
        comparisons.figure1(relu, relu)


BASE = {
    'name': 'base',
    'claim': 'all of it',
    'paper': None,
    'log': None,
    'errors': [0.25, 0.27],
    'mean': 0.26,
    'difference': None,
    'low': None,
    'high': None,
    'minutes': 1.25,
}
RESULTS = {
    'config': 'configs/digits.py',
    'seeds': [0, 1],
    'command': 'python -m alexnet_jax.ablations <x>',
    'rows': [
        BASE,
        BASE
        | {'name': 'within', 'paper': '+1.4', 'difference': 0.01, 'low': -0.002, 'high': 0.022},
        BASE | {'name': 'beyond', 'difference': -0.01, 'low': -0.02, 'high': -0.005},
        BASE | {'name': 'one seed', 'difference': 0.01},
    ],
}


def test_ablations_are_in_percent_and_noise_is_marked(tmp_path):
    file = tmp_path / 'ablations.json'
    file.write_text(json.dumps(RESULTS))
    section = comparisons.ablations(file)
    root = ET.fromstring(f'<div>{section.body}</div>')
    rows = [[''.join(c.itertext()) for c in row] for row in root.findall('.//tbody/tr')]
    assert rows[0] == ['nothingall of it', '26.0025.00 27.00', '', '', '', '1.2']
    assert rows[1][0] == 'withinall of it'
    assert rows[1][3] == '+1.4'
    assert rows[1][2] == '+1.00-0.20 to +2.20within noise'
    assert rows[2][2] == '-1.00-2.00 to -0.50'
    assert rows[3][2] == '+1.00'
    assert 'alexnet_jax.ablations <x>' in text_of(section)


@pytest.mark.parametrize('text', ['{"rows"', '[]', '{"rows": [{}], "seeds": [0]}', 'null'])
def test_another_file_is_a_mistake(tmp_path, text):
    file = tmp_path / 'x.json'
    file.write_text(text)
    with pytest.raises(UserError, match='is not a table of ablations'):
        comparisons.ablations(file)
    with pytest.raises(UserError, match=r'there is no .*none: alexnet_jax\.ablations writes one'):
        comparisons.ablations(tmp_path / 'none')
