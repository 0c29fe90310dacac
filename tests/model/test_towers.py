import dataclasses
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.model import alexnet, towers
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.step import make_train_step
from devices import run


def collectives_of_logits(mesh):
    """Counts the collectives of the small net at test time."""
    config = nets.small()
    logits = nets.compiled_logits(config, mesh)
    return nets.collectives(logits.lower(alexnet.shapes(config), nets.images(config, 8)).compile())


def test_forward_exchanges_four_times():
    """The layers conv3, fc6 and fc7 gather, fc8 sums; nothing else crosses."""
    assert collectives_of_logits(nets.mesh_of(2)) == {'all-gather': 3, 'all-reduce': 1}


def test_a_step_exchanges_seven_times():
    """Backward, each gather becomes a sum scattered over towers; fc8's sum needs no exchange."""
    step = nets.compiled_step(nets.small(), nets.mesh_of(2))
    assert nets.collectives(step) == {'all-gather': 3, 'all-reduce': 1, 'reduce-scatter': 3}


def test_one_device_exchanges_nothing():
    assert collectives_of_logits(nets.mesh_of(1)) == {}


@pytest.mark.parametrize('tower', [1, 2])
def test_towers_are_isolated_until_conv3(tower):
    """Tower 0's conv2 does not depend on any parameter of tower 1; its conv3 does."""
    config, mesh = nets.small(), nets.mesh_of(tower)
    graph, params = alexnet.graph(config), alexnet.initialize(config)
    specs = alexnet.partitions(config, mesh)
    x = nets.images(config, 2)

    def first_tower(params, *, through):
        net = alexnet.nnx.merge(graph, params)
        maps = net.conv2(net.conv1([x] * (2 // tower)))
        if through == 'conv3':
            maps = net.conv3(maps)
        weight = towers.own_part(jnp.asarray([[1.0], [0.0]]))[:, 0]  # tower 0 alone
        square = [(y * y).sum() * w for y, w in zip(maps, weight, strict=True)]
        return towers.combine(square)

    def gradient(params, through):
        loss = jax.shard_map(
            lambda p: first_tower(p, through=through),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=towers.spec(mesh, 'step'),
        )
        return jax.grad(loss)(params)

    early, late = run(lambda p: [gradient(p, through) for through in ('conv2', 'conv3')], params)
    for layer, kernel in (('conv1', 'kernel_THWIO'), ('conv2', 'kernel_THWIO')):
        own, other = early[layer][kernel]
        assert np.abs(own).max() > 0
        assert np.all(np.asarray(other) == 0)
        assert np.abs(late[layer][kernel][1]).max() > 0


@pytest.mark.parametrize('number', [1, 2, 4])
def test_any_number_of_towers_is_the_same_on_any_mesh(number):
    config = nets.small(model__towers=number)
    params, x = alexnet.initialize(config), nets.images(config, 4)
    key = jax.random.key(3)
    meshes = [
        towers.choose_mesh(nets.small(model__towers=number, mesh__tower=t))
        for t in (1, 2)
        if number % t == 0
    ]
    first, *others = (nets.compiled_logits(config, mesh, key)(params, x) for mesh in meshes)
    assert first.shape == (4, 10)
    assert len(others) == (number > 1)
    for other in others:
        np.testing.assert_allclose(first, other, rtol=1e-5, atol=1e-6)


def test_parameters_are_sharded_by_tower():
    config, mesh = nets.small(), nets.mesh_of(2)
    state = place_initial_state(config, mesh)
    for tree in (state.params, state.velocity):
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            shards = {s.device: s.data.shape for s in x.addressable_shards}
            replicated = 'fc8' in str(path) and 'bias' in str(path)
            expected = x.shape if replicated else (1, *x.shape[1:])
            assert set(shards.values()) == {expected}, path
            assert len(shards) == 2


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that the choice depends on."""

    id: int
    platform: str

    @property
    def device_kind(self):
        return self.platform


def devices(number, platform):
    """Returns devices that are not attached."""
    return [Device(i, platform) for i in range(number)]


@pytest.mark.parametrize(
    ('number', 'platform', 'shape'),
    [
        (1, 'gpu', (1, 1)),  # one accelerator: both towers on it
        (2, 'gpu', (1, 2)),
        (3, 'gpu', (1, 2)),  # the third is left over
        (4, 'gpu', (2, 2)),
        (8, 'gpu', (4, 2)),  # four replicas
        (1, 'cpu', (1, 1)),
        (2, 'cpu', (1, 2)),
        (3, 'cpu', (1, 2)),
        (4, 'cpu', (1, 2)),
        (8, 'cpu', (1, 2)),  # more CPU devices do not add processors
    ],
)
def test_the_default_mesh_suits_the_devices(number, platform, shape):
    mesh = towers.choose_mesh(nets.small(), devices(number, platform))
    assert tuple(mesh.shape.values()) == shape
    assert [device.id for device in mesh.devices.flat] == list(range(mesh.size))
    assert mesh.axis_names == ('data', 'tower')


def test_the_default_mesh_divides_the_batch():
    mesh = towers.choose_mesh(nets.small(optimizer__batch_size=9), devices(8, 'gpu'))
    assert tuple(mesh.shape.values()) == (1, 2)


def test_too_few_devices_are_an_error():
    with pytest.raises(
        UserError, match=r'mesh.data=4 x mesh.tower=2 needs 8 devices and there are 2'
    ):
        towers.choose_mesh(nets.small(mesh__data=4, mesh__tower=2))


@pytest.mark.parametrize(('tower', 'data'), [(1, 1), (2, 1), (1, 2)])
def test_arrays_are_placed_as_device_put_places_them(tower, data):
    mesh, batch = nets.mesh_of(tower, data), nets.batch(nets.small())
    sharding = jax.sharding.NamedSharding(mesh, towers.spec(mesh, 'images'))
    placed, expected = towers.put_batch(mesh, batch), jax.device_put(batch, sharding)
    nets.assert_equal_leaves(placed, expected)
    for name, x in placed.items():
        assert (x.sharding, x.committed) == (expected[name].sharding, True)
    copies = towers.put_replicated(mesh, np.arange(5, dtype=np.float32))
    assert copies.sharding.device_set == {*mesh.devices.flat}
    for shard in copies.addressable_shards:
        np.testing.assert_array_equal(shard.data, np.arange(5, dtype=np.float32))


def test_an_array_that_every_process_holds_is_fetched_without_communication(monkeypatch):
    """The branch for several processes, in one whose devices hold all towers."""
    mesh, values = nets.mesh_of(2), np.arange(6, dtype=np.float32).reshape(2, 3)
    sharding = jax.sharding.NamedSharding(mesh, towers.partition(mesh, 'tower'))
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    x = towers.put({'x': values}, sharding)['x']
    assert x.sharding == sharding
    with monkeypatch.context() as without_communication:
        without_communication.setattr(towers, '_replicate', None)
        np.testing.assert_array_equal(towers.fetch(mesh, x), values)
        np.testing.assert_array_equal(towers.fetch(mesh, x[0]), values[0])
    # If a device were of another process, each would hold one tower.
    monkeypatch.setattr(towers.mesh_choice, 'process_of', lambda device: device.id)
    np.testing.assert_array_equal(towers.fetch(mesh, x), values)
    with monkeypatch.context() as without_communication:
        without_communication.setattr(towers, '_replicate', None)
        with pytest.raises(TypeError):
            towers.fetch(mesh, x)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_a_step_lowers_for_accelerators(platform):
    """No accelerator is needed to lower the program, with all its exchanges."""
    config, mesh = nets.small(), nets.mesh_of(2)
    step = make_train_step(config, mesh)
    state = state_shapes(config, mesh)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nets.batch(config))
    traced = step.trace(state, batch, nets.constants(), nets.hyperparameters(0.01))
    lowered = traced.lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    assert text.count('stablehlo.all_gather') == 3
    assert text.count('stablehlo.reduce_scatter') == 3


PAGES = """
import resource, sys
import numpy as np
from alexnet_jax.runtime import cpu_devices
if sys.argv[1] == 'keep':
    cpu_devices.prepare_cpu_devices(tower=1)
for _ in range(3):
    np.ones(2**23)  # 64 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='an option of the GNU C library')
def test_freed_memory_is_kept():
    """Large blocks are reused, and not fetched from the system page by page each time."""

    def page_faults(mode):
        command = [sys.executable, '-c', PAGES, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert page_faults('keep') < 0.1 * page_faults('default')
