"""Nets in Caffe's layout: their logits, and what is refused."""

import functools

import jax
import numpy as np
import pytest

import caffe_files
import nets
from alexnet_jax.interchange import grouped_layout
from alexnet_jax.interchange.grouped_layout import dropout_factors
from alexnet_jax.interchange.incoming import caffe_net
from alexnet_jax.interchange.incoming.weights import to_params
from alexnet_jax.model import alexnet
from alexnet_jax.runtime.user_errors import UserError
from caffe_files import Form, Layer

RECIPES = ('bvlc_alexnet', 'bvlc_reference_caffenet')
# Sizes that are rounded: 24.25 maps across conv1 (down), then 11.5, 5.5 and 2.5 pools (up).
TINY = dict(
    model__width=1 / 12, dataset__image_size=110, augmentation__crop=104, dataset__classes=10
)


@functools.cache
def config(recipe, **overrides):
    return nets.override(nets.load(recipe), **TINY | overrides)


def layers(recipe, seed=0):
    """A small net of the recipe's kind, as Caffe states it."""
    shapes = grouped_layout.shapes(config(recipe))
    weights = {
        name.removesuffix('.weight'): shape for name, shape in shapes.items() if 'weight' in name
    }
    groups = grouped_layout.groups(config(recipe))
    return caffe_files.alexnet(weights, groups, recipe == RECIPES[1], seed)


def write(path, data):
    path.write_bytes(data)
    return path


def test_the_recipes_have_the_shapes_of_the_published_nets():
    """As in models/bvlc_alexnet/deploy.prototxt; both nets have the same."""
    for recipe in RECIPES:
        shapes = grouped_layout.shapes(nets.override(nets.load(recipe)))
        weights = {k.removesuffix('.weight'): v for k, v in shapes.items() if 'weight' in k}
        assert weights == caffe_files.SHAPES


@pytest.mark.parametrize(
    ('recipe', 'towers', 'form'),
    [
        (RECIPES[0], 2, Form('v1', legacy=True)),
        (RECIPES[0], 1, Form('v2', double=True)),
        (RECIPES[1], 1, Form('v2')),
    ],
)
def test_the_logits_are_those_of_caffe(recipe, towers, form, tmp_path):
    """To 1e-5 of the largest: ours are sums in float32, those of the test in float64."""
    net = layers(recipe)
    weights, read = caffe_net.read_weights(
        write(tmp_path / 'x.caffemodel', caffe_files.net(net, form))
    )
    assert weights.recipe == recipe
    assert weights.classes == 10
    caffe_net.check_settings(weights, read, config(recipe))
    params = to_params(weights, config(recipe))
    images = nets.images(config(recipe), 3)
    blue_green_red = images[..., ::-1].transpose(0, 3, 1, 2)
    expected = caffe_files.forward(net, blue_green_red)
    mesh = nets.mesh_of(towers)
    actual = nets.compiled_logits(config(recipe), mesh)(params, images)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_normalization_and_the_order_of_the_layers_matter_in_that_comparison():
    """Without either the logits differ by a thousand times the tolerance."""
    images = np.random.default_rng(0).uniform(-128, 128, (2, 3, 104, 104))
    net, other = layers(RECIPES[0]), layers(RECIPES[1])
    expected = caffe_files.forward(net, images)
    without = caffe_files.forward([layer for layer in net if layer.type != 'LRN'], images)
    for logits in (caffe_files.forward(other, images), without):
        assert np.abs(logits - expected).max() > 1e-2 * np.abs(expected).max()


def test_our_weights_come_back_bit_by_bit(tmp_path):
    """Through Caffe's layout and convention of dropout, whose rate of 0.5 is exact."""
    ours = alexnet.initialize(config(RECIPES[0]))
    arrays = grouped_layout.to_grouped(config(RECIPES[0]), ours)
    for name, factor in dropout_factors(config(RECIPES[0])).items():
        assert factor == 0.5
        arrays[f'{name}.weight'] = arrays[f'{name}.weight'] * np.float32(factor)
    arrays['conv1.weight'] = arrays['conv1.weight'][:, ::-1]
    net = [
        layer._replace(blobs=tuple(arrays[f'{layer.name}.{kind}'] for kind in ('weight', 'bias')))
        if layer.blobs
        else layer
        for layer in layers(RECIPES[0])
    ]
    weights, _ = caffe_net.read_weights(write(tmp_path / 'x', caffe_files.net(net)))
    theirs = to_params(weights, config(RECIPES[0]))
    nets.assert_equal_leaves(theirs, ours)
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)


def test_the_imported_arrays_are_no_views_of_the_file(tmp_path):
    weights, _ = caffe_net.read_weights(write(tmp_path / 'x', caffe_files.net(layers(RECIPES[0]))))
    for array in jax.tree.leaves(to_params(weights, config(RECIPES[0]))):
        assert array.dtype == np.float32
        assert array.flags.writeable
        assert array.flags.aligned


