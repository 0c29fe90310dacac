"""The settings of the net: its layers, their constants, and its size (§3).

Each field has its type, its range or choices, and its meaning: `--settings` prints them, and
`validation.py` checks them.
"""

import dataclasses
import math
from typing import Annotated

from alexnet_jax.config.ranges import Above, AtLeast, HalfOpen, OneOf

DTYPES = ('float32', 'bfloat16')
PRECISIONS = ('default', 'highest')
NONLINEARITIES = ('relu', 'tanh')
OPERATIONS = (
    *NONLINEARITIES,
    'response_normalization',
    'spatial_normalization',  # of the 2012 code alone
    'max_pooling',
    'global_average_pooling',
)
READS = ('own', 'all')
CONVOLUTIONS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6')
HIDDEN = ('fc6', 'fc7')
LAYERS = (*CONVOLUTIONS, *HIDDEN, 'bottleneck', 'fc8')

_Pixels = AtLeast(1, 1024)  # of a window or a step


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolutional layer of each tower (§3.5)."""

    maps: Annotated[
        int, AtLeast(0, 65_536), 'Maps of one tower, at width 1; 0: the net has no such layer.'
    ]
    kernel: Annotated[int, _Pixels, 'Pixels across the kernel.']
    stride: Annotated[int, _Pixels, 'Pixels from one application of the kernel to the next.']
    padding: Annotated[int, AtLeast(0, 1024), 'Zero pixels on every side.']
    extra_padding: Annotated[
        bool,
        'Round the size of the maps up, with as many more zero pixels at the right and the bottom '
        'as the last stride needs, as the 2012 code does; if false, leave out the last, incomplete '
        'window, as PyTorch and Caffe do.',
    ]
    reads: Annotated[
        str,
        OneOf(READS),
        'Inputs: the maps of its own tower, or those of all towers (§3.2). The first layer, which '
        "reads the image, has 'own'.",
    ]
    shared: Annotated[
        bool,
        'One kernel for all places; if false, each place has its own, as in the local layers of '
        'the 2012 code.',
    ]
    batch_normalization: Annotated[
        bool,
        'Normalize the sums of each map over the batch, before the bias (Ioffe and Szegedy, 2015).',
    ]
    std: Annotated[float, Above(0), 'Standard deviation of the initial weights, at width 1 (§5).']
    bias: Annotated[float, 'Initial value of the biases (§5).']
    decay_factor: Annotated[
        float, AtLeast(0), 'Decay of these weights, in units of optimizer.weight_decay.'
    ]
    rate_factor: Annotated[
        float,
        AtLeast(0),
        'Learning rate of these weights and biases, in units of that of the schedule; 0: they are '
        'frozen, while the averages of batch normalization still follow the batches.',
    ]
    then: Annotated[
        tuple[str, ...], OneOf(OPERATIONS), 'Operations after the layer, in order (§3.5).'
    ]


@dataclasses.dataclass(frozen=True)
class Linear:
    """A fully-connected layer of each tower without a nonlinearity, before fc8 (§6)."""

    units: Annotated[
        int, AtLeast(0, 1_048_576), 'Units of one tower, at width 1; 0: the net has no such layer.'
    ]
    reads: Annotated[
        str, OneOf(READS), 'Inputs: the units of its own tower, or those of all towers (§3.2).'
    ]
    std: Annotated[float, Above(0), 'Standard deviation of the initial weights, at width 1 (§5).']
    bias: Annotated[float, 'Initial value of the biases (§5).']
    decay_factor: Annotated[
        float, AtLeast(0), 'Decay of these weights, in units of optimizer.weight_decay.'
    ]
    rate_factor: Annotated[
        float,
        AtLeast(0),
        'Learning rate of these weights and biases, in units of that of the schedule; 0: they are '
        'frozen.',
    ]


@dataclasses.dataclass(frozen=True)
class Dense(Linear):
    """A fully-connected hidden layer of each tower (§3.5)."""

    nonlinearity: Annotated[str, OneOf(NONLINEARITIES), 'Nonlinearity of the units (§3.1).']
    input_dropout: Annotated[
        float,
        HalfOpen(0, 1),
        "Fraction of the inputs that is set to zero in training, as in torchvision's AlexNet.",
    ]
    dropout: Annotated[
        float, HalfOpen(0, 1), 'Fraction of the outputs that is set to zero in training (§4.2).'
    ]


@dataclasses.dataclass(frozen=True)
class Output:
    """The layer before the softmax (§3.5)."""

    std: Annotated[float, Above(0), 'Standard deviation of the initial weights, at width 1 (§5).']
    bias: Annotated[float, 'Initial value of the biases (§5).']
    decay_factor: Annotated[
        float, AtLeast(0), 'Decay of these weights, in units of optimizer.weight_decay.'
    ]
    rate_factor: Annotated[
        float,
        AtLeast(0),
        'Learning rate of these weights and biases, in units of that of the schedule; 0: they are '
        'frozen.',
    ]


@dataclasses.dataclass(frozen=True)
class ResponseNormalization:
    """The constants of local response normalization (§3.3)."""

    size: Annotated[int, AtLeast(1, 65_536), 'Adjacent maps that are summed over: n (§3.3).']
    k: Annotated[float, Above(0), 'Constant that is added to the sum: k (§3.3).']
    alpha: Annotated[
        float,
        AtLeast(0),
        'Factor of the sum of squares, as printed; it is not divided by n (§3.3).',
    ]
    beta: Annotated[float, AtLeast(0), 'Exponent: beta (§3.3).']
    reads: Annotated[
        str,
        OneOf(READS),
        'Maps that are summed over: those of its own tower (§3.3), or all, so that the sum '
        "continues in the neighbouring tower, as in Caffe's nets.",
    ]


@dataclasses.dataclass(frozen=True)
class SpatialNormalization:
    """The constants of the normalization over neighbouring pixels that the paper leaves out."""

    size: Annotated[int, _Pixels, 'Pixels across the window.']
    k: Annotated[float, Above(0), 'Constant that is added to the sum.']
    alpha: Annotated[
        float,
        AtLeast(0),
        "Factor of the sum of squares: the 2012 code's scale divided by size ** 2.",
    ]
    beta: Annotated[float, AtLeast(0), 'Exponent.']


@dataclasses.dataclass(frozen=True)
class BatchNormalization:
    """The constants of batch normalization (Ioffe and Szegedy, 2015)."""

    epsilon: Annotated[float, Above(0), 'Constant that is added to the variance.']
    memory: Annotated[
        float, HalfOpen(0, 1), 'Fraction of the running averages that each step keeps.'
    ]


@dataclasses.dataclass(frozen=True)
class MaxPooling:
    """The pools (§3.4)."""

    window: Annotated[int, _Pixels, 'Pixels across a pool: z (§3.4).']
    stride: Annotated[int, _Pixels, 'Pixels from one pool to the next: s (§3.4).']


@dataclasses.dataclass(frozen=True)
class Model:
    """The net (§3)."""

    towers: Annotated[int, AtLeast(1, 64), 'Towers: 2 in the paper, each on a GPU (§3.2).']
    width: Annotated[
        float,
        AtLeast(0.001, 64),
        'Factor that multiplies the number of maps and units of every layer; initial standard '
        'deviations, except that of conv1, are divided by its square root.',
    ]
    dtype: Annotated[
        str, OneOf(DTYPES), 'Type of activations and products; parameters and loss stay float32.'
    ]
    precision: Annotated[
        str,
        OneOf(PRECISIONS),
        'Precision of float32 matrix products and convolutions. default: the fastest that the '
        'device has, which rounds their factors to TF32 (10 bits after the point) on NVIDIA GPUs '
        'since Ampere and to bfloat16 (7 bits) on TPUs; highest: float32 everywhere. CPUs always '
        'compute in float32. Products of bfloat16 factors do not depend on it.',
    ]
    conv1: Convolution
    conv2: Convolution
    conv3: Convolution
    conv4: Convolution
    conv5: Convolution
    conv6: Convolution  # of the nets that were trained on all of ImageNet (§6)
    fc6: Dense
    fc7: Dense
    bottleneck: Linear  # of the net that was trained on the Fall 2011 release (§6)
    fc8: Output
    response_normalization: ResponseNormalization
    spatial_normalization: SpatialNormalization
    batch_normalization: BatchNormalization
    max_pooling: MaxPooling

    def convolutions(self) -> dict[str, Convolution]:
        """Returns the convolutional layers of this net by name, in order."""
        layers = {name: getattr(self, name) for name in CONVOLUTIONS}
        return {name: layer for name, layer in layers.items() if layer.maps}

    def hidden(self) -> dict[str, Dense]:
        """Returns the fully-connected hidden layers of this net by name, in order."""
        layers = {name: getattr(self, name) for name in HIDDEN}
        return {name: layer for name, layer in layers.items() if layer.units}

    def dense(self) -> dict[str, Linear]:
        """Returns the fully-connected layers of this net before fc8 by name, in order."""
        return self.hidden() | ({'bottleneck': self.bottleneck} if self.bottleneck.units else {})

    def dense_units(self) -> dict[str, int]:
        """Returns the units of one tower in each layer of `dense`, at this width."""
        return {name: self.scale_to_width(layer.units) for name, layer in self.dense().items()}

    def layers(self) -> dict[str, 'Convolution | Linear | Output']:
        """Returns all layers of this net that have weights, by name, in order."""
        return self.convolutions() | self.dense() | {'fc8': self.fc8}

    def scale_to_width(self, maps_or_units: int) -> int:
        """Returns the maps or units of one tower at this width; at least one."""
        return max(1, round(maps_or_units * self.width))

    def initial_std(self, layer: Convolution | Linear | Output) -> float:
        """Returns the standard deviation of the layer's initial weights at this width.

        The sum over fewer inputs must keep its size: every layer but the first, whose input is the
        image at any width, scales with 1 / sqrt(width). (Unscaled, a narrow net does not learn.)
        """
        return layer.std if layer is self.conv1 else layer.std / math.sqrt(self.width)
