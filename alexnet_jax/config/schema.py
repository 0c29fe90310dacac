"""The settings of a run: names, types, ranges and meanings (§5).

A file in `configs/` states every setting by value. Each field has its type, its range or choices,
and its meaning: `--settings` prints them, and `validation.py` checks them. What follows from the
settings is computed after all overrides: here, in model_schema.py and in durations.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from ml_collections import ConfigDict

from alexnet_jax.config.model_schema import DTYPES as DTYPES
from alexnet_jax.config.model_schema import LAYERS, Model
from alexnet_jax.config.model_schema import PRECISIONS as PRECISIONS
from alexnet_jax.config.ranges import Above, AtLeast, OneOf
from alexnet_jax.config.sections.learning import SCHEDULES as SCHEDULES
from alexnet_jax.config.sections.learning import Batch, LearningRate, Optimizer
from alexnet_jax.config.sections.learning import Plateau as Plateau

RESIZE = ('area', 'bilinear', 'bicubic', 'lanczos', 'nearest')
NOISE = ('none', 'eigenvalue', 'root')
MEAN = ('image', 'colour')
CONSTANTS = ('data', '2012', 'torchvision')
BACKGROUNDS = ('white', 'black')
RESIDENT = ('auto', 'yes', 'no')
DENSE = ('tower', 'all')

_Side = AtLeast(1, 4096)  # pixels of an image
_Interval = Above(0, 1_000_000, ' (1000000: only at the end of the run)')  # epochs
_Devices = AtLeast(0, 4096)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The images (§2)."""

    name: Annotated[
        str, "TFDS data set; 'digits' is embedded, 'synthetic' is made up, for measuring speed."
    ]
    folder: Annotated[
        str, "Folder of your own images, one folder per class; it replaces the name; '' for none."
    ]
    data_dir: Annotated[
        str,
        "Where TFDS keeps data sets; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets. From gs:// and "
        's3:// the data set is copied to this machine.',
    ]
    train_split: Annotated[str, 'TFDS split to train on.']
    eval_split: Annotated[str, 'TFDS split to test on.']
    classes: Annotated[
        int,
        AtLeast(0, 1_000_000),
        'Number of classes, 2 or more; 0: as many as the images have.',
    ]
    image_size: Annotated[
        int, _Side, 'Pixels: the short side is scaled to this, then the centre is cropped (§2).'
    ]
    resize: Annotated[
        str, OneOf(RESIZE), 'Filter that scales images which are not of that size already.'
    ]
    background: Annotated[
        str, OneOf(BACKGROUNDS), 'What is put behind the transparent pixels of your own images.'
    ]
    reshuffle: Annotated[
        bool, 'A new order every epoch; the 2012 code had the same batches in every epoch.'
    ]

    @property
    def name_of_eval_split(self) -> str:
        """The split that is evaluated, without its part: 'test' of 'test[:50%]'."""
        return self.eval_split.partition('[')[0]