def test_without_normalization_and_pooling_in_the_file_the_name_says_which_net_it_is(tmp_path):
    net = [layer for layer in layers(RECIPES[0]) if layer.blobs]
    for name, recipe in (('CaffeNet', RECIPES[1]), ('AlexNet', RECIPES[0]), ('other', '')):
        path = write(tmp_path / 'x', caffe_files.net(net, name=name))
        assert caffe_net.read_weights(path)[0].recipe == recipe


def test_a_layer_that_was_trained_anew_has_another_name(tmp_path):
    net = [
        layer._replace(name='fc8_flickr') if layer.name == 'fc8' else layer
        for layer in layers(RECIPES[0])
    ]
    weights, _ = caffe_net.read_weights(write(tmp_path / 'x', caffe_files.net(net)))
    assert weights.classes == 10
    to_params(weights, config(RECIPES[0]))


def test_the_mean_image_becomes_red_green_blue(tmp_path):
    mean_CHW = np.random.default_rng(0).uniform(0, 255, (3, 9, 9)).astype(np.float32)
    for form in (Form(legacy=True), Form(packed=False)):
        path = write(tmp_path / 'mean', caffe_files.blob(mean_CHW, form))
        mean_HWC = caffe_net.read_mean(path, 9)
        np.testing.assert_array_equal(mean_HWC[:, :, 0], mean_CHW[2])  # Caffe's last is red
        np.testing.assert_array_equal(mean_HWC[:, :, 2], mean_CHW[0])
    with pytest.raises(UserError, match=r'the shape \(3, 9, 9\), but the images of this net have'):
        caffe_net.read_mean(path, 256)
    with pytest.raises(UserError, match='outside of 0 to 255'):
        caffe_net.read_mean(write(path, caffe_files.blob(mean_CHW - 200)), 9)


def changed(name, **settings):
    return [
        layer._replace(settings=layer.settings | settings) if layer.name == name else layer
        for layer in layers(RECIPES[0])
    ]


def replaced(name, *blobs):
    return [
        layer._replace(blobs=blobs) if layer.name == name else layer for layer in layers(RECIPES[0])
    ]


ODD = np.zeros((7, 3, 11, 11), np.float32)
ROUNDED_UP = {'augmentation__crop': 68, 'model__conv1__extra_padding': True}


@pytest.mark.parametrize(
    ('net', 'overrides', 'reason'),
    [
        (changed('conv2', pad=1), {}, 'conv2 has pad=1, but the config corresponds to 2'),
        (changed('conv1', stride=2), {}, 'conv1 has stride=2'),
        (changed('conv3', group=2), {}, 'conv3 has group=2'),
        (changed('norm1', alpha=2e-4), {}, 'norm1 has alpha=0.0002, but the config corresponds'),
        (changed('norm2', norm_region=1), {}, 'norm2 has norm_region=1'),
        (changed('pool5', pool=1), {}, 'pool5 has pool=1'),
        (layers(RECIPES[1]), {}, 'conv1 is followed by relu, max_pooling, response_normalization'),
        (layers(RECIPES[0]), {'model__response_normalization__reads': 'own'}, 'set it to all'),
        (layers(RECIPES[0]), {'model__width': 1 / 24}, r'pass --config.model.width=0.083'),
        (layers(RECIPES[0]), {'dataset__classes': 9}, 'leave --config.dataset.classes out'),
        (layers(RECIPES[0]), {'augmentation__crop': 80}, r'--config.augmentation.crop'),
        (layers(RECIPES[0]), ROUNDED_UP, 'rounds the size of the maps of conv1 down'),
        (layers(RECIPES[0]), {'model__conv2__kernel': 3}, r'--config.model.conv2.kernel'),
        (layers(RECIPES[0]), {'model__conv6__maps': 9}, 'lacks conv6.weight, conv6.bias'),
        (replaced('conv1', ODD, ODD[:, 0, 0, 0]), {}, '--config.model.conv1.maps'),
        (replaced('conv1', ODD), {}, 'conv1 in .* has the shape'),
        (replaced('conv1', ODD, ODD, ODD), {}, 'conv1 in .* has 3 arrays'),
        (replaced('conv3'), {}, 'lacks conv3.weight, conv3.bias'),
        ([*layers(RECIPES[0]), Layer('conv7', 'Convolution', {}, (ODD,))], {}, 'no AlexNet has'),
        ([*layers(RECIPES[0]), *layers(RECIPES[0])], {}, 'conv1 with weights, a second time'),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(net, overrides, reason, tmp_path):
    path = write(tmp_path / 'x', caffe_files.net(net))
    other = config(RECIPES[0], **overrides)

    def convert():
        weights, read = caffe_net.read_weights(path)
        caffe_net.check_settings(weights, read, other)
        to_params(weights, other)

    with pytest.raises(UserError, match=reason) as error:
        convert()
    assert '\n' not in str(error.value)
