"""Which devices of several processes form the mesh; the devices are not attached."""

import dataclasses
import itertools
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.model import towers
from alexnet_jax.runtime.user_errors import UserError
from fake_devices import group


def grid(devices, **overrides):
    """Returns the numbers of the devices of the mesh, (data, tower)."""
    mesh = towers.choose_mesh(nets.small(**overrides), devices)
    return [[device.id for device in row] for row in mesh.devices]


def pairs(*numbers):
    return [[first, first + 1] for first in numbers]


def test_two_hosts_of_eight_hold_four_pairs_each():
    assert grid(group([8, 8], [0, 1])) == pairs(*range(0, 16, 2))
    assert grid(group([1] * 16, [0] * 8 + [1] * 8)) == pairs(*range(0, 16, 2))


def test_the_order_of_the_devices_does_not_matter():
    devices = group([4, 4], [1, 0])
    assert grid(devices[::-1]) == grid(devices) == pairs(4, 6, 0, 2)  # by domain


@pytest.mark.parametrize(
    ('slices', 'expected'),
    [
        ((0, 1), pairs(0, 3)),  # the third device of each host is left over
        (None, pairs(0, 3)),  # without a domain the process counts
        ((0, 0), pairs(0, 2, 4)),  # one pair is of both processes
    ],
)
def test_a_pair_leaves_its_process_only_within_a_domain(slices, expected):
    batch = dict(optimizer__batch_size=6, evaluation__batch_size=12)
    assert grid(group([3, 3], slices), **batch) == expected


def test_pairs_stay_in_one_process_where_they_can():
    """In a batch of 8 there are 2 replicas and not 3, so that no pair is of two processes."""
    assert grid(group([3, 3], (0, 0))) == pairs(0, 3)
    batch = dict(optimizer__batch_size=6, evaluation__batch_size=6, mesh__data=3)
    assert grid(group([1, 4, 1], (0, 0, 0)), **batch) == [[1, 2], [3, 4], [0, 5]]


def test_processes_of_one_device_form_pairs_within_a_domain():
    assert grid(group([1] * 4, [0] * 4)) == pairs(0, 2)
    assert grid(group([1] * 4, range(4))) == [[0], [1], [2], [3]]
    with pytest.raises(UserError, match='leaves one of the 4 processes without a device') as error:
        grid(group([1] * 4, range(4)), mesh__tower=2)
    assert str(error.value).endswith(': set --config.mesh.tower=1 --config.mesh.data=4')


@pytest.mark.parametrize(
    ('counts', 'overrides', 'expected'),
    [
        ((1, 1), {}, [[0, 1]]),
        ((1,) * 4, {}, pairs(0, 2)),
        ((2, 2), {}, pairs(0, 2)),  # not one pair of both processes
        ((2, 2), dict(mesh__tower=1), [[0], [2]]),  # one replica in each process
        ((4, 4), dict(mesh__tower=2, mesh__data=4), pairs(0, 2, 4, 6)),
    ],
)
def test_cpus_hold_as_few_replicas_as_give_every_process_a_device(counts, overrides, expected):
    for slices in (None, [0] * len(counts), range(len(counts))):
        assert grid(group(counts, slices, 'cpu'), **overrides) == expected


@pytest.mark.parametrize(
    ('counts', 'overrides', 'problem', 'remedy'),
    [
        (
            (1, 1, 1),
            {},
            'optimizer.batch_size=8 and evaluation.batch_size=8 are not both divisible by a number '
            'of replicas that gives each of the 3 processes a device (3)',
            'tower=1 --config.mesh.data=3 --config.optimizer.batch_size=6 '
            '--config.evaluation.batch_size=6',
        ),
        (
            (2, 2),
            dict(mesh__data=1),
            'mesh.data=1 x mesh.tower=2 leaves one of the 2 processes without a device',
            'tower=2 --config.mesh.data=2',
        ),
        (
            (2, 2),
            dict(mesh__data=8),
            'mesh.data=8 x mesh.tower=1 needs 8 devices and there are 4 (gpu)',
            'tower=2 --config.mesh.data=2',
        ),
        (
            (6, 6),
            dict(mesh__tower=4, mesh__data=3, model__towers=4, optimizer__batch_size=12),
            'mesh.data=3 x mesh.tower=4 does not fit: the devices of a replica must lie in one '
            'process or one NVLink domain, and there is room for 2 replicas',
            'tower=4 --config.mesh.data=2',
        ),
    ],
)
def test_a_refusal_says_why_and_names_a_mesh_that_fits(counts, overrides, problem, remedy):
    size = overrides.get('optimizer__batch_size', 8)
    overrides = overrides | dict(evaluation__batch_size=size)
    with pytest.raises(UserError) as error:
        grid(group(counts), **overrides)
    assert str(error.value) == f'{problem}: set --config.mesh.{remedy}'


