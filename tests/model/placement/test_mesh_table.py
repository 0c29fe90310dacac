import nets
from alexnet_jax import main
from alexnet_jax.model import towers
from alexnet_jax.model.placement.mesh_table import mesh_table
from alexnet_jax.processes import group as processes
from alexnet_jax.runtime import cpu_devices
from fake_devices import group

HOSTS = ['node-1', 'node-2']


def test_the_table_shows_what_each_device_of_each_process_holds():
    mesh = towers.choose_mesh(nets.small(model__towers=4), group([3, 2], platform='cuda'))
    assert mesh_table(mesh, 4, HOSTS).splitlines() == [
        'process    host  device  replica  towers',
        '0        node-1  cuda:0        0    0, 1',
        '0        node-1  cuda:1        0    2, 3',
        '1        node-2  cuda:3        1    0, 1',
        '1        node-2  cuda:4        1    2, 3',
    ]
    assert mesh_table(mesh, 4).splitlines()[-1] == '1        cuda:4        1    2, 3'


def test_one_process_needs_no_table():
    assert mesh_table(nets.mesh_of(2), 2, ['here']) == ''


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