@dataclasses.dataclass(frozen=True)
class Colour:
    """The colour augmentation: noise along the principal colours (§4.1)."""

    noise: Annotated[
        str,
        OneOf(NOISE),
        'Factor that multiplies the normal draw of each principal colour: its eigenvalue, as '
        'printed; its square root, as in the 2012 code; or none, for no noise (§4.1).',
    ]
    deviation: Annotated[float, AtLeast(0), 'Standard deviation of the draws (§4.1).']
    divide: Annotated[
        bool,
        'Divide the image, noise included, by 1 + deviation, as in the 2012 code '
        '(convdata_jpeg.py:178).',
    ]
    until_epoch: Annotated[float, AtLeast(0), 'Epoch at which the noise ends.']

    def deviation_at(self, epoch: float) -> float:
        """Returns the standard deviation of the draws at this point of the training."""
        return self.deviation if epoch < self.until_epoch else 0.0


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Image augmentation (§4.1), and the mean that is subtracted from images (§2)."""

    crop: Annotated[
        int, _Side, 'Pixels: side of the random training crop and of the test views (§4.1).'
    ]
    positions: Annotated[
        int,
        AtLeast(0, 4096),
        'Number of positions of the training crop along each axis, the central ones; 0 uses all '
        'positions (§4.1).',
    ]
    mirror: Annotated[bool, 'Horizontal flips, in training and among the test views (§4.1).']
    images_per_draw: Annotated[
        int,
        Batch,
        'Consecutive images that share crop and flip; 32 in the 2012 code (convdata_jpeg.py:77).',
    ]
    mean: Annotated[
        str,
        OneOf(MEAN),
        'What is subtracted: the centre of the mean image, as in the 2012 code, or one mean colour '
        '(§2).',
    ]
    constants: Annotated[
        str,
        OneOf(CONSTANTS),
        'Source of the mean and the principal colours: the training split; ILSVRC as published '
        "in 2012; or torchvision's mean of ImageNet, which has no principal colours.",
    ]
    deviations: Annotated[
        tuple[float, ...],
        Above(0),
        'Divisors of red, green and blue after the mean is subtracted and the colour noise is '
        'added, on the scale of 0 to 255; 1.0,1.0,1.0: none.',
    ]
    colour: Colour


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Another run whose parameters this one begins with (fine-tuning, §6)."""

    workdir: Annotated[str, "Workdir of that run; '' for none."]
    layers: Annotated[
        tuple[str, ...],
        OneOf(LAYERS),
        'Layers that are taken from that run; the others are initialized as usual.',
    ]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The number of devices (§3.2)."""

    tower: Annotated[
        int, AtLeast(0, 64), 'Devices that the towers are spread over; 0 chooses automatically.'
    ]
    data: Annotated[
        int, _Devices, 'Devices that the batch is spread over; 0 chooses automatically.'
    ]
    dense: Annotated[
        str,
        OneOf(DENSE),
        "Devices that hold a tower's fully-connected layers. tower: one of each replica holds all "
        'units, and gradients are exchanged; all: each replica holds a part of the units, and '
        'units are exchanged in place of gradients (Krizhevsky, 2014).',
    ]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluations of the test error: their interval and their images."""

    every_epochs: Annotated[float, _Interval, 'Epochs from one evaluation to the next.']
    batch_size: Annotated[int, Batch, 'Images per batch of an evaluation.']
    average_views: Annotated[
        bool,
        'At the end of the run, average over all test views (§4.1); if false, test the centre crop '
        'alone.',
    ]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Checkpoints: their interval, and the number that is kept."""

    every_epochs: Annotated[float, _Interval, 'Epochs from one checkpoint to the next.']
    every_minutes: Annotated[
        float,
        AtLeast(0, 1_000_000),
        'Minutes after which a checkpoint is saved between those of the epochs; 0: never.',
    ]
    keep: Annotated[
        int,
        AtLeast(1, 100_000),
        'Number of the newest checkpoints that are kept, beside that of the lowest test error.',
    ]


@dataclasses.dataclass(frozen=True)
class Log:
    """The interval of the log."""

    every_steps: Annotated[int, AtLeast(1, 1_000_000), 'Steps between two lines of the log.']


@dataclasses.dataclass(frozen=True)
class Loader:
    """Threads and processes that read images."""

    threads: Annotated[
        int,
        AtLeast(0, 1024),
        'Threads in each process that read and decode; 0 divides one thread per core among the '
        'processes.',
    ]
    workers: Annotated[
        int, AtLeast(0, 1024), 'Processes that read and decode; 0 reads in the main process.'
    ]
    prefetch: Annotated[int, AtLeast(1, 1024), 'Decoded batches that are kept ready.']
    skip_bad: Annotated[
        int,
        AtLeast(0, 100_000_000),
        'Training images that may be replaced because they cannot be read.',
    ]
    resident: Annotated[
        str,
        OneOf(RESIDENT),
        "Keep all training images in the devices' memory: auto, where they fit; yes, always; no.",
    ]
    resident_gib: Annotated[
        float,
        AtLeast(0, 1_000_000),
        'GiB of each device that these images may take; 0: what the training leaves.',
    ]


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run. `validation.resolve` makes and checks them."""

    seed: Annotated[
        int, AtLeast(0, 2**32 - 1), 'Seed of initial weights, order, augmentation and dropout.'
    ]
    deterministic: Annotated[
        bool,
        'On a GPU, use only deterministic algorithms, in place of those that each start measures '
        'to be the fastest: a resumed run then ends with the same bits as an uninterrupted one. '
        'Programs for other devices are deterministic in any case.',
    ]
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
        """Number of test views: the corners, the centre and their flips (§4.1), or the centre."""
        if not self.evaluation.average_views:
            return 1
        return 10 if self.augmentation.mirror else 5


# Sections and settings that may differ when a run is resumed: they say where the images are, and
# where and how often things happen. They do not change what is trained, except that the plateau
# schedule counts evaluations. The images themselves are compared instead of their place.
FREE_TO_CHANGE = (
    'mesh',
    'checkpoint',
    'log',
    'loader',
    'evaluation',
    'dataset.data_dir',
    'dataset.folder',
)


# Settings whose value is the path of a folder, or ''.
FOLDERS = ('dataset.folder', 'dataset.data_dir', 'pretrained.workdir')


def may_change(name: str) -> bool:
    """Checks whether the setting with this dotted name may differ when a run is resumed."""
    return any(name == free or name.startswith(f'{free}.') for free in FREE_TO_CHANGE)


def may_extend(name: str) -> bool:
    """Checks whether this setting may differ when a run is continued with `--extend`."""
    return name == 'optimizer.epochs' or name.startswith('learning_rate.')


def as_dict(config: Any) -> dict[str, Any]:
    """Returns nested plain values, as written to `config.json`."""
    return dataclasses.asdict(config)


def flatten(values: Mapping[str, Any] | ConfigDict, prefix: str = '') -> dict[str, Any]:
    """Returns the values of nested sections by their dotted names."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def differing_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the settings that are not the same in all of some runs.

    Args:
      settings: those of each run, as `flatten` returns them. A setting that a run does not have
        differs from all values.
    """
    absent = object()
    names = {name: None for flat in settings for name in flat}
    return [
        name
        for name in names
        if any(flat.get(name, absent) != settings[0].get(name, absent) for flat in settings[1:])
    ]
