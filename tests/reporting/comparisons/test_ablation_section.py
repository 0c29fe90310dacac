import json
import xml.etree.ElementTree as ET

import pytest

from alexnet_jax.reporting.comparisons.ablation_section import ablations
from alexnet_jax.runtime.user_errors import UserError

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
    section = ablations(file)
    root = ET.fromstring(f'<div>{section.body}</div>')
    rows = [[''.join(c.itertext()) for c in row] for row in root.findall('.//tbody/tr')]
    assert rows[0] == ['nothingall of it', '26.0025.00 27.00', '', '', '', '1.2']
    assert rows[1][0] == 'withinall of it'
    assert rows[1][3] == '+1.4'
    assert rows[1][2] == '+1.00-0.20 to +2.20within noise'
    assert rows[2][2] == '-1.00-2.00 to -0.50'
    assert rows[3][2] == '+1.00'
    assert 'alexnet_jax.ablations <x>' in ''.join(root.itertext())


@pytest.mark.parametrize('text', ['{"rows"', '[]', '{"rows": [{}], "seeds": [0]}', 'null'])
def test_another_file_is_a_mistake(tmp_path, text):
    file = tmp_path / 'x.json'
    file.write_text(text)
    with pytest.raises(UserError, match='is not a table of ablations'):
        ablations(file)
    with pytest.raises(UserError, match=r'there is no .*none: alexnet_jax\.ablations writes one'):
        ablations(tmp_path / 'none')