GROUPS = [
    (counts, slices)
    for number in (2, 3, 4)
    for counts in itertools.product((1, 2, 3), repeat=number)
    for slices in ([0] * number, range(number), [0, 0, *[1] * number][:number])
]
SETTINGS = [
    dict(tower=tower, data=data, batch=batch)
    for tower, data in itertools.product((0, 1, 2), (0, 1, 2, 3, 4, 6))
    for batch in (8, 12)
    if not data or batch % data == 0
]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Stands for a config: resolving thousands takes minutes."""

    tower: int
    data: int
    batch: int
    test_batch: int = 0

    def config(self):
        sizes = self.batch, self.test_batch or self.batch
        optimizer, evaluation = (
            SimpleNamespace(batch_size=size, dense_updates=1) for size in sizes
        )
        mesh = SimpleNamespace(tower=self.tower, data=self.data, dense='tower')
        model = SimpleNamespace(towers=2)
        return SimpleNamespace(mesh=mesh, model=model, optimizer=optimizer, evaluation=evaluation)

    def changed(self, error):
        """Returns the settings after the changes that an error asks for."""
        values = dict(re.findall(r'--config\.(\S+)=(\d+)', str(error).partition(': set ')[2]))
        return _Settings(
            int(values['mesh.tower']),
            int(values['mesh.data']),
            int(values.get('optimizer.batch_size', self.batch)),
            int(values.get('evaluation.batch_size', self.test_batch or self.batch)),
        )


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_every_mesh_is_sound_and_every_advice_works(monkeypatch, platform):
    refused = 0
    for (counts, slices), values in itertools.product(GROUPS, SETTINGS):
        devices, settings = group(counts, slices, platform), _Settings(**values)
        try:
            mesh = towers.choose_mesh(settings.config(), devices)
        except UserError as error:
            refused += 1
            settings = settings.changed(error)
            mesh = towers.choose_mesh(settings.config(), devices)
        assert settings.batch % mesh.shape['data'] == 0
        assert mesh.shape['tower'] == settings.tower or not settings.tower
        assert mesh.shape['data'] == settings.data or not settings.data
        assert_sound(monkeypatch, mesh, len(counts), settings.batch)
    assert refused > 100


def assert_sound(monkeypatch, mesh, processes, batch_size):
    """Each process has its own devices and adjacent rows; a pair lies in a process or a domain."""
    chosen = list(mesh.devices.flat)
    assert len({*chosen}) == len(chosen)
    assert {device.process_index for device in chosen} == {*range(processes)}
    for row in mesh.devices:
        places = {(device.process_index, device.slice_index) for device in row}
        one_domain = len({place[1] for place in places}) == 1
        assert len(places) == 1 or one_domain or row[0].platform == 'cpu'
    size = batch_size // mesh.shape['data']
    for process in range(processes):
        monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
        rows = towers.rows_of_process(mesh, batch_size)
        own = {i for i, row in enumerate(mesh.devices) for d in row if d.process_index == process}
        assert [*range(batch_size)[rows]] == [i for i in range(batch_size) if i // size in own]


@pytest.mark.parametrize('slices', [(0, 0), (0, 1)])
@pytest.mark.parametrize('counts', [(3, 3), (2, 4), (1, 3)])
def test_each_device_gets_its_rows_of_a_batch(monkeypatch, counts, slices):
    """Also where a process has more replicas than another, or part of one."""
    batch = np.arange(12 * 5).reshape(12, 5)
    mesh = towers.choose_mesh(_Settings(0, 0, 12).config(), group(counts, slices))

    def make(shape, sharding, shard):
        indices = sharding.devices_indices_map(shape)
        process = jax.process_index()
        return [(index, shard(index)) for d, index in indices.items() if d.process_index == process]

    monkeypatch.setattr(jax, 'make_array_from_callback', make)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    for process, _ in enumerate(counts):
        monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
        rows = towers.rows_of_process(mesh, len(batch))
        shards = towers.put_batch(mesh, {'x': batch[rows]})['x']
        assert len(shards) == len(towers.own_devices(mesh)) > 0
        for index, values in shards:
            np.testing.assert_array_equal(values, batch[index])


def test_a_mesh_of_ones_own_must_give_each_process_adjacent_rows(monkeypatch):
    first, second, other = group([2, 1])
    mesh = jax.sharding.Mesh(np.asarray([[first], [other], [second]]), ('data', 'tower'))
    with pytest.raises(ValueError, match=r'process 0 holds the replicas \[0, 2\]'):
        towers.rows_of_process(mesh, 3)
    monkeypatch.setattr(jax, 'process_index', lambda: 2)
    with pytest.raises(ValueError, match=r'process 2 holds the replicas \[\]'):
        towers.rows_of_process(mesh, 3)
