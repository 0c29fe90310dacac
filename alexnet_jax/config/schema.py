"""The settings of a run: their schema, and the numbers derived from them (§5).

A file in `configs/` states every setting by value and `validation.py` checks it. What follows from
the settings is computed here, once and after all overrides.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

SCHEDULES = ('plateau', 'steps', 'fixed')


RESIZE = ('area', 'bilinear', 'bicubic', 'lanczos', 'nearest')


NOISE = ('none', 'eigenvalue', 'root')  # the paper's formula; its root, as the 2012 code


MEAN = ('image', 'colour')  # the mean image's centre, as the 2012 code; or one mean colour


CONSTANTS = ('data', '2012')  # computed from the training split; those of 2012 for ILSVRC


DTYPES = ('float32', 'bfloat16')


NONLINEARITIES = ('relu', 'tanh')


OPERATIONS = (
    *NONLINEARITIES,
    'response_normalization',
    'spatial_normalization',  # of the 2012 code alone
    'batch_normalization',
    'max_pooling',
    'global_average_pooling',
)


READS = ('own', 'all')  # a layer's inputs: its own tower's maps, or those of all towers (§3.2)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What is learned (§2)."""

    name: str  # a TFDS data set; 'digits' is embedded, 'synthetic' is made up, for timing
    folder: str  # in place of `name`: one's own images, one folder per class; '' for none
    data_dir: str  # '' is TFDS's own: $TFDS_DATA_DIR, or ~/tensorflow_datasets
    train_split: str
    eval_split: str
    classes: int
    image_size: int  # pixels: short side scaled to this, then the central square (§2)
    resize: str  # the filter, one of RESIZE, for images that are not of that size already
    reshuffle: bool  # a new order every epoch; the 2012 code had the same batches every epoch


@dataclasses.dataclass(frozen=True)
class Colour:
    """The colour augmentation: noise along the principal colours (§4.1)."""

    noise: str  # one of NOISE: what a principal colour's normal draw is multiplied by
    deviation: float  # standard deviation of the draws
    divide: bool  # the image, noise included, by 1 + deviation (2012: convdata_jpeg.py:178)
    until_epoch: float  # without noise from then on

    def deviation_at(self, epoch: float) -> float:
        """Of the draws at this point of the training."""
        return self.deviation if epoch < self.until_epoch else 0.0


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How images are varied (§4.1), and what is subtracted from them (§2)."""

    crop: int  # pixels: side of the random training crop and of the test views (§4.1)
    positions: int  # places of the training crop along each axis, in the middle; 0: all there are
    mirror: bool  # horizontal reflections, in training and among the test views (§4.1)
    images_per_draw: int  # consecutive images that share crop and reflection; 2012: 32
    mean: str  # one of MEAN: what is subtracted
    constants: str  # one of CONSTANTS: where mean colour and principal colours are from
    colour: Colour


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolutional layer of each tower (§3.5)."""

    maps: int  # of one tower, at width 1; 0: the net has no such layer
    kernel: int
    stride: int
    padding: int  # zero pixels on every side; what the stride still lacks is added right and bottom
    reads: str  # one of READS; the first layer sees the image whatever it says
    shared: bool  # weights over all places; else each place has its own ('local' in the 2012 code)
    std: float  # of the initial weights, at width 1
    bias: float  # initial
    decay_factor: float  # of these weights, in units of optimizer.weight_decay
    then: tuple[str, ...]  # what follows, in order; of OPERATIONS


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully-connected hidden layer of each tower (§3.5)."""

    units: int  # of one tower, at width 1; 0: the net has no such layer
    reads: str  # one of READS
    std: float
    bias: float
    decay_factor: float
    nonlinearity: str  # one of NONLINEARITIES
    dropout: float  # share of the outputs set to zero in training (§4.2)


@dataclasses.dataclass(frozen=True)
class Output:
    """The layer before the softmax (§3.5)."""

    std: float
    bias: float
    decay_factor: float


@dataclasses.dataclass(frozen=True)
class ResponseNormalization:
    """The constants of §3.3."""

    size: int  # n, adjacent maps
    k: float
    alpha: float  # multiplies the sum of squares, as printed; not divided by n
    beta: float


@dataclasses.dataclass(frozen=True)
class SpatialNormalization:
    """The constants of the normalization over neighbouring pixels that the paper leaves out."""

    size: int  # pixels across the window
    k: float
    alpha: float  # multiplies the sum of squares; the 2012 code's scale over size ** 2
    beta: float


@dataclasses.dataclass(frozen=True)
class BatchNormalization:
    """In place of response normalization (Ioffe and Szegedy, 2015)."""

    epsilon: float  # added to the variance
    memory: float  # share of the averages for test time that a step keeps


@dataclasses.dataclass(frozen=True)
class MaxPooling:
    """The pools of §3.4."""

    window: int  # z, pixels
    stride: int  # s, pixels


@dataclasses.dataclass(frozen=True)
class Model:
    """The net (§3)."""

    towers: int
    width: float  # multiplies maps and units; standard deviations after conv1 by 1 / sqrt(width)
    dtype: str  # one of DTYPES: of activations and products; parameters and loss stay float32
    conv1: Convolution
    conv2: Convolution
    conv3: Convolution
    conv4: Convolution
    conv5: Convolution
    conv6: Convolution  # of the nets that were trained on all of ImageNet (§6); here has maps=0
    fc6: Dense
    fc7: Dense
    fc8: Output
    response_normalization: ResponseNormalization
    spatial_normalization: SpatialNormalization
    batch_normalization: BatchNormalization
    max_pooling: MaxPooling

    def convolutions(self) -> dict[str, Convolution]:
        """The convolutional layers that there are by name, in order."""
        layers = {f'conv{i}': getattr(self, f'conv{i}') for i in range(1, 7)}
        return {name: layer for name, layer in layers.items() if layer.maps}

    def hidden(self) -> dict[str, Dense]:
        """The fully-connected hidden layers that there are by name, in order."""
        layers = {name: getattr(self, name) for name in ('fc6', 'fc7')}
        return {name: layer for name, layer in layers.items() if layer.units}

    def layers(self) -> dict[str, 'Convolution | Dense | Output']:
        """All layers with weights that there are by name, in order."""
        return self.convolutions() | self.hidden() | {'fc8': self.fc8}

    def widened(self, maps_or_units: int) -> int:
        """Maps or units of one tower at this width; at least one."""
        return max(1, round(maps_or_units * self.width))

    def initial_std(self, layer: Convolution | Dense | Output) -> float:
        """Standard deviation of the layer's initial weights at this width.

        The sum over fewer inputs must keep its size: every layer but the first, whose input is the
        image at any width, scales with 1 / sqrt(width). (Unscaled, a narrow net does not learn.)
        """
        return layer.std if layer is self.conv1 else layer.std / math.sqrt(self.width)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update rule and for how long it runs (§5)."""

    batch_size: int
    epochs: float
    momentum: float
    weight_decay: float
    bias_weight_decay: float
    bias_rate_factor: float  # the biases' learning rate, in units of the weights'
    bias_rate_falls: bool  # with the weights' rate; else it stays as it began


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Divides the rate when the test error stops improving, as the authors did by hand (§5)."""

    divide_by: float
    drops: int  # how often at most
    patience: int  # evaluations without a lower top-1 error before a drop


@dataclasses.dataclass(frozen=True)
class Steps:
    """Divides the rate at stated epochs."""

    divide_by: float
    epochs: tuple[float, ...]  # at which the rate is divided


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The later schedule of the 2012 code, 'dexp' (lr.cu:132)."""

    levels: int  # equally long
    divide_by: float  # the first level over the last


