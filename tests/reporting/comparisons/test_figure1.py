import xml.etree.ElementTree as ET

import pytest

import runs
from alexnet_jax.reporting.comparisons.figure1 import figure1
from alexnet_jax.runtime.user_errors import UserError


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
        # tanh was trained for fewer epochs than ReLUs: it might still have reached the level.
        ([0.9, 0.2, 0.2, 0.2], [0.9, 0.8, 0.7], 'tanh: not reached in 3.00 epochs.The two'),
        ([0.9, 0.8, 0.7, 0.2], [0.9, 0.2], 'The net with ReLUs takes 2.0 times as many epochs.'),
        ([0.9], [0.9, 0.1], 'ReLU: not reached in 1.00 epochs; tanh: 2.00 epochs.The'),
    ],
)
def test_epochs_to_a_quarter_are_compared(tmp_path, relu, tanh, sentence):
    section = figure1(runs.logged(tmp_path / 'relu', relu), runs.logged(tmp_path / 'tanh', tanh))
    assert sentence in text_of(section)
    root = ET.fromstring(f'<div>{section.body}</div>')
    curves = [g.get('class') for g in root.find('.//svg') if g.get('class', '')[:5] == 'curve']
    assert curves == ['curve0 solid', 'curve1 dashed']


def test_settings_that_differ_are_named(tmp_path):
    relu = runs.logged(tmp_path / 'relu', [0.2], model__fc6__nonlinearity='relu', seed=3)
    tanh = runs.logged(tmp_path / 'tanh', [0.3], model__fc6__nonlinearity='tanh', seed=3)
    assert 'differ in model.fc6.nonlinearity.' in text_of(figure1(relu, tanh))
    assert 'the same settings' in text_of(figure1(relu, relu))


def test_a_folder_without_a_run_is_a_mistake(tmp_path):
    relu = runs.logged(tmp_path / 'relu', [0.2])
    with pytest.raises(UserError, match=r'has no metrics.jsonl with a training error'):
        figure1(relu, tmp_path)
    (relu / 'config.json').write_text('{"conf')
    with pytest.raises(UserError, match=r'config.json is damaged'):
        figure1(relu, relu)
