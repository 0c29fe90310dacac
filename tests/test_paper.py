"""The paper, as assertions on configs/ilsvrc2012.py, and the 2012 code, on other configs."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.config import loading, schema
from alexnet_jax.model import alexnet
from alexnet_jax.model.layer_table import layer_table, parameter_count
from alexnet_jax.model.parameters import Average

# (shape over both towers, standard deviation, bias): §3.5, §5 and Figure 2.
LAYERS = {
    'conv1': ((2, 11, 11, 3, 48), 0.01, 0),
    'conv2': ((2, 5, 5, 48, 128), 0.01, 1),
    'conv3': ((2, 3, 3, 256, 192), 0.01, 0),
    'conv4': ((2, 3, 3, 192, 192), 0.01, 1),
    'conv5': ((2, 3, 3, 192, 128), 0.01, 1),
    'fc6': ((2, 9216, 2048), 0.01, 1),
    'fc7': ((2, 4096, 2048), 0.01, 1),
    'fc8': ((2, 2048, 1000), 0.01, 0),
}


@pytest.fixture(scope='module')
def config():
    return nets.full()


@pytest.fixture(scope='module')
def params(config):
    return alexnet.initialize(config)


def test_number_of_parameters(config, params):
    """The paper's "60 million parameters" are compared with the layer table and the arrays."""
    assert sum(x.size for x in jax.tree.leaves(params)) == 60_965_224
    assert parameter_count(config) == 60_965_224


@pytest.mark.parametrize('layer', LAYERS)
def test_shapes_and_initial_values(params, layer):
    shape, std, bias = LAYERS[layer]
    (name,) = (n for n in params[layer] if n.startswith('kernel'))
    kernel = np.asarray(params[layer][name])
    assert kernel.shape == shape
    assert kernel.dtype == np.float32
    # Five times the relative error of the standard deviation of n samples, 1 / sqrt(2 n).
    assert kernel.std() == pytest.approx(std, rel=5 / np.sqrt(2 * kernel.size))
    assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size)
    (bias_name,) = (n for n in params[layer] if n.startswith('bias'))
    assert params[layer][bias_name].size == (1000 if layer == 'fc8' else 2 * shape[-1])
    np.testing.assert_array_equal(params[layer][bias_name], bias)


def test_towers_have_different_initial_weights(params):
    first, second = params['conv1']['kernel_THWIO']
    assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 0.05


def test_sizes_of_maps(config):
    rows = {row.name: row for row in layer_table(config)}
    assert [rows[f'conv{i}'].size for i in range(1, 6)] == [55, 27, 13, 13, 13]
    assert [rows[f'conv{i}'].pooled for i in (1, 2, 5)] == [27, 13, 6]


def test_sizes_of_maps_for_digits():
    rows = layer_table(nets.override(nets.load('digits')))
    assert [(r.size, r.pooled) for r in rows[:5]] == [(15, 7), (7, 3), (3, 3), (3, 3), (3, 1)]


def test_neurons(config):
    """They are those of Figure 2, except 290,400 in conv1.

    The caption's 253,440 is 55 x 48 x 96.
    """
    neurons = [r.size**2 * r.maps * config.model.towers for r in layer_table(config)[:-1]]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096]


def test_values_that_towers_exchange(config):
    """Only conv3, fc6, fc7 and fc8 exchange, 169 x 128 + 36 x 128 + 2,048 + K values per image."""
    crossing = {r.name: r.crossing for r in layer_table(config) if r.crossing}
    assert crossing == {'conv3': 169 * 128, 'fc6': 36 * 128, 'fc7': 2048, 'fc8': 1000}


def test_printed_constants(config):
    """They are in §3.3, §3.4, §4.2 and §5."""
    model = config.model
    norm = model.response_normalization
    assert (norm.k, norm.size, norm.alpha, norm.beta) == (2, 5, 1e-4, 0.75)
    assert (model.max_pooling.window, model.max_pooling.stride) == (3, 2)
    assert (model.fc6.dropout, model.fc7.dropout) == (0.5, 0.5)
    optimizer = config.optimizer
    assert (optimizer.batch_size, optimizer.momentum) == (128, 0.9)
    assert (optimizer.weight_decay, optimizer.epochs) == (0.0005, 90)
    assert optimizer.bias_rate_factor == 1  # "an equal learning rate for all layers"
    rate = config.learning_rate
    assert (rate.initial, rate.schedule) == (0.01, 'plateau')
    assert (rate.plateau.divide_by, rate.plateau.drops) == (10, 3)
    assert (config.dataset.image_size, config.augmentation.crop, config.views) == (256, 224, 10)