@dataclasses.dataclass(frozen=True)
class FirstLayer:
    """What the 2012 code did with conv1's rate toward the end, by epoch; below 0: never."""

    lower_at: float  # its weights' rate is divided from then on, beside what the schedule does
    divide_by: float
    freeze_at: float  # neither its weights nor its biases change from then on


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """eps of the update rule, and how it falls (§5)."""

    initial: float
    schedule: str  # one of SCHEDULES, whose settings are in the section of that name
    plateau: Plateau
    steps: Steps
    fixed: Fixed
    conv1: FirstLayer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Another run whose parameters this one begins with (fine-tuning, §6)."""

    workdir: str  # of that run; '' for none
    layers: tuple[str, ...]  # which layers are taken over; the others begin as usual


@dataclasses.dataclass(frozen=True)
class Mesh:
    """On how many devices (§3.2)."""

    tower: int  # devices the towers are spread over; 0 chooses
    data: int  # devices the batch is spread over; 0 chooses


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How often the test error is measured, and of what."""

    every_epochs: float
    batch_size: int
    average_views: bool  # at the end of the run, over all test views; else the centre crop alone


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """How often what a restart needs is saved."""

    every_epochs: float
    keep: int  # the newest so many stay


@dataclasses.dataclass(frozen=True)
class Log:
    """How often training is logged."""

    every_steps: int


@dataclasses.dataclass(frozen=True)
class Loader:
    """How images are read."""

    threads: int  # that read and decode, in each process; 0 is one per core in all
    workers: int  # processes that read and decode; 0 is none beside the main one
    prefetch: int  # decoded batches kept ready
    skip_bad: int  # training images that may be replaced because they cannot be read


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. `resolve` makes one; nothing else should."""

    seed: int
    dataset: Dataset
    augmentation: Augmentation
    model: Model
    optimizer: Optimizer
    learning_rate: LearningRate
    pretrained: Pretrained
    mesh: Mesh
    evaluation: Evaluation
    checkpoint: Checkpoint
    log: Log
    loader: Loader

    @property
    def views(self) -> int:
        """Test views: four corners and the centre, and their reflections (§4.1); or the centre."""
        if not self.evaluation.average_views:
            return 1
        return 10 if self.augmentation.mirror else 5


# Sections that may differ when a run goes on in its workdir: they change where and how often
# things happen, not the result.
FREE_TO_CHANGE = ('mesh', 'checkpoint', 'log', 'loader')


def as_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, as written to `config.json`."""
    return dataclasses.asdict(config)


def flatten(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Dotted names to values."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat
