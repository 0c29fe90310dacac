"""A small AlexNet for your own images, whose settings are fitted to them.

    python -m alexnet_jax.main --config=own_images --config.dataset.folder=DIR

DIR has one folder of images per class, or train/ and val/ with such folders. The rules below choose
the size of the images, the width of the net, its first layer and the training from the number of
training images and their sizes. They are printed with their reasons before the training and by
--dry_run; a setting that you give, such as --config.optimizer.epochs=10, keeps its value, and the
rules after it follow it. docs/own_images.md has a table of what they choose.

Differences from ilsvrc2012.py beside these: the initial weights of conv3 to conv5 and of fc6 are
larger, as in imagenette.py and digits.py, because a net with few images does not begin to learn
with the paper's; and the learning rate falls in steps.
"""

from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config.fitting.image_survey import ImageSurvey

# Each table has the rows "up to this number: these values"; the last row has no upper limit.
_ANY = float('inf')

# Median short side in pixels: pixels of the images. Smaller ones keep their size. Large ones need
# many images (_FOR_LARGE).
_SMALL_SIDE = 40
_IMAGE_SIZES = ((96, 64), (_ANY, 128))
_LARGE_SIZE, _LARGE_SIDE, _FOR_LARGE = 256, 200, 20_000

# Pixels of the crop: kernel, stride, padding and initial standard deviation of conv1.
_FIRST_LAYERS = (
    (40, (5, 1, 2, 0.1)),
    (80, (5, 2, 2, 0.1)),
    (_ANY, (11, 4, 0, 0.045)),
)
# Pixels of the crop: initial standard deviation of fc6, whose inputs are the pixels of the last
# maps: 3x3 of crops of up to 112, 6x6 of 224.
_FC6_STDS = ((160, 0.03), (_ANY, 0.01))

# Training images: width of the net, and units of fc6 and of fc7 at full width.
_WIDTHS = ((20_000, (0.25, 512)), (200_000, (0.5, 2048)), (_ANY, (1.0, 2048)))

# Training images: images per step, and epochs.
_BATCHES = ((500, 16), (20_000, 32), (50_000, 64), (_ANY, 128))
_EPOCHS = (
    (1_000, 100.0),
    (2_500, 80.0),
    (12_000, 50.0),
    (20_000, 30.0),
    (100_000, 40.0),
    (_ANY, 60.0),
)

_RATE, _RATE_BATCH = 0.01, 32  # the learning rate for batches of 32 or more
_DROPS = (0.65, 0.9)  # of the training: when the learning rate is divided by ten
_EVALUATIONS = 40  # in a run, at most


def get_config() -> ConfigDict:
    """Returns the settings to which the rules of `fit` are applied."""
    c = ConfigDict()
    c.seed = 0
    c.deterministic = False

    c.dataset = ConfigDict()
    c.dataset.name = 'own_images'  # for the record: the folder has the images
    c.dataset.folder = ''  # --config.dataset.folder=DIR
    c.dataset.data_dir = ''  # TFDS's own: $TFDS_DATA_DIR, or ~/tensorflow_datasets
    c.dataset.train_split = 'train'
    c.dataset.eval_split = 'validation'
    c.dataset.classes = 0  # as many as there are
    c.dataset.image_size = 128
    c.dataset.resize = 'bicubic'
    c.dataset.background = 'white'
    c.dataset.reshuffle = True

    c.augmentation = ConfigDict()
    c.augmentation.crop = 112
    c.augmentation.positions = 0  # all of them
    c.augmentation.mirror = True
    c.augmentation.images_per_draw = 1
    c.augmentation.mean = 'image'
    c.augmentation.constants = 'data'
    c.augmentation.deviations = (64.0, 64.0, 64.0)  # as with ImageNet's; see conv1.std
    c.augmentation.colour = ConfigDict(
        dict(noise='root', deviation=0.1, divide=False, until_epoch=1000.0)
    )

    c.model = ConfigDict()
    c.model.towers = 2
    c.model.width = 0.25
    c.model.dtype = 'float32'
    c.model.precision = 'default'
    c.model.conv1 = ConfigDict(
        dict(maps=48, kernel=7, stride=2, padding=3, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu', 'response_normalization', 'max_pooling'))
    )
    c.model.conv2 = ConfigDict(
        dict(maps=128, kernel=5, stride=1, padding=2, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.03, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu', 'response_normalization', 'max_pooling'))
    )
    c.model.conv3 = ConfigDict(
        dict(maps=192, kernel=3, stride=1, padding=1, extra_padding=True, reads='all')
        | dict(shared=True, batch_normalization=False, std=0.03, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.conv4 = ConfigDict(
        dict(maps=192, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.03, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.conv5 = ConfigDict(
        dict(maps=128, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.03, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu', 'max_pooling'))
    )
    c.model.conv6 = ConfigDict(  # no maps, so no such layer; see fall2011.py
        dict(maps=0, kernel=3, stride=1, padding=1, extra_padding=True, reads='all')
        | dict(shared=True, batch_normalization=False, std=0.03, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.fc6 = ConfigDict(
        dict(units=2048, reads='all', std=0.015, bias=1.0, decay_factor=1.0, rate_factor=1.0)
        | dict(nonlinearity='relu', input_dropout=0.0, dropout=0.4)
    )
    c.model.fc7 = ConfigDict(
        dict(units=2048, reads='all', std=0.03, bias=1.0, decay_factor=1.0, rate_factor=1.0)
        | dict(nonlinearity='relu', input_dropout=0.0, dropout=0.4)
    )
    c.model.bottleneck = ConfigDict(  # no units, so no such layer; see fall2011.py
        dict(units=0, reads='all', std=0.01, bias=0.0, decay_factor=1.0, rate_factor=1.0)
    )
    c.model.fc8 = ConfigDict(dict(std=0.03, bias=0.0, decay_factor=1.0, rate_factor=1.0))
    c.model.response_normalization = ConfigDict(
        dict(size=5, k=2.0, alpha=1e-4, beta=0.75, reads='own')
    )
    c.model.spatial_normalization = ConfigDict(dict(size=5, k=1.0, alpha=4e-5, beta=0.75))
    c.model.batch_normalization = ConfigDict(dict(epsilon=1e-3, memory=0.9))
    c.model.max_pooling = ConfigDict(dict(window=3, stride=2))

    c.optimizer = ConfigDict()
    c.optimizer.batch_size = 64
    c.optimizer.dense_updates = 1  # as many as of the convolutions
    c.optimizer.epochs = 40.0
    c.optimizer.rule = 'sgd'
    c.optimizer.trust_coefficient = 0.001
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 0.0005
    c.optimizer.bias_weight_decay = 0.0005
    c.optimizer.bias_rate_factor = 1.0
    c.optimizer.bias_rate_falls = True

    c.learning_rate = ConfigDict()
    c.learning_rate.initial = 0.01
    c.learning_rate.schedule = 'steps'
    c.learning_rate.plateau = ConfigDict(dict(divide_by=10.0, drops=3, patience=3))
    c.learning_rate.steps = ConfigDict(dict(divide_by=10.0, epochs=(24.0, 34.0)))
    c.learning_rate.fixed = ConfigDict(
        dict(levels=4, divide_by=250.0, bias_levels=0, bias_divide_by=10.0)
    )
    c.learning_rate.polynomial = ConfigDict(dict(power=2.0))
    c.learning_rate.warm_up = ConfigDict(dict(epochs=0.0, divide_by=10.0))  # none
    c.learning_rate.conv1 = ConfigDict(dict(lower_at=-1.0, divide_by=10.0, freeze_at=-1.0))  # never

    c.pretrained = ConfigDict(
        dict(workdir='', layers=('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7'))
    )
    c.mesh = ConfigDict(dict(tower=0, data=0, dense='tower'))  # 0: chosen automatically
    c.evaluation = ConfigDict(dict(every_epochs=1.0, batch_size=128, average_views=True))
    c.checkpoint = ConfigDict(dict(every_epochs=5.0, every_minutes=10.0, keep=2))
    c.log = ConfigDict(dict(every_steps=10))
    c.loader = ConfigDict(dict(threads=0, workers=0, prefetch=4, skip_bad=0))
    c.loader.resident, c.loader.resident_gib = 'auto', 0.0
    return c


def fit(
    config: ConfigDict, images: ImageSurvey, fixed: Collection[str]
) -> Iterator[tuple[str, Any, str]]:
    """Yields each setting that follows from the images, its value and the reason.

    Args:
      config: the settings, in which those that were yielded before have their values.
      images: what is known of the images.
      fixed: settings that keep their values, whatever is yielded for them.
    """
    del fixed
    yield from _fit_pixels(config, images)
    yield from _fit_net(config, images)
    yield from _fit_training(config, images)


def _fit_pixels(config: ConfigDict, images: ImageSurvey) -> Iterator[tuple[str, Any, str]]:
    """Yields the settings of the images and their augmentation."""
    side = images.median_side
    size = max(8, side) if side <= _SMALL_SIDE else _look_up(_IMAGE_SIZES, side)
    reason = f'the median short side is {side} pixels'
    if side >= _LARGE_SIDE:
        few = images.images < _FOR_LARGE
        size = size if few else _LARGE_SIZE
        comparison = 'fewer than' if few else 'at least'
        reason += f', and there are {comparison} {_FOR_LARGE:,} images'
    yield 'dataset.image_size', size, reason
    size = config.dataset.image_size
    if size <= _SMALL_SIDE:
        yield 'augmentation.crop', max(1, size - 2), f'small images of {size} need their borders'
    else:
        yield 'augmentation.crop', size - size // 8, f'7/8 of {size}, as 224 of 256 in the paper'
    yield (
        'augmentation.mirror',
        True,
        'horizontal flips: set it to false where left and right matter (digits, text, arrows)',
    )
    grey = images.grey >= 0.5
    yield (
        'augmentation.colour.noise',
        'none' if grey else 'root',
        f'{"most" if grey else "fewer than half"} of the images are grey',
    )


def _fit_net(config: ConfigDict, images: ImageSurvey) -> Iterator[tuple[str, Any, str]]:
    """Yields the settings of the net."""
    width, units = _look_up(_WIDTHS, images.images)
    yield 'model.width', width, f'{images.images:,} training images'
    for name in ('fc6', 'fc7'):
        yield f'model.{name}.units', units, f'{images.images:,} training images'
    crop = config.augmentation.crop
    kernel, stride, padding, std = _look_up(_FIRST_LAYERS, crop)
    reason = f'for crops of {crop} pixels'
    yield 'model.conv1.kernel', kernel, reason
    yield 'model.conv1.stride', stride, reason
    yield 'model.conv1.padding', padding, reason
    yield (
        'model.conv1.std',
        std,
        f'for {config.model.conv1.kernel}x{config.model.conv1.kernel} pixels',
    )
    yield 'model.fc6.std', _look_up(_FC6_STDS, crop), f'for the last maps of crops of {crop} pixels'


def _fit_training(config: ConfigDict, images: ImageSurvey) -> Iterator[tuple[str, Any, str]]:
    """Yields the settings of the training: batches, epochs, learning rate, intervals."""
    number = images.images
    batch_size = min(_look_up(_BATCHES, number), _power_of_two(number))
    yield 'optimizer.batch_size', batch_size, f'{number:,} training images'
    yield 'optimizer.epochs', _look_up(_EPOCHS, number), f'{number:,} training images'
    batch_size, epochs = config.optimizer.batch_size, config.optimizer.epochs
    yield (
        'learning_rate.initial',
        _RATE * min(1.0, batch_size / _RATE_BATCH),
        f'for batches of {batch_size}',
    )
    yield (
        'learning_rate.steps.epochs',
        tuple(round(part * epochs, 2) for part in _DROPS),
        f'{" and ".join(f"{part:.0%}" for part in _DROPS)} of {epochs:g} epochs',
    )
    interval = max(1.0, float(-(-epochs // _EVALUATIONS)))
    yield 'evaluation.every_epochs', interval, f'at most {_EVALUATIONS} evaluations'
    interval = max(interval, float(-(-epochs // 8)))
    yield 'checkpoint.every_epochs', interval, 'about eight in the run'
    steps = max(1, number // batch_size)
    yield 'log.every_steps', max(1, min(50, steps // 4)), f'{steps:,} steps in an epoch'


def _look_up(table: tuple[tuple[float, Any], ...], number: float) -> Any:
    """Returns the values of the first row whose limit is not below a number."""
    return next(values for limit, values in table if number <= limit)


def _power_of_two(number: int) -> int:
    """Returns the largest power of two that is not above a number; at least 1."""
    return 1 << max(0, number.bit_length() - 1)
