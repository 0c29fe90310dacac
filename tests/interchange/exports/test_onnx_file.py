"""ONNX files: what ONNX Runtime computes from them, against our net; and what they say."""

import base64
import dataclasses
import json
import sys

import jax
import numpy as np
import onnx
import pytest

import alexnet_jax
import nets
import portable_nets
from alexnet_jax.data import sources
from alexnet_jax.data.loading import loader
from alexnet_jax.interchange.exports import checks, onnx_file
from alexnet_jax.interchange.portable_net import read_run
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import config_file

# Of the largest logit. Both compute in float32 and sum up to some 1000 products in another order;
# we measured 3e-7 to 1e-6.
TOLERANCE = 1e-5


def small_net(**overrides):
    return portable_nets.random_net(nets.small(**portable_nets.FEW, **overrides))


def onnx_logits(file, pixels):
    """The logits that ONNX Runtime computes from what the graph takes."""
    session = checks.open_session(file)
    return session.run(['logits'], {session.get_inputs()[0].name: pixels})[0]


def assert_equal_logits(actual, expected):
    assert actual.dtype == np.float32
    scale = abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('name', portable_nets.CONFIGS)
def test_onnx_runtime_computes_our_logits(name, tmp_path):
    net = portable_nets.random_net(portable_nets.CONFIGS[name]())
    images, file = portable_nets.random_images(net.config), tmp_path / 'net.onnx'
    onnx_file.write(net, file)
    onnx.checker.check_model(str(file), full_check=True)
    expected = portable_nets.logits(net, images)
    assert abs(expected - expected[0]).max() > 1e-3 * abs(expected).max()  # images differ
    assert_equal_logits(onnx_logits(file, images), expected)


@pytest.fixture(scope='module')
def run_file(trained_run, tmp_path_factory):
    """A run of training, and its ONNX file."""
    net, file = read_run(trained_run), tmp_path_factory.mktemp('onnx') / 'net.onnx'
    onnx_file.write(net, file)
    return net, file


@pytest.fixture(scope='module')
def digits(data_dir):
    """64 test images of the digits."""
    config = nets.small(dataset__data_dir=data_dir)
    source = sources.open_splits(config.dataset).eval
    reading = loader.Reading.from_config(config)
    return next(iter(loader.evaluation_batches(source, reading, 64)))['image']


def test_any_batch_of_digits_has_our_logits(run_file, digits):
    net, file = run_file
    expected = portable_nets.logits(net, digits)
    for number in (1, 7, 64):
        assert_equal_logits(onnx_logits(file, digits[:number]), expected[:number])


def test_the_preprocessing_may_be_left_to_the_caller(run_file, digits, tmp_path):
    net, file = run_file
    outside = tmp_path / 'outside.onnx'
    onnx_file.write(net, outside, preprocessing=False)
    crops_BCHW = checks.crops(net, digits[:7]).transpose(0, 3, 1, 2)
    inside = onnx_logits(file, digits[:7])
    np.testing.assert_array_equal(onnx_logits(outside, crops_BCHW), inside)
    properties = checks.open_session(outside).get_modelmeta().custom_metadata_map
    mean = np.frombuffer(base64.b64decode(properties['mean_image']), '<f4')
    crop = net.config.augmentation.crop
    middle_BHWC = digits[:7, 4 : 4 + crop, 4 : 4 + crop].astype(np.float32)
    mean_CHW = mean.reshape(3, crop, crop)
    np.testing.assert_array_equal(middle_BHWC.transpose(0, 3, 1, 2) - mean_CHW[None], crops_BCHW)


def test_a_file_says_what_it_takes_and_gives(tmp_path):
    net, file = small_net(dataset__data_dir='/of/me'), tmp_path / 'net.onnx'
    onnx_file.write(net, file)
    assert b'/of/me' not in file.read_bytes()
    session = checks.open_session(file)
    (images,), outputs = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == (
        *('images', 'tensor(uint8)'),
        ['batch', 72, 72, 3],
    )
    assert [(x.name, x.shape) for x in outputs] == [
        ('logits', ['batch', 10]),
        ('probabilities', ['batch', 10]),
    ]
    logits, p = session.run(None, {'images': portable_nets.random_images(net.config)})
    np.testing.assert_allclose(p, jax.nn.softmax(logits), atol=1e-6)
    meta = session.get_modelmeta()
    properties = meta.custom_metadata_map
    model = onnx.load(file)
    assert (model.producer_name, model.producer_version) == ('alexnet_jax', alexnet_jax.__version__)
    assert json.loads(properties['classes']) == list(net.inputs.classes)
    assert json.loads(properties['descriptions'])[3] == 'Gefäß 3'
    settings = config_file.plain(net.config)
    assert json.loads(properties['config']) == settings | {
        'dataset': settings['dataset'] | {'data_dir': ''}
    }
    assert properties['step'] == '7'
    assert '72 pixels' in properties['preprocessing']
    assert '64 x 64' in properties['preprocessing']


def test_names_of_classes_may_be_any_text(tmp_path):
    """Folders may have names with bytes that are not UTF-8, which Python has as surrogates."""
    net = small_net(dataset__classes=2)
    inputs = dataclasses.replace(net.inputs, classes=('größe', '\udcff'))
    onnx_file.write(dataclasses.replace(net, inputs=inputs), tmp_path / 'net')
    properties = checks.open_session(tmp_path / 'net').get_modelmeta().custom_metadata_map
    assert json.loads(properties['classes']) == ['größe', '\udcff']


def test_a_net_of_bfloat16_is_computed_in_float32(tmp_path):
    """Its file has the weights and the results of the same net in float32."""
    net = small_net()
    half = small_net(model__dtype='bfloat16')
    for one, name in ((net, 'a'), (half, 'b')):
        onnx_file.write(one, tmp_path / name)
    images = portable_nets.random_images(net.config)
    logits, half_logits = (onnx_logits(tmp_path / name, images) for name in 'ab')
    np.testing.assert_array_equal(logits, half_logits)
    properties = checks.open_session(tmp_path / 'b').get_modelmeta().custom_metadata_map
    assert properties['arithmetic'] == 'float32; the net was trained in bfloat16'


def test_writing_again_gives_the_same_bytes(tmp_path):
    net = small_net()
    for name in ('a', 'b'):
        onnx_file.write(net, tmp_path / name)
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (dict(model__conv4__shared=False), 'conv4 has separate weights for each place'),
        (
            dict(model__conv1__maps=65_536, model__conv2__maps=1),
            r'the weights have 32\.4 GiB',
        ),
        (dict(model__width=8.0), r'the weights have [0-9.]+ GiB, and an ONNX file can hold 2'),
    ],
)
def test_what_onnx_cannot_express_is_refused_before_the_weights_are_read(overrides, message):
    with pytest.raises(UserError, match=message):
        onnx_file.check(nets.full(**overrides))


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    net, file = small_net(), tmp_path / 'net.onnx'
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(UserError, match='needs the package onnx: pip install onnx'):
        onnx_file.write(net, file)
    assert not file.exists()
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match='needs the package onnxruntime: pip install onnxruntime'):
        checks.open_session(file)
