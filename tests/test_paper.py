"""The paper, as assertions on configs/ilsvrc2012.py at full size."""

import jax
import numpy as np
import pytest

import nets
from alexnet_jax import model

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
    return model.initialize(config)


def test_parameters(config, params):
    """ "60 million parameters": by hand, by the table, and by counting."""
    assert sum(x.size for x in jax.tree.leaves(params)) == 60_965_224
    assert model.parameter_count(config) == 60_965_224


@pytest.mark.parametrize('layer', LAYERS)
def test_shapes_and_initial_values(params, layer):
    shape, std, bias = LAYERS[layer]
    (name,) = (n for n in params[layer] if n.startswith('kernel'))
    kernel = np.asarray(params[layer][name])
    assert kernel.shape == shape
    assert kernel.dtype == np.float32
    # The deviation of a sample of n values is itself known to 1 / sqrt(2 n); five of these.
    assert kernel.std() == pytest.approx(std, rel=5 / np.sqrt(2 * kernel.size))
    assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size)
    (bias_name,) = (n for n in params[layer] if n.startswith('bias'))
    assert params[layer][bias_name].size == (1000 if layer == 'fc8' else 2 * shape[-1])
    np.testing.assert_array_equal(params[layer][bias_name], bias)


def test_towers_begin_differently(params):
    first, second = params['conv1']['kernel_THWIO']
    assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 0.05


def test_sizes_of_maps(config):
    rows = {row.name: row for row in model.layer_table(config)}
    assert [rows[f'conv{i}'].size for i in range(1, 6)] == [55, 27, 13, 13, 13]
    assert [rows[f'conv{i}'].pooled for i in (1, 2, 5)] == [27, 13, 6]


def test_digits_sizes():
    rows = model.layer_table(nets.override(nets.load('digits')))
    assert [(r.size, r.pooled) for r in rows[:5]] == [(15, 7), (7, 3), (3, 3), (3, 3), (3, 1)]


def test_neurons(config):
    """Figure 2; but 290,400 in conv1, where the caption's 253,440 is 55 x 48 x 96."""
    neurons = [r.size**2 * r.maps * config.model.towers for r in model.layer_table(config)[:-1]]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096]


def test_what_crosses(config):
    """conv3, fc6, fc7 and fc8 alone: 169 x 128 + 36 x 128 + 2,048 + K values per image."""
    crossing = {r.name: r.crossing for r in model.layer_table(config) if r.crossing}
    assert crossing == {'conv3': 169 * 128, 'fc6': 36 * 128, 'fc7': 2048, 'fc8': 1000}


def test_constants(config):
    """§3.3, §3.4, §4.2, §5."""
    m = config.model
    norm = m.response_normalization
    assert (norm.k, norm.size, norm.alpha, norm.beta) == (2, 5, 1e-4, 0.75)
    assert (m.max_pooling.window, m.max_pooling.stride) == (3, 2)
    assert (m.fc6.dropout, m.fc7.dropout) == (0.5, 0.5)
    ours = config.optimizer
    assert (ours.batch_size, ours.momentum, ours.weight_decay) == (128, 0.9, 0.0005)
    assert ours.epochs == 90
    assert ours.bias_rate_factor == 1  # "an equal learning rate for all layers"
    rate = config.learning_rate
    assert (rate.initial, rate.schedule) == (0.01, 'plateau')
    assert (rate.plateau.divide_by, rate.plateau.drops) == (10, 3)
    assert (config.dataset.image_size, config.augmentation.crop, config.views) == (256, 224, 10)


def test_order_of_operations(config):
    """§3.5: normalization after conv1 and conv2, pooling after both and conv5, ReLU everywhere."""
    then = [layer.then for layer in config.model.convolutions().values()]
    whole = ('relu', 'response_normalization', 'max_pooling')
    assert then == [whole, whole, ('relu',), ('relu',), ('relu', 'max_pooling')]
