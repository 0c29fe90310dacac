"""The net that a notebook calls, on one device and on two."""

import copy
import json
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import nets
from alexnet_jax.model import alexnet
from alexnet_jax.model.net import Net


@pytest.fixture(scope='module')
def config():
    return nets.small()


@pytest.mark.parametrize(('tower', 'data'), [(1, 1), (2, 1), (1, 2)])
def test_its_logits_equal_those_of_the_training_program(config, tower, data):
    """They are equal bit for bit on the same mesh.

    The data axis does not have to divide the batch.
    """
    mesh, images = nets.mesh_of(tower, data), nets.images(config, 4)
    net = Net(config, mesh=mesh)
    expected = nets.compiled_logits(config, mesh)(alexnet.initialize(config), images)
    np.testing.assert_array_equal(net(images), expected)
    np.testing.assert_allclose(net(images[:3]), expected[:3], rtol=1e-5, atol=1e-6)


def test_its_parameters_are_sharded_by_tower(config):
    net = Net(config, mesh=nets.mesh_of(2))
    partitions = nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(net.towers)))
    assert partitions['fc8'] == {'kernel_TIK': P('tower'), 'bias': P()}
    assert partitions['conv1'] == {'kernel_THWIO': P('tower'), 'bias_TO': P('tower')}
    for path, x in jax.tree_util.tree_leaves_with_path(net.params):
        shapes = {shard.data.shape for shard in x.addressable_shards}
        is_replicated = jax.tree_util.keystr(path) == "['fc8']['bias']"
        assert shapes == {x.shape if is_replicated else (1, *x.shape[1:])}, path


def test_it_takes_pixels_of_any_real_dtype(config):
    net = Net(config, mesh=nets.mesh_of(1))
    pixels = np.round(nets.images(config, 2)).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(net(pixels), net(pixels.astype(np.float32)))


@pytest.mark.parametrize('shape', [(64, 64, 3), (2, 64, 64), (2, 63, 64, 3), (2, 3, 64, 64)])
def test_images_of_another_shape_are_refused(config, shape):
    net = Net(config, mesh=nets.mesh_of(1))
    with pytest.raises(ValueError, match=r'not \(B, 64, 64, 3\)'):
        net(np.zeros(shape, np.float32))


def test_it_uses_the_parameters_that_are_passed(config):
    params = jax.tree.map(np.zeros_like, alexnet.initialize(config))
    params['fc8']['bias'] = np.arange(10, dtype=np.float32)
    logits = Net(config, mesh=nets.mesh_of(2), params=params)(nets.images(config, 1))
    np.testing.assert_array_equal(logits, np.arange(10)[None])


def test_printing_a_layer_shows_only_its_own_settings(config):
    net = Net(config, mesh=nets.mesh_of(1))
    text = repr(net.towers.conv4)
    assert 'std=' in text
    assert 'momentum' not in text
    assert 'response_normalization' not in text  # conv4 has none
    assert 'response_normalization' in repr(net.towers.conv1)


NOTEBOOK = """
import json, sys
import alexnet_jax
assert 'jax' not in sys.modules
config = alexnet_jax.load_config('digits')
net = alexnet_jax.Net(config)
import numpy as np
images = np.random.default_rng(0).uniform(-128, 128, (2, 64, 64, 3))
print(json.dumps([dict(net.mesh.shape), np.asarray(net(images)).tolist()]))
"""


@pytest.mark.slow
def test_a_new_interpreter_gives_the_same_logits_on_one_and_two_devices():
    results = {}
    for devices in (1, 2):
        environment = os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)}
        command = [sys.executable, '-c', NOTEBOOK]
        output = subprocess.check_output(command, text=True, cwd=nets.ROOT, env=environment)
        mesh, logits = json.loads(output.splitlines()[-1])
        assert mesh == {'data': 1, 'tower': devices}
        results[devices] = np.asarray(logits)
    assert results[1].shape == (2, 10)
    assert results[1].std() > 0
    np.testing.assert_allclose(results[1], results[2], rtol=1e-5, atol=1e-6)


def test_it_is_copied_and_not_pickled(config):
    net = Net(config, mesh=nets.mesh_of(1))
    shallow, deep = copy.copy(net), copy.deepcopy(net)
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(net))
    nnx.update(net, zeros)
    images = np.ones((1, config.augmentation.crop, config.augmentation.crop, 3), np.float32)
    np.testing.assert_array_equal(shallow(images), net(images))
    assert np.abs(deep(images) - net(images)).max() > 0
    with pytest.raises(TypeError, match='a net cannot be pickled, because its arrays are on'):
        pickle.dumps(net)


def test_an_empty_batch_has_no_logits(config):
    assert Net(config, mesh=nets.mesh_of(2))(np.zeros((0, 64, 64, 3))).shape == (0, 10)


def test_what_does_not_suit_the_net_is_refused(config):
    one = nets.mesh_of(1)
    with pytest.raises(
        TypeError, match=r"config is 'digits': alexnet_jax\.load_config returns one"
    ):
        Net('digits', mesh=one)
    with pytest.raises(ValueError, match=r'another net: conv1\.bias_TO differs in shape'):
        Net(config, mesh=one, params=alexnet.initialize(nets.small(model__width=0.25)))
    with pytest.raises(ValueError, match='1 towers cannot be spread over 2 devices'):
        Net(nets.small(model__towers=1), mesh=nets.mesh_of(2))
    with pytest.raises(ValueError, match=r"the axes \('x',\), not \(data, tower\)"):
        Net(config, mesh=jax.make_mesh((1,), ('x',)))
