import ast
import json
import os
import re

import pytest

import nets
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir

PACKAGE = nets.ROOT / 'alexnet_jax'


def claim(path, **overrides):
    return Workdir(path).claim(nets.small(**overrides), nets.mesh_of(2))


def test_one_run_at_a_time(tmp_path):
    message = f'process {os.getpid()} on .* is using'
    with claim(tmp_path), pytest.raises(UserError, match=message), claim(tmp_path):
        pass
    with claim(tmp_path):
        pass  # the lock was released


def test_another_config_is_refused_and_named(tmp_path):
    with claim(tmp_path):
        pass
    before = (tmp_path / 'config.json').read_text()
    with (
        pytest.raises(UserError, match=r'optimizer.momentum=0.9 \(now 0.8\), seed=0 \(now 1\)'),
        claim(tmp_path, seed=1, optimizer__momentum=0.8),
    ):
        pass
    assert (tmp_path / 'config.json').read_text() == before
    with claim(tmp_path):
        pass  # the lock was released


def test_mesh_and_intervals_may_change(tmp_path):
    with claim(tmp_path):
        pass
    with claim(tmp_path, mesh__tower=1, log__every_steps=1, checkpoint__every_epochs=9.0):
        pass
    record = Workdir(tmp_path).read_record()
    assert record['config']['mesh']['tower'] == 1
    assert len(record['starts']) == 2


def test_the_config_is_read_back(tmp_path):
    with claim(tmp_path, seed=3) as workdir:
        assert workdir.read_config() == nets.small(seed=3)
        assert workdir.difference(nets.small(seed=3)) == ''
        assert workdir.difference(nets.small(seed=4)) == 'seed=3 (now 4)'


@pytest.mark.parametrize('text', ['{"config": ', '[]', '{"config": 3}', '{"starts": []}'])
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(UserError, match=r'config\.json cannot be read'):
        Workdir(tmp_path).read_config()
    message = r'config\.json cannot be read: .*; choose another --workdir'
    with pytest.raises(UserError, match=message), claim(tmp_path):
        pass


def test_a_file_is_not_a_workdir(tmp_path):
    (tmp_path / 'file').write_text('')
    message = r'cannot write to .*; choose another --workdir'
    with pytest.raises(UserError, match=message), claim(tmp_path / 'file'):
        pass


def test_an_incomplete_line_ends_the_metrics(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.read_metrics() == []
    workdir.append_metrics(1, {'train/loss': 0.1})
    workdir.append_metrics(2, {'train/loss': float('inf')})
    with (tmp_path / 'metrics.jsonl').open('ab') as file:
        file.write(b'{"step": 3, "tra\xc3')
    assert workdir.read_metrics() == [
        {'step': 1, 'train/loss': 0.1},
        {'step': 2, 'train/loss': float('inf')},
    ]


@pytest.mark.parametrize('line', ['[1, 2]', '"x"', '{"loss": 1}', '3'])
def test_a_damaged_line_ends_the_metrics(tmp_path, line):
    workdir = Workdir(tmp_path)
    workdir.append_metrics(1, {'train/loss': 0.1})
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write(f'{line}\n')
    workdir.append_metrics(3, {'train/loss': 0.3})
    assert workdir.read_metrics() == [{'step': 1, 'train/loss': 0.1}]
    workdir.discard_metrics_after(5, 5)
    assert workdir.read_metrics() == [{'step': 1, 'train/loss': 0.1}]


def test_without_checkpoints_there_is_no_step(tmp_path):
    with pytest.raises(UserError, match='has no checkpoint yet'):
        Workdir(tmp_path / 'nowhere').newest_step()
    assert not (tmp_path / 'nowhere').exists()  # reading creates nothing


def test_no_other_module_names_the_files():
    """Every program reads and writes config.json and metrics.jsonl through Workdir."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and re.search(r'(^|/)(config\.json|metrics\.jsonl)$', str(node.value))
    }
    assert users == {'training/workdir.py'}


def test_the_record_is_json(tmp_path):
    with claim(tmp_path):
        pass
    assert json.loads((tmp_path / 'config.json').read_text()) == Workdir(tmp_path).read_record()


def test_a_record_of_the_first_version_is_read(tmp_path):
    """Batch normalization was an operation in `then`."""
    config = nets.small(model__conv2__batch_normalization=True)
    with claim(tmp_path, model__conv2__batch_normalization=True):
        pass
    record = json.loads((tmp_path / 'config.json').read_text())
    for layer in record['config']['model'].values():
        if isinstance(layer, dict) and layer.pop('batch_normalization', False):
            layer['then'].insert(0, 'batch_normalization')
    assert 'batch_normalization' in record['config']['model']['conv2']['then']
    (tmp_path / 'config.json').write_text(json.dumps(record))
    assert Workdir(tmp_path).read_config() == config
    with claim(tmp_path, model__conv2__batch_normalization=True):
        pass
