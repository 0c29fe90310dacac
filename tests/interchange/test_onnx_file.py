"""ONNX files: what ONNX Runtime computes from them, against our net; and what they say."""

import base64
import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

import alexnet_jax
import nets
from alexnet_jax.data import augmentation, loader, sources
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.interchange import onnx_check, onnx_file
from alexnet_jax.interchange.portable_net import PortableNet, read_run
from alexnet_jax.model import alexnet
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import config_file
from alexnet_jax.training.run_files.inputs_file import Inputs

# Of the largest logit. Both compute in float32 and sum up to some 1000 products in another order;
# we measured 3e-7 to 1e-6.
TOLERANCE = 1e-5


def portable(config, seed=0):
    """A net in which every number counts: weights, biases, averages; and the inputs of a run."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: x + rng.uniform(0.01, 0.05, x.shape).astype(np.float32) * (x.ndim < 3),
        alexnet.initialize(config),
    )
    size, classes = config.dataset.image_size, config.dataset.classes
    mean_HWC = rng.uniform(90, 150, (size, size, 3)).astype(np.float32)
    names = tuple(f'n{i}' for i in range(classes))
    descriptions = tuple(f'Gefäß {i}' for i in range(classes))
    return PortableNet(config, params, Inputs(mean_HWC, COLOURS_2012, names, descriptions), 7)


def random_images(config, number=7):
    size = config.dataset.image_size
    return np.random.default_rng(1).integers(0, 256, (number, size, size, 3), np.uint8)


def crops(net, images):
    """The crops that our net takes: the central ones, with the mean subtracted."""
    settings = net.config.augmentation
    first = jnp.int32((net.config.dataset.image_size - settings.crop) // 2)
    place = (settings.crop, first, first, jnp.bool_(False))
    return augmentation.take_view(images, net.inputs.mean_HWC, *place, settings.deviations)


def our_logits(net, images):
    logits = nets.compiled_logits(net.config, nets.mesh_of(1), optimized=False)
    return np.asarray(logits(net.params, crops(net, images)))


def assert_equal_logits(actual, expected):
    assert actual.dtype == np.float32
    scale = abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=TOLERANCE)


def as_run():
    """configs/ilsvrc2012_as_run.py with few maps: LRN before ReLU, and over pixels."""
    small = dict(model__width=0.125, dataset__image_size=72, augmentation__crop=64)
    classes = dict(dataset__classes=10, augmentation__positions=0)
    return nets.override(nets.load('ilsvrc2012_as_run'), **small, **classes)


# Few maps and few units, so that they compile in about a second.
FEW = dict(model__width=0.0625)
# Response normalization counts for more than with the paper's constants.
STRONG = dict(model__response_normalization__alpha=0.01)
CONFIGS = {
    'two towers': lambda: nets.small(**FEW, **STRONG),
    'one tower': lambda: nets.small(**FEW, **STRONG, model__towers=1),
    'four towers, pools that extend beyond the edge': lambda: nets.small(
        **FEW, **STRONG, model__towers=4, augmentation__crop=60
    ),
    'as run': as_run,
    "towers that normalization crosses, with Caffe's sizes": lambda: nets.small(
        **FEW,
        **STRONG,
        model__response_normalization__reads='all',
        model__conv1__extra_padding=False,
        augmentation__crop=66,
    ),
    "one tower with torchvision's dropout and deviations": lambda: nets.small(
        **FEW,
        model__towers=1,
        model__conv1__padding=2,
        model__conv1__extra_padding=False,
        model__conv1__then=('relu', 'max_pooling'),
        model__conv2__then=('relu', 'max_pooling'),
        model__fc6__input_dropout=0.4,
        model__fc7__input_dropout=0.3,
        augmentation__deviations=(58.395, 57.12, 57.375),
    ),
    'average pooling': lambda: nets.small(
        **FEW,
        model__conv5__then=('relu', 'global_average_pooling'),
        model__fc6__units=0,
        model__fc7__units=0,
    ),
    'batch normalization': lambda: nets.small(
        **FEW,
        model__conv1__batch_normalization=True,
        model__conv1__then=('tanh', 'max_pooling'),
        model__conv3__batch_normalization=True,
    ),
    'towers that meet at fc8 alone, several pixels, a bottleneck': lambda: nets.small(
        **FEW,
        model__conv3__reads='own',
        model__conv5__then=('relu',),
        model__fc6__reads='own',
        model__fc7__reads='own',
        model__fc6__dropout=0.3,
        model__fc7__nonlinearity='tanh',
        model__bottleneck__units=64,
    ),
    # Windows of even sizes begin one map or pixel earlier than they end. Pools that are further
    # apart than they are wide leave out those that would begin beyond the edge.
    'even windows, pools with gaps, an odd crop': lambda: nets.small(
        **FEW,
        **STRONG,
        augmentation__crop=67,
        model__response_normalization__size=4,
        model__response_normalization__beta=0.6,
        model__spatial_normalization__size=4,
        model__max_pooling__window=2,
        model__max_pooling__stride=3,
        model__conv2__then=('relu', 'spatial_normalization', 'response_normalization'),
        model__conv5__then=('relu',),
    ),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_onnx_runtime_computes_our_logits(name, tmp_path):
    net = portable(CONFIGS[name]())
    images, file = random_images(net.config), tmp_path / 'net.onnx'
    onnx_file.write(net, file)
    onnx.checker.check_model(str(file), full_check=True)
    expected = our_logits(net, images)
    assert abs(expected - expected[0]).max() > 1e-3 * abs(expected).max()  # images differ
    assert_equal_logits(onnx_check.logits(file, images), expected)


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
    expected = our_logits(net, digits)
    for number in (1, 7, 64):
        assert_equal_logits(onnx_check.logits(file, digits[:number]), expected[:number])


def test_the_preprocessing_may_be_left_to_the_caller(run_file, digits, tmp_path):
    net, file = run_file
    outside = tmp_path / 'outside.onnx'
    onnx_file.write(net, outside, preprocessing=False)
    crops_BCHW = np.asarray(crops(net, digits[:7])).transpose(0, 3, 1, 2)
    inside = onnx_check.logits(file, digits[:7])
    np.testing.assert_array_equal(onnx_check.logits(outside, crops_BCHW), inside)
    properties = onnx_check.open_session(outside).get_modelmeta().custom_metadata_map
    mean = np.frombuffer(base64.b64decode(properties['mean_image']), '<f4')
    crop = net.config.augmentation.crop
    middle_BHWC = digits[:7, 4 : 4 + crop, 4 : 4 + crop].astype(np.float32)
    mean_CHW = mean.reshape(3, crop, crop)
    np.testing.assert_array_equal(middle_BHWC.transpose(0, 3, 1, 2) - mean_CHW[None], crops_BCHW)


def test_a_file_says_what_it_takes_and_gives(tmp_path):
    net, file = portable(nets.small(**FEW, dataset__data_dir='/of/me')), tmp_path / 'net.onnx'
    onnx_file.write(net, file)
    assert b'/of/me' not in file.read_bytes()
    session = onnx_check.open_session(file)
    (images,), outputs = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == (
        *('images', 'tensor(uint8)'),
        ['batch', 72, 72, 3],
    )
    assert [(x.name, x.shape) for x in outputs] == [
        ('logits', ['batch', 10]),
        ('probabilities', ['batch', 10]),
    ]
    logits, p = session.run(None, {'images': random_images(net.config)})
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


def test_a_net_of_bfloat16_is_computed_in_float32(tmp_path):
    """Its file has the weights and the results of the same net in float32."""
    net = portable(nets.small(**FEW))
    half = portable(nets.small(**FEW, model__dtype='bfloat16'))
    for one, name in ((net, 'a'), (half, 'b')):
        onnx_file.write(one, tmp_path / name)
    images = random_images(net.config)
    logits, half_logits = (onnx_check.logits(tmp_path / name, images) for name in 'ab')
    np.testing.assert_array_equal(logits, half_logits)
    properties = onnx_check.open_session(tmp_path / 'b').get_modelmeta().custom_metadata_map
    assert properties['arithmetic'] == 'float32; the net was trained in bfloat16'


def test_writing_again_gives_the_same_bytes(tmp_path):
    net = portable(nets.small(**FEW))
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
    net, file = portable(nets.small(**FEW)), tmp_path / 'net.onnx'
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(UserError, match='needs the package onnx: pip install onnx'):
        onnx_file.write(net, file)
    assert not file.exists()
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match='needs the package onnxruntime: pip install onnxruntime'):
        onnx_check.logits(file, random_images(net.config))


def test_names_of_classes_may_be_any_text(run_file):
    """A property of an ONNX file is UTF-8; the names of folders need not be."""
    net, _ = run_file
    classes = ('größe', '\udcff', '猫', *net.inputs.classes[3:])
    inputs = dataclasses.replace(net.inputs, classes=classes)
    properties = onnx_file.metadata(dataclasses.replace(net, inputs=inputs), preprocessing=True)
    assert all(text.encode() for text in properties.values())
    assert tuple(json.loads(properties['classes'])) == classes
