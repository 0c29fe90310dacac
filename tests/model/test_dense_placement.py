"""`mesh.dense='all'`: the replicas divide the units of dense layers among themselves."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.model import alexnet, dropout, inference, layers, towers
from alexnet_jax.model.net import Net
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Checkpoints, Position
from alexnet_jax.training.state import place_initial_state, state_shapes
from fake_devices import group

STEPS = 3
# conv1 and the dense layers, which is what the placement is about: this compiles quickly.
SHORT = {f'model__conv{i}__maps': 0 for i in (2, 3, 4, 5)}
# Each dense layer reads its inputs in another form; the bottleneck has no dropout.
VARIED = dict(
    model__fc6__input_dropout=0.25,
    model__fc7__input_dropout=0.25,
    model__fc7__reads='own',
    model__fc7__nonlinearity='tanh',
    model__bottleneck__units=64,
)


def config_of(**overrides):
    return nets.small(**(SHORT | dict(model__width=0.0625) | overrides))


def after_steps(config, mesh):
    """Returns the arrays after some steps by name, and the metrics of each step."""
    state, metrics = nets.run_steps(config, mesh, STEPS)
    return leaves_by_name(jax.device_get((state.params, state.velocity))), metrics


def assert_same_training(actual, expected):
    """Compares two results of `after_steps`; sums are added in another order."""
    for metrics, expected_metrics in zip(actual[1], expected[1], strict=True):
        assert metrics == pytest.approx(expected_metrics, rel=2e-5)
    for name, x in expected[0].items():
        scale = np.abs(x).max()
        np.testing.assert_allclose(actual[0][name], x, rtol=1e-4, atol=2e-6 * scale, err_msg=name)


def test_two_replicas_that_divide_the_units_train_as_one_device():
    """Both towers are on each of the devices; dropout is on, velocities are compared too."""
    config = config_of(mesh__dense='all', **VARIED)
    expected = after_steps(config, nets.mesh_of(1))
    assert_same_training(after_steps(config, nets.mesh_of(1, data=2)), expected)


EIGHT = """
import os, sys
sys.path[:0] = [{tests!r}, {model!r}]
import jax
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
import test_dense_placement
test_dense_placement.compare_meshes()
"""
MESHES = ((2, 1), (2, 2), (4, 2))  # data x tower


def compare_meshes():
    """Compares meshes of 2, 4 and 8 devices with one; prints the collectives of each as JSON."""
    expected = after_steps(config_of(), nets.mesh_of(1))
    counts = {}
    for data, tower in MESHES:
        for dense in ('all', 'tower') if (data, tower) == MESHES[-1] else ('all',):
            config, mesh = config_of(mesh__dense=dense), nets.mesh_of(tower, data)
            assert_same_training(after_steps(config, mesh), expected)
            counts[f'{dense} {data} {tower}'] = nets.collectives(nets.compiled_step(config, mesh))
    print(json.dumps(counts))


@pytest.mark.slow
def test_every_mesh_trains_as_one_device_with_the_fewest_exchanges():
    """Forward, the units are gathered before fc6 and fc7, and the products of fc8 are scattered.

    Backward, the gradients of these exchanges are exchanged. All replicas still sum the gradients
    of the convolutions and of fc8's bias: one all-reduce. Towers sum their products of fc8.
    """
    code = EIGHT.format(tests=str(nets.ROOT / 'tests'), model=os.path.dirname(__file__))
    environment = os.environ | {'JAX_NUM_CPU_DEVICES': '8', 'PYTHONPATH': str(nets.ROOT)}
    command = [sys.executable, '-W', 'error', '-c', code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not result.returncode, result.stderr[-3000:]
    counts = json.loads(result.stdout.splitlines()[-1])
    divided = {'all-gather': 3, 'reduce-scatter': 3}
    assert counts['all 2 1'] == divided | {'all-reduce': 1}
    assert counts['all 2 2'] == counts['all 4 2'] == divided | {'all-reduce': 2}
    # There only towers exchange units.
    assert counts['tower 4 2'] == {'all-gather': 2, 'all-reduce': 2, 'reduce-scatter': 2}


def test_the_evaluation_and_hidden_units_do_not_depend_on_the_placement():
    config = config_of(mesh__dense='all', **VARIED)
    params, images = alexnet.initialize(config), nets.batch(config)['image']
    view, mean = inference.test_views(config)[0], np.zeros((72, 72, 3), np.float32)

    def outputs(mesh):
        placed = towers.put(params, towers.shardings(mesh, alexnet.partitions(config, mesh)))
        functions = [inference.make_log_probabilities(config, mesh)]
        functions += [inference.make_hidden(config, mesh, x) for x in ('fc6', None)]
        return [np.asarray(f(placed, mean, images, view)) for f in functions]

    one, two = outputs(nets.mesh_of(1)), outputs(nets.mesh_of(1, data=2))
    for actual, expected in zip(two, one, strict=True):
        assert expected.std() > 0
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_the_form_for_gpus_computes_the_same(monkeypatch):
    """It multiplies the units of both towers at once, and draws their masks side by side."""
    config = config_of(mesh__dense='all', model__fc7__reads='own')
    params, x, key = alexnet.initialize(config), nets.images(config, 4), jax.random.key(3)
    expected = nets.compiled_logits(config, nets.mesh_of(1), key)(params, x)
    monkeypatch.setattr(layers, 'on_gpu', lambda platform: True)
    actual = nets.compiled_logits(config, nets.mesh_of(1, data=2), key)(params, x)
    assert np.std(expected) > 0
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_each_replica_holds_a_part_of_the_dense_layers_alone():
    config, mesh = config_of(mesh__dense='all'), nets.mesh_of(1, data=2)
    state = place_initial_state(config, mesh)
    axes = {'kernel_TIO': 2, 'bias_TO': 1, 'kernel_TIK': 1}
    for tree in (state.params, state.velocity[2].trace):
        for path, x in leaves_by_name(tree).items():
            layer, name = path.split('.')
            expected = list(x.shape)
            if layer != 'conv1' and name in axes:
                expected[axes[name]] //= 2
            shapes = {shard.data.shape for shard in x.addressable_shards}
            assert shapes == {tuple(expected)}, path


def test_a_checkpoint_is_restored_on_the_other_placement(tmp_path):
    """The saved arrays are the same; only where they lie depends on the setting."""
    mesh = nets.mesh_of(1, data=2)
    configs = {dense: config_of(mesh__dense=dense) for dense in ('tower', 'all')}
    for saved, restored in (('tower', 'all'), ('all', 'tower')):
        state = place_initial_state(configs[saved], mesh)
        with Checkpoints(tmp_path / saved, keep=1) as checkpoints:
            checkpoints.save(state, Position(0))
            checkpoints.wait()
            other, _ = checkpoints.restore(state_shapes(configs[restored], mesh))
        nets.assert_equal_leaves(jax.device_get(other), jax.device_get(state))
        expected = place_initial_state(configs[restored], mesh)
        for x, y in zip(jax.tree.leaves(other), jax.tree.leaves(expected), strict=True):
            assert x.sharding == y.sharding


def test_a_mask_does_not_depend_on_the_device_of_its_unit():
    draw = dropout.Masks(jax.random.key(0), 4).draw
    place = towers.PartitionSpec(None, None, 'data')

    def masks(mesh, split, spec):
        def parts():
            return draw(6, 2, 64, 0.5, split)

        return jax.jit(jax.shard_map(parts, mesh=mesh, in_specs=(), out_specs=spec))()

    expected = masks(nets.mesh_of(1), 'images', towers.PartitionSpec())
    np.testing.assert_array_equal(masks(nets.mesh_of(1, data=2), 'units', place), expected)


def test_units_that_the_replicas_cannot_divide_are_one_line():
    with pytest.raises(UserError, match='cannot spread the 250 units of fc6') as error:
        nets.small(model__fc6__units=2000, mesh__data=4, mesh__dense='all')
    assert "over mesh.data=4 devices: set mesh.dense='tower'" in str(error.value)
    nets.small(model__fc6__units=2000, mesh__data=4)


def test_a_mesh_that_is_chosen_divides_the_units():
    config = dict(model__fc6__units=2000, mesh__dense='all')  # 250 at this width
    devices = group([8], platform='gpu')
    assert towers.choose_mesh(nets.small(**config), devices).shape['data'] == 2
    with pytest.raises(UserError, match='the 250 units of fc6 and the 256 units of fc7 are not'):
        towers.choose_mesh(nets.small(**config), group([2] * 4, range(4)))


def test_a_net_is_refused_on_a_mesh_that_cannot_divide_its_units():
    config = nets.small(model__fc7__units=2040, mesh__dense='all')
    with pytest.raises(ValueError, match='the 255 units of fc7 cannot be spread over 2 devices'):
        Net(config, mesh=nets.mesh_of(1, data=2))
