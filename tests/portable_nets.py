"""Nets on the host for tests of file formats, in which every number counts."""

import jax
import numpy as np

import nets
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model import alexnet
from alexnet_jax.training.run_files.inputs_file import Inputs


def random_net(config, seed=0):
    """A net whose numbers all differ, and whose logits differ between pictures."""
    rng = np.random.default_rng(seed)

    def draw(x):
        if x.ndim < 3:  # biases, and what batch normalization has
            return x + rng.uniform(0.01, 0.05, x.shape).astype(np.float32)
        deviation = np.sqrt(2 / np.prod(x.shape[-4:-1]))  # sums keep the size of their inputs
        return rng.normal(0, deviation, x.shape).astype(np.float32)

    params = jax.tree.map(draw, alexnet.initialize(config))
    size, classes = config.dataset.image_size, config.dataset.classes
    mean_HWC = rng.uniform(90, 150, (size, size, 3)).astype(np.float32)
    names = tuple(f'n{i}' for i in range(classes))
    descriptions = tuple(f'Gefäß {i}' for i in range(classes))
    return PortableNet(config, params, Inputs(mean_HWC, COLOURS_2012, names, descriptions), 7)


def random_images(config, number=7):
    """Random pictures, as the run's images are stored."""
    size = config.dataset.image_size
    return np.random.default_rng(1).integers(0, 256, (number, size, size, 3), np.uint8)


def logits(net, images_BHWC):
    """Our logits of the central crops, by NumPy's preprocessing and the net on one device."""
    settings, size = net.config.augmentation, net.config.dataset.image_size
    middle = slice((size - settings.crop) // 2, (size - settings.crop) // 2 + settings.crop)
    mean_HWC = net.inputs.mean_HWC[middle, middle]
    crops = images_BHWC[:, middle, middle].astype(np.float32) - mean_HWC[None]
    crops = crops / np.asarray(settings.deviations, np.float32)[None, None, None]
    compute = nets.compiled_logits(net.config, nets.mesh_of(1))
    return np.asarray(compute(net.params, crops))


# Few maps, so that they compile in about a second.
FEW = dict(model__width=0.0625)
# Response normalization counts for more than with the paper's constants.
STRONG = dict(model__response_normalization__alpha=0.01)
_SMALL = dict(
    dataset__image_size=72,
    dataset__classes=10,
    augmentation__crop=64,
    augmentation__positions=0,
    model__width=0.0625,
)


def recipe(name, **overrides):
    """A file of configs/ with few maps and small images."""
    return nets.override(nets.load(name), **_SMALL | overrides)


# Nets that differ in what a format must express.
CONFIGS = {
    'two towers': lambda: nets.small(**FEW, **STRONG),
    'one tower': lambda: nets.small(**FEW, **STRONG, model__towers=1),
    'four towers, pools that extend beyond the edge': lambda: nets.small(
        **FEW, **STRONG, model__towers=4, augmentation__crop=60
    ),
    'as run': lambda: recipe('ilsvrc2012_as_run', **STRONG),
    'average pooling': lambda: recipe('average_pooling'),
    'batch normalization': lambda: recipe(
        'batch_normalization', model__conv1__then=('tanh', 'max_pooling')
    ),
    "Caffe's": lambda: recipe('bvlc_alexnet', augmentation__crop=67, **STRONG),
    "Caffe's reference": lambda: recipe('bvlc_reference_caffenet', augmentation__crop=67, **STRONG),
    "torchvision's": lambda: recipe('torchvision'),
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
