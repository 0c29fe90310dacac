import nets
from alexnet_jax import main
from alexnet_jax.model import towers
from alexnet_jax.model.placement.mesh_table import (
    describe_homes,
    describe_mesh,
    device_names,
    mesh_table,
)
from alexnet_jax.processes import group as processes
from alexnet_jax.runtime import cpu_devices
from fake_devices import group

HOSTS = ['node-1', 'node-2']
CONFIG = nets.small(model__towers=4)


def test_the_table_shows_what_each_device_of_each_process_holds():
    mesh = towers.choose_mesh(CONFIG, group([3, 2], platform='cuda'))
    assert mesh_table(CONFIG, mesh, HOSTS).splitlines() == [
        'process    host  device  replica  towers',
        '0        node-1  cuda:0        0    0, 1',
        '0        node-1  cuda:1        0    2, 3',
        '1        node-2  cuda:3        1    0, 1',
        '1        node-2  cuda:4        1    2, 3',
    ]
    assert mesh_table(CONFIG, mesh).splitlines()[-1] == '1        cuda:4        1    2, 3'


def test_one_process_needs_no_table():
    assert mesh_table(CONFIG, nets.mesh_of(2), ['here']) == ''


def test_the_mesh_is_described_in_a_line():
    mesh = nets.mesh_of(2)
    assert describe_mesh(nets.small(), mesh) == '2 towers, 1 on each of 2 devices (cpu)'
    assert device_names(mesh, 4) == [str(mesh.devices[0, t // 2]) for t in range(4)]


def test_the_placement_of_dense_layers_is_told():
    """A fourth of the units of a tower is on each of its four devices."""
    config = nets.small(mesh__dense='all')
    mesh = towers.choose_mesh(config, group([4, 4], platform='cuda'))
    assert describe_mesh(config, mesh) == (
        '2 towers, 1 on each of 2 devices (cuda), 4 replicas that share each batch, '
        'units of dense layers spread over all 8 devices'
    )
    assert describe_homes(config, mesh)[2:] == [
        'each of the 4 devices of a tower holds a part of the dense layers: '
        'fc6: 64 of the 256 units of each tower, fc7: 64 of the 256 units of each tower; '
        'and their weights in fc8',
        'it reads the units of all images of a batch, gathered from 8 devices',
    ]
    assert mesh_table(config, mesh).splitlines()[::7] == [
        'process  device  replica  towers  part of dense layers',
        '1        cuda:6        3       0                4 of 4',
    ]
    alone = nets.mesh_of(2)  # has one replica
    assert describe_homes(config, alone) == describe_homes(nets.small(), alone)


class _TwoProcesses(processes.Group):
    count = 2

    def gather(self, name, value, seconds=0.0):
        return HOSTS


def test_a_dry_run_of_several_processes_shows_the_table(tmp_path, monkeypatch, capsys):
    created = []
    monkeypatch.setattr(
        cpu_devices, 'prepare_cpu_devices', lambda *numbers: created.append(numbers)
    )
    monkeypatch.setattr(cpu_devices, 'devices', lambda: group([1, 1], platform='cpu'))
    monkeypatch.setattr(processes, '_group', _TwoProcesses())
    config = nets.small(mesh__tower=2)
    assert main.main(config, tmp_path / 'run', dry_run=True) == 0
    assert created == [(2, 0, 2)]
    output = capsys.readouterr().out
    assert (
        '0        node-1   cpu:0        0       0\n1        node-2   cpu:1        0       1'
        in output
    )
    assert 'tower 0: cpu:0\ntower 1: cpu:1' in output
