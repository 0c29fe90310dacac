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


def test_precision_and_determinism_are_those_of_the_first_start(tmp_path):
    with claim(tmp_path, deterministic=True):
        pass
    assert Workdir(tmp_path).read_record()['starts'][0]['arithmetic'] == 'float32'
    changes = r'deterministic=True \(now False\), model.precision=default \(now highest\)'
    with (
        pytest.raises(UserError, match=changes),
        claim(tmp_path, model__precision='highest'),
    ):
        pass


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


def test_a_result_stands_only_for_the_evaluations_that_it_was_made_with(tmp_path):
    """Although a run may be resumed with others."""
    with claim(tmp_path) as workdir:
        assert workdir.difference(nets.small(evaluation__batch_size=4, mesh__tower=1)) == ''
        one_view = nets.small(evaluation__average_views=False)
        assert workdir.difference(one_view) == 'evaluation.average_views=True (now False)'
    with claim(tmp_path, evaluation__average_views=False):
        pass


def test_a_file_is_not_a_workdir(tmp_path):
    (tmp_path / 'file').write_text('')
    message = r'cannot write to .*; choose another --workdir'
    with pytest.raises(UserError, match=message), claim(tmp_path / 'file'):
        pass


@pytest.mark.parametrize('name', ['x' * 300, 'a\0b'])
def test_a_name_that_no_folder_can_have_is_one_line(tmp_path, name):
    message = r'cannot read .*json: (File name too|.*embedded null)'
    with pytest.raises(UserError, match=message):
        Workdir(tmp_path / name).read_config()


def test_without_checkpoints_there_is_no_step(tmp_path):
    with pytest.raises(UserError, match='has no checkpoint yet'):
        Workdir(tmp_path / 'nowhere').checkpoint_step()
    assert not (tmp_path / 'nowhere').exists()  # reading creates nothing


def test_no_other_module_names_the_files():
    """Every program reads and writes config.json and metrics.jsonl through Workdir.

    An export has a config.json of its own.
    """
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and re.search(r'(^|/)(config\.json|metrics\.jsonl)$', str(node.value))
    }
    exports = {f'interchange/exports/{name}.py' for name in ('alexnet_torch', 'export_folder')}
    assert users == {'training/workdir.py'} | exports


def test_the_record_is_json(tmp_path):
    with claim(tmp_path):
        pass
    assert json.loads((tmp_path / 'config.json').read_text()) == Workdir(tmp_path).read_record()
