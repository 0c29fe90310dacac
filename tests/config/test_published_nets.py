"""The nets of Caffe and torchvision: their sizes, and what their recipes state."""

import pytest

import caffe_files
import nets
from alexnet_jax.model import alexnet
from alexnet_jax.model.layer_table import layer_table, parameter_count
from alexnet_jax.training.optimizer import Progress, rates

# The shapes of the published weights, as in caffe_files.SHAPES.
TORCHVISION = {
    'conv1': (64, 3, 11, 11),
    'conv2': (192, 64, 5, 5),
    'conv3': (384, 192, 3, 3),
    'conv4': (256, 384, 3, 3),
    'conv5': (256, 256, 3, 3),
    'fc6': (4096, 9216),
    'fc7': (4096, 4096),
    'fc8': (1000, 4096),
}
PUBLISHED = {
    'bvlc_alexnet': (caffe_files.SHAPES, 60_965_224),
    'bvlc_reference_caffenet': (caffe_files.SHAPES, 60_965_224),
    'torchvision': (TORCHVISION, 61_100_840),
}


def published_shape(name, layer):
    """Returns the shape of a layer's weights as Caffe and PyTorch store them."""
    (kernel,) = (x for key, x in layer.items() if key.startswith('kernel'))
    towers, *window, inputs, outputs = kernel.shape
    if name == 'fc8':  # each tower holds the weights of its own units
        return (outputs, towers * inputs)
    return (towers * outputs, inputs, *window)


@pytest.mark.parametrize('name', PUBLISHED)
def test_shapes_and_sizes_are_those_of_the_published_weights(name):
    config = nets.override(nets.load(name))
    expected, parameters = PUBLISHED[name]
    shapes = alexnet.shapes(config)
    assert {layer: published_shape(layer, shapes[layer]) for layer in shapes} == expected
    assert parameter_count(config) == parameters
    rows = {row.name: row for row in layer_table(config)}
    assert [rows[f'conv{i}'].size for i in range(1, 6)] == [55, 27, 13, 13, 13]
    assert [rows[f'conv{i}'].pooled for i in (1, 2, 5)] == [27, 13, 6]


def test_the_values_of_caffes_files():
    """They are in train_val.prototxt and solver.prototxt; lrn_layer.cpp divides alpha by 5."""
    alexnet_, caffenet = (nets.override(nets.load(name)) for name in list(PUBLISHED)[:2])
    biases = [layer.bias for layer in alexnet_.model.layers().values()]
    assert biases == [0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0]
    assert [layer.bias for layer in caffenet.model.layers().values()] == [0, 1, 0, 1, 1, 1, 1, 0]
    for config in (alexnet_, caffenet):
        stds = [layer.std for layer in config.model.layers().values()]
        assert stds == [0.01] * 5 + [0.005] * 2 + [0.01]
        norm = config.model.response_normalization
        assert (norm.size, norm.k, norm.beta, norm.reads) == (5, 1, 0.75, 'all')
        assert norm.alpha == pytest.approx(1e-4 / 5)
        assert [config.model.fc6.dropout, config.model.fc7.dropout] == [0.5, 0.5]
        assert (config.augmentation.crop, config.augmentation.mirror) == (227, True)
        optimizer = config.optimizer
        assert (optimizer.batch_size, optimizer.momentum) == (256, 0.9)
        assert (optimizer.weight_decay, optimizer.bias_weight_decay) == (0.0005, 0)
    normalized = ('relu', 'response_normalization', 'max_pooling')
    assert alexnet_.model.conv1.then == alexnet_.model.conv2.then == normalized
    pooled = ('relu', 'max_pooling', 'response_normalization')
    assert caffenet.model.conv1.then == caffenet.model.conv2.then == pooled


def test_the_schedule_of_caffes_solver():
    """The learning rate is divided by 10 every 100,000 of 450,000 steps, for biases too."""
    config = nets.override(nets.load('bvlc_alexnet'))
    epoch = 256 / 1_281_167  # of one step
    assert config.optimizer.epochs / epoch == pytest.approx(450_000, rel=1e-4)
    for step, rate in ((0, 1e-2), (99_900, 1e-2), (100_100, 1e-3), (449_000, 1e-6)):
        at = rates(config, step * epoch, Progress())
        assert at.weights == pytest.approx(rate)
        assert at.biases == pytest.approx(2 * rate)


