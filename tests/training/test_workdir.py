import json
import os

import pytest

import nets
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir


def enter(path, **overrides):
    return Workdir(path, nets.small(**overrides), nets.mesh_of(2))


def test_one_run_at_a_time(tmp_path):
    with enter(tmp_path), pytest.raises(UserError, match=f'process {os.getpid()} on .* is using'):
        enter(tmp_path).__enter__()
    with enter(tmp_path):
        pass  # free again


def test_another_config_is_refused_and_named(tmp_path):
    with enter(tmp_path):
        pass
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(UserError, match=r'optimizer.momentum=0.9 \(now 0.8\), seed=0 \(now 1\)'):
        enter(tmp_path, seed=1, optimizer__momentum=0.8).__enter__()
    assert (tmp_path / 'config.json').read_text() == before


def test_mesh_and_intervals_may_change(tmp_path):
    with enter(tmp_path):
        pass
    with enter(tmp_path, mesh__tower=1, log__every_steps=1, checkpoint__every_epochs=9.0):
        pass
    record = json.loads((tmp_path / 'config.json').read_text())
    assert record['config']['mesh']['tower'] == 1
    assert len(record['starts']) == 2


def test_a_broken_record_is_one_line(tmp_path):
    (tmp_path / 'config.json').write_text('{"config": ')
    with pytest.raises(UserError, match=r'config\.json cannot be read'):
        enter(tmp_path).__enter__()


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'cannot write to .*; choose another --workdir'):
        enter(tmp_path / 'file').__enter__()