def test_order_of_operations(config):
    """By §3.5, conv1 and conv2 are normalized and pooled, conv5 is pooled, and all have a ReLU."""
    then = [layer.then for layer in config.model.convolutions().values()]
    all_three = ('relu', 'response_normalization', 'max_pooling')
    assert then == [all_three, all_three, ('relu',), ('relu',), ('relu', 'max_pooling')]


# --- configs/ilsvrc2012_as_run.py, which is net #145 of the 2012 code.


@pytest.fixture(scope='module')
def as_run():
    return nets.override(nets.load('ilsvrc2012_as_run'))


def test_the_recipes_differ_in_values_only(config, as_run):
    """They differ in these settings, which are the rows of docs/decisions.md."""
    printed, run = (schema.flatten(schema.as_dict(c)) for c in (config, as_run))
    assert printed.keys() == run.keys()
    assert {name for name in run if printed[name] != run[name]} == {
        'dataset.reshuffle',
        'augmentation.positions',
        'augmentation.images_per_draw',
        'augmentation.colour.noise',
        'augmentation.colour.divide',
        'augmentation.colour.until_epoch',
        'model.conv1.then',
        'model.conv2.then',
        'model.conv5.then',
        'model.conv3.std',
        'model.conv4.std',
        'model.conv5.std',
        'model.conv6.std',
        'model.response_normalization.alpha',
        'optimizer.epochs',
        'optimizer.bias_weight_decay',
        'optimizer.bias_rate_factor',
        'optimizer.bias_rate_falls',
        'learning_rate.schedule',
        'learning_rate.conv1.lower_at',
        'learning_rate.conv1.freeze_at',
    }


def test_order_as_run(as_run):
    """In layers-145.cfg, rnorm1 comes before pool1 and its ReLU.

    rnorm2 and cnorm2 come after conv2's ReLU.
    """
    model = as_run.model
    assert model.conv1.then == ('response_normalization', 'max_pooling', 'relu')
    assert model.conv2.then == (
        'relu',
        'response_normalization',
        'spatial_normalization',
        'max_pooling',
    )
    assert model.conv5.then == ('max_pooling', 'relu')


def test_normalization_as_run(as_run):
    """By layer-params-145.cfg and layer.py:1183, the scales are 1e-4 / 5 and 1e-3 / 25."""
    norm, spatial = as_run.model.response_normalization, as_run.model.spatial_normalization
    assert (norm.size, norm.k, norm.beta) == (5, 2, 0.75)
    assert norm.alpha == pytest.approx(0.0001 / 5)
    assert (spatial.size, spatial.k, spatial.beta) == (5, 1, 0.75)
    assert spatial.alpha == pytest.approx(0.001 / 25)


def test_initial_values_as_run(as_run):
    layers = as_run.model.layers()
    assert [layer.std for layer in layers.values()] == [0.01, 0.01, 0.03, 0.03, 0.03] + [0.01] * 3
    assert [layer.bias for layer in layers.values()] == [0, 1, 0, 1, 1, 1, 1, 0]


def test_learning_as_run(as_run):
    """The values are in layer-params-145.cfg:169, weights.cu:146 and convdata_jpeg.py.

    The learning rates are in test_optimizer.py.
    """
    optimizer, views = as_run.optimizer, as_run.augmentation
    assert (optimizer.batch_size, optimizer.momentum, optimizer.epochs) == (128, 0.9, 91)
    assert (optimizer.weight_decay, optimizer.bias_weight_decay) == (0.0005, 0)
    assert as_run.learning_rate.initial * optimizer.bias_rate_factor == 0.02
    assert not optimizer.bias_rate_falls
    assert as_run.learning_rate.steps.epochs == (25, 51, 79)
    assert (views.crop, views.positions, views.images_per_draw, views.mean) == (
        224,
        33,
        32,
        'image',
    )
    noise = views.colour
    assert (noise.noise, noise.deviation, noise.divide) == ('root', 0.1, True)
    assert (noise.deviation_at(66.9), noise.deviation_at(67.0)) == (0.1, 0)
    assert not as_run.dataset.reshuffle