def test_the_schedule_of_the_solver_for_large_batches():
    """4,000 steps; the rate rises from 1 to 32 in 400, and is then 32 (1 - step / 4000)^2."""
    config = nets.override(nets.load('ilsvrc2012_large_batch'))
    assert (config.optimizer.rule, config.optimizer.trust_coefficient) == ('lars', 0.001)
    assert config.optimizer.weight_decay == config.optimizer.bias_weight_decay == 0.0005
    for step, rate in ((0, 1), (200, 16.5), (400, 32 * 0.9**2), (2000, 8), (4000, 0)):
        at = rates(config, step * config.optimizer.epochs / 4000, Progress())
        assert at.weights == at.biases == pytest.approx(rate)
    layers = config.model.convolutions()
    assert [x.batch_normalization for x in layers.values()] == [True] * 4 + [False]
    assert not any('response_normalization' in x.then for x in layers.values())


def test_the_values_of_torchvision():
    """They are in its models/alexnet.py and references/classification."""
    config = nets.override(nets.load('torchvision'))
    model, optimizer = config.model, config.optimizer
    assert [layer.input_dropout for layer in model.hidden().values()] == [0.5, 0.5]
    assert [layer.dropout for layer in model.hidden().values()] == [0, 0]
    assert all('response_normalization' not in x.then for x in model.convolutions().values())
    deviations = [255 * x for x in (0.229, 0.224, 0.225)]
    assert config.augmentation.deviations == pytest.approx(deviations)
    assert (optimizer.batch_size, optimizer.epochs) == (8 * 32, 90)
    assert (optimizer.weight_decay, optimizer.bias_weight_decay) == (1e-4, 1e-4)
    by_epoch = [rates(config, epoch, Progress()).weights for epoch in (0, 29.9, 30, 60, 89)]
    assert by_epoch == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-4])
    # PyTorch draws from a uniform distribution within 1 / sqrt(inputs), which has this deviation.
    for row, layer in zip(layer_table(config), model.layers().values(), strict=True):
        inputs = row.reads * getattr(layer, 'kernel', 1) ** 2
        assert layer.std == pytest.approx((3 * inputs) ** -0.5, rel=5e-3)


def test_the_values_of_cuda_convnet2s_net_for_four_gpus():
    """They are in layers/layers-imagenet-4gpu-data-model.cfg and its parameters; layer.py:1183."""
    config = nets.override(nets.load('one_weird_trick'))
    model, optimizer, shapes = config.model, config.optimizer, alexnet.shapes(config)
    assert {layer: published_shape(layer, shapes[layer]) for layer in shapes} == TORCHVISION
    assert parameter_count(config) == 61_100_840
    layers = model.layers().values()
    assert [layer.std for layer in layers] == [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01]
    assert [layer.bias for layer in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    norm = model.response_normalization
    assert (norm.size, norm.k, norm.beta) == (5, 2, 0.75)  # minDiv and pow
    assert norm.alpha == pytest.approx(1e-4 / 5)
    assert [layer.then for layer in model.convolutions().values()] == [
        ('response_normalization', 'max_pooling', 'relu'),
        ('relu', 'response_normalization', 'max_pooling'),
        ('relu',),
        ('relu',),
        ('max_pooling', 'relu'),
    ]
    assert (optimizer.batch_size, optimizer.dense_updates, optimizer.epochs) == (512, 4, 90)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 0.0005)
    assert optimizer.bias_weight_decay == 0
    colour = config.augmentation.colour
    assert (config.augmentation.crop, config.augmentation.images_per_draw) == (224, 1)
    assert [colour.deviation_at(epoch) for epoch in (0, 89.9)] == [0.1, 0.1]
    assert config.mesh.dense == 'all'


def test_the_schedules_of_cuda_convnet2():
    """Of epsW and epsB, dexp[base=0.04;tgtFactor=250;numSteps=4] and [base=0.08;10;2] for conv1."""
    config = nets.override(nets.load('one_weird_trick'))
    factors = [layer.rate_factor for layer in config.model.layers().values()]
    assert factors == [4] * 5 + [1] * 3
    for epoch, weights, biases in ((0, 0.01, 0.02), (44.9, 0.01 / 250 ** (1 / 3), 0.02)):
        at = rates(config, epoch, Progress())
        assert (at.weights, at.biases) == pytest.approx((weights, biases))
    last = rates(config, 89.9, Progress())
    assert (last.weights, last.biases) == pytest.approx((0.01 / 250, 0.002))
    assert (last.conv1_weights, last.conv1_biases) == (last.weights, last.biases)
