"""The least memory of a net, by arithmetic."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.model import memory, towers
from alexnet_jax.model.layer_table import layer_table, parameter_count
from alexnet_jax.runtime.user_errors import UserError
from fake_devices import group

GB = 10**9


def test_the_need_is_that_of_the_largest_layer_and_of_all_parameters():
    """conv1 of the paper's net has the most outputs: 55 x 55 x 48 in each of two towers."""
    need = memory.least_need(nets.full(), 128)
    assert need.parameters == 4 * parameter_count(nets.full())
    assert need.images == 128 * 256 * 256 * 3
    assert need.activations == 128 * 55 * 55 * 96 * 4
    assert memory.least_need(nets.full(model__dtype='bfloat16'), 128).activations * 2 == (
        need.activations
    )


@pytest.mark.parametrize('batch_size', [8, pytest.param(256, marks=pytest.mark.slow)])
def test_the_need_is_no_more_than_a_compiled_step_takes(batch_size):
    """A bound above what XLA allocates would refuse what can run."""
    config, mesh = nets.small(optimizer__batch_size=batch_size), nets.mesh_of(1)
    need = memory.least_need(config, batch_size)
    taken = nets.compiled_step(config, mesh).memory_analysis()
    total = taken.argument_size_in_bytes + taken.output_size_in_bytes + taken.temp_size_in_bytes
    total -= taken.alias_size_in_bytes
    least = memory.TRAINING_COPIES * need.parameters + need.images + need.activations
    assert 0.1 * total < least <= total


@pytest.mark.parametrize(
    ('overrides', 'limit'),
    [
        ({'optimizer__batch_size': 65_536}, 8 * GB),
        ({'evaluation__batch_size': 65_536}, 8 * GB),
        ({'model__width': 8.0}, 8 * GB),
        ({'dataset__image_size': 4096, 'optimizer__batch_size': 256}, 8 * GB),
    ],
)
def test_what_cannot_fit_is_one_line_with_batch_and_width(monkeypatch, overrides, limit):
    monkeypatch.setattr(memory, 'host_bytes', lambda: limit)
    config, mesh = nets.full(**overrides), nets.mesh_of(2)
    with pytest.raises(UserError) as error:
        memory.check(config, mesh)
    message = str(error.value)
    assert re.match(r'out of memory: this net needs [\d,.]+ GB at least and this machine', message)
    for name in ('optimizer.batch_size', 'evaluation.batch_size', 'model.width='):
        assert name in message
    memory.check(nets.full(), mesh)


def test_a_net_that_is_only_evaluated_needs_one_copy(monkeypatch):
    config, mesh = nets.full(evaluation__batch_size=1), nets.mesh_of(1)
    monkeypatch.setattr(memory, 'host_bytes', lambda: 2 * 4 * parameter_count(config))
    memory.check(config, mesh, is_training=False)
    with pytest.raises(UserError, match='out of memory'):
        memory.check(config, mesh)


def test_devices_with_memory_of_their_own_hold_their_part(monkeypatch):
    """Half of the parameters are on each of two devices; the images are on the host, too."""
    config = nets.full(optimizer__batch_size=128, evaluation__batch_size=128)
    need = memory.least_need(config, 128)
    monkeypatch.setattr(memory, 'host_bytes', lambda: math.inf)
    one = 3 * need.parameters + need.images + need.activations
    monkeypatch.setattr(memory, 'device_bytes', lambda mesh: one - 1)
    with pytest.raises(UserError, match='each device has'):
        memory.check(config, nets.mesh_of(1))
    memory.check(config, nets.mesh_of(2))
    monkeypatch.setattr(memory, 'host_bytes', lambda: need.images - 1)
    with pytest.raises(UserError, match='this machine has'):
        memory.check(config, nets.mesh_of(2))


def test_replicas_that_divide_the_dense_layers_hold_a_part_of_them():
    """On eight devices: half of the convolutions, and an eighth of the dense layers."""
    mesh = towers.choose_mesh(nets.full(), group([8], platform='gpu'))
    rows = layer_table(nets.full())
    convolutions = sum(row.parameters for row in rows[:5])
    dense = sum(row.parameters for row in rows[5:])
    for placement, devices in (('tower', 2), ('all', 8)):
        held = memory.parameters_of_device(nets.full(mesh__dense=placement), mesh)
        assert held == 4 * convolutions // 2 + 4 * dense // devices


def test_the_memory_of_this_machine_is_known_and_a_control_group_lowers_it(monkeypatch):
    assert 10**8 < memory.host_bytes() < 10**15
    read = Path.read_text
    limits = {'/sys/fs/cgroup/memory.max': '1000000\n', '/sys/fs/cgroup/memory.swap.max': '1\n'}
    monkeypatch.setattr(Path, 'read_text', lambda path: limits.get(str(path)) or read(path))
    assert memory.host_bytes() == 1_000_001
    limits['/sys/fs/cgroup/memory.swap.max'] = 'max\n'
    assert memory.host_bytes() > 10**8


def test_memory_that_is_unknown_refuses_nothing(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, 'read_text', missing)
    monkeypatch.setattr(memory.os, 'sysconf_names', {})
    assert memory.host_bytes() == math.inf
    memory.check(nets.full(model__width=64.0), nets.mesh_of(2))


def test_a_process_counts_what_its_own_devices_hold(monkeypatch):
    """Each of two processes holds a tower, and reads all images."""
    config = nets.full(optimizer__batch_size=128, evaluation__batch_size=128)
    need = memory.least_need(config, 128)
    mesh = towers.choose_mesh(config, group([1, 1], platform='cpu'))
    half = 3 * need.parameters // 2 + need.images + need.activations // 2
    monkeypatch.setattr(memory, 'host_bytes', lambda: half + 2)
    memory.check(config, mesh)
    monkeypatch.setattr(memory, 'host_bytes', lambda: half - 2)
    with pytest.raises(UserError, match='this machine has'):
        memory.check(config, mesh)


class FakeDevice:
    platform = 'gpu'
    process_index = 0

    def __init__(self, statistics):
        self._statistics = statistics

    def memory_stats(self):
        if isinstance(self._statistics, Exception):
            raise self._statistics
        return self._statistics


@pytest.mark.parametrize(
    ('statistics', 'limit'),
    [
        ({'bytes_limit': 5}, 5),
        ({}, math.inf),
        (None, math.inf),
        (jax.errors.JaxRuntimeError('UNIMPLEMENTED'), math.inf),
    ],
)
def test_an_accelerator_has_memory_of_its_own_even_where_it_is_unknown(statistics, limit):
    mesh = SimpleNamespace(devices=np.array([[FakeDevice(statistics)]]))
    assert memory.device_bytes(mesh) == limit
    assert memory.device_bytes(nets.mesh_of(1)) is None


def test_the_memory_of_another_process_is_not_asked_for(monkeypatch):
    other, own = FakeDevice(None), FakeDevice({'bytes_limit': 5})
    own.process_index = 1
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    assert memory.device_bytes(SimpleNamespace(devices=np.array([[other, own]]))) == 5