def test_the_sixth_convolution():
    """In layers-146-2011.cfg it has 128 maps of 3x3 over both towers' last pools.

    The standard deviation is 0.03 and the bias 1.
    """
    config = nets.override(nets.load('fall2011'))
    layer = config.model.convolutions()['conv6']
    assert (layer.maps, layer.kernel, layer.padding, layer.reads) == (128, 3, 1, 'all')
    assert (layer.std, layer.bias, layer.then) == (0.03, 1, ('relu',))
    rows = {row.name: row for row in layer_table(config)}
    assert (rows['conv6'].size, rows['conv6'].reads, rows['fc8'].maps) == (6, 256, 21_841)
    assert rows['conv6'].crossing == 36 * 128


def test_the_bottleneck_of_the_net_for_all_of_imagenet():
    """In layers-146-2011.cfg, fc1a and fc1b have 1,024 units without neuron= over both towers.

    The fine-tuned net (layers-146-2012-2011.cfg) has none.
    """
    config = nets.override(nets.load('fall2011'))
    layer = config.model.layers()['bottleneck']
    assert (layer.units, layer.reads, layer.std, layer.bias) == (1024, 'all', 0.01, 0)
    *_, fc7, bottleneck, fc8 = layer_table(config)
    assert (fc7.name, bottleneck.name, fc8.name) == ('fc7', 'bottleneck', 'fc8')
    assert (bottleneck.reads, bottleneck.maps) == (2 * 2048, 1024)
    assert bottleneck.parameters == 2 * (4096 * 1024 + 1024)
    assert bottleneck.crossing == 2048
    assert fc8.parameters == 2 * 1024 * 21_841 + 21_841
    fine_tuned = nets.override(nets.load('ilsvrc2012_fine_tuned'))
    layers = {*fine_tuned.model.layers()}
    assert 'bottleneck' not in layers
    assert {*fine_tuned.pretrained.layers} == layers - {'fc8'}


def test_the_fixed_schedule_is_that_of_net_170():
    """layer-params-170.cfg has the net of ilsvrc2012_as_run with another schedule."""
    names = 'ilsvrc2012_fixed_schedule', 'ilsvrc2012_as_run'
    config, as_run = (nets.override(nets.load(name)) for name in names)
    assert config.model == as_run.model
    assert config.augmentation.colour.until_epoch == 68
    assert config.optimizer == dataclasses.replace(as_run.optimizer, epochs=95.0)


@pytest.mark.parametrize('name', loading.recipes())
def test_every_config_is_complete(name):
    """It has all settings, valid values, layers that fit, and its command in the docstring."""
    raw = nets.load(name).to_dict()
    config = nets.override(nets.load(name), dataset__classes=raw['dataset']['classes'] or 10)
    assert schema.flatten(raw).keys() == schema.flatten(nets.load('digits').to_dict()).keys()
    assert parameter_count(config) == parameters_of_arrays(config)
    text = (nets.ROOT / 'configs' / f'{name}.py').read_text()
    assert re.search(rf'alexnet_jax\.main --config={name}\b', text) or name == 'digits'


def parameters_of_arrays(config):
    """Counts the parameters in the arrays, without the averages of batch normalization."""
    infos = alexnet.parameter_info(config)
    sizes = jax.tree.map(
        lambda info, x: 0 if info.kind is Average else x.size, infos, alexnet.shapes(config)
    )
    return sum(jax.tree.leaves(sizes))


def test_the_cifar_nets():
    """They are layers-conv-local-13pct.cfg and -11pct.cfg with their layer-params."""
    plain, normalized = (
        nets.override(nets.load(name)) for name in ('cifar10', 'cifar10_normalized')
    )
    rows = layer_table(plain)
    assert [(r.size, r.pooled, r.maps) for r in rows] == [
        (32, 16, 64),
        (16, 8, 64),
        (8, 8, 32),
        (8, 8, 32),
        (1, 1, 10),
    ]
    assert [layer.std for layer in plain.model.layers().values()] == [1e-4, 0.01, 0.04, 0.04, 0.01]
    for config, fc10 in ((plain, 0.004), (normalized, 0.01)):
        decay = [layer.decay_factor * 0.004 for layer in config.model.layers().values()]
        assert decay == pytest.approx([0, 0, 0.004, 0.004, fc10])
        assert config.learning_rate.initial == 0.001
        assert config.optimizer.bias_rate_factor == 2
        assert not config.optimizer.bias_rate_falls  # epsB is 0.002 when epsW is 0.00001
    norm = normalized.model.response_normalization
    assert (norm.size, norm.k, norm.beta) == (9, 1, 0.75)
    assert norm.alpha == pytest.approx(0.001 / 9)
    assert normalized.model.conv3.maps == 64
