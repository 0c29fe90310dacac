"""ILSVRC-2012 as it was run: net #145 of the 2012 code, which gave the paper's numbers.

    python -m alexnet_jax.main --config=ilsvrc2012_as_run

Its log ends with 40.664 % top-1 and 18.210 % top-5 validation error, ten views averaged, which is
"1 CNN" of the paper's Table 2 (layer-params-145.cfg:182). We have not trained it yet.

It differs from ilsvrc2012.py, the paper as printed, in values only; docs/decisions.md lists them
all, with file and line of the 2012 code. The main differences: layer 1 normalizes before its ReLU,
layer 2 normalizes over pixels too, alpha is divided by n, the standard deviations of conv3 to conv5
are 0.03, and the biases do not decay and keep a learning rate of 0.02. The learning rate of conv1
is lowered at epoch 67 and conv1 is frozen at 72; the colour noise ends at 67. 32 images share a
crop, and every epoch has the same batches.

The learning rate falls at the epochs at which the authors lowered it by hand
(layer-params-145.cfg:169). ilsvrc2012_fixed_schedule.py has a later schedule of theirs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings of the run."""
    c = ConfigDict()
    c.seed = 0
    c.deterministic = False

    c.dataset = ConfigDict()
    c.dataset.name = 'imagenet2012_256'  # alexnet_jax.prepare makes it from the tars
    c.dataset.folder = ''  # a folder of your own images, which replaces the name
    c.dataset.data_dir = ''  # TFDS's own: $TFDS_DATA_DIR, or ~/tensorflow_datasets
    c.dataset.train_split = 'train'
    c.dataset.eval_split = 'validation'
    c.dataset.classes = 1000
    c.dataset.image_size = 256
    c.dataset.resize = 'bicubic'
    c.dataset.background = 'white'
    c.dataset.reshuffle = False  # shuffled once, on the disk

    c.augmentation = ConfigDict()
    c.augmentation.crop = 224
    c.augmentation.positions = 33  # all of them
    c.augmentation.mirror = True  # section 4.1
    c.augmentation.images_per_draw = 32  # convdata_jpeg.py:77
    c.augmentation.mean = 'image'
    c.augmentation.constants = 'data'
    c.augmentation.deviations = (1.0, 1.0, 1.0)  # none
    c.augmentation.colour = ConfigDict(
        dict(noise='root', deviation=0.1, divide=True, until_epoch=67.0)
    )

    c.model = ConfigDict()
    c.model.towers = 2
    c.model.width = 1.0
    c.model.dtype = 'float32'
    c.model.precision = 'default'
    c.model.conv1 = ConfigDict(
        dict(maps=48, kernel=11, stride=4, padding=0, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('response_normalization', 'max_pooling', 'relu'))
    )
    c.model.conv2 = ConfigDict(
        dict(maps=128, kernel=5, stride=1, padding=2, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0)
        | dict(then=('relu', 'response_normalization', 'spatial_normalization', 'max_pooling'))
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
        | dict(rate_factor=1.0, then=('max_pooling', 'relu'))
    )
    c.model.conv6 = ConfigDict(  # no maps, so no such layer; see fall2011.py
        dict(maps=0, kernel=3, stride=1, padding=1, extra_padding=True, reads='all')
        | dict(shared=True, batch_normalization=False, std=0.03, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.fc6 = ConfigDict(
        dict(units=2048, reads='all', std=0.01, bias=1.0, decay_factor=1.0, rate_factor=1.0)
        | dict(nonlinearity='relu', input_dropout=0.0, dropout=0.5)
    )
    c.model.fc7 = ConfigDict(
        dict(units=2048, reads='all', std=0.01, bias=1.0, decay_factor=1.0, rate_factor=1.0)
        | dict(nonlinearity='relu', input_dropout=0.0, dropout=0.5)
    )
    c.model.bottleneck = ConfigDict(  # no units, so no such layer; see fall2011.py
        dict(units=0, reads='all', std=0.01, bias=0.0, decay_factor=1.0, rate_factor=1.0)
    )
    c.model.fc8 = ConfigDict(dict(std=0.01, bias=0.0, decay_factor=1.0, rate_factor=1.0))
    c.model.response_normalization = ConfigDict(
        dict(size=5, k=2.0, alpha=2e-5, beta=0.75, reads='own')
    )
    c.model.spatial_normalization = ConfigDict(dict(size=5, k=1.0, alpha=4e-5, beta=0.75))
    c.model.batch_normalization = ConfigDict(dict(epsilon=1e-3, memory=0.9))
    c.model.max_pooling = ConfigDict(dict(window=3, stride=2))

    c.optimizer = ConfigDict()
    c.optimizer.batch_size = 128
    c.optimizer.dense_updates = 1  # as many as of the convolutions
    c.optimizer.epochs = 91.0
    c.optimizer.rule = 'sgd'
    c.optimizer.trust_coefficient = 0.001
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 0.0005
    c.optimizer.bias_weight_decay = 0.0
    c.optimizer.bias_rate_factor = 2.0
    c.optimizer.bias_rate_falls = False

    c.learning_rate = ConfigDict()
    c.learning_rate.initial = 0.01
    c.learning_rate.schedule = 'steps'
    c.learning_rate.plateau = ConfigDict(dict(divide_by=10.0, drops=3, patience=3))
    c.learning_rate.steps = ConfigDict(dict(divide_by=10.0, epochs=(25.0, 51.0, 79.0)))
    c.learning_rate.fixed = ConfigDict(
        dict(levels=4, divide_by=250.0, bias_levels=0, bias_divide_by=10.0)
    )
    c.learning_rate.polynomial = ConfigDict(dict(power=2.0))
    c.learning_rate.warm_up = ConfigDict(dict(epochs=0.0, divide_by=10.0))  # none
    c.learning_rate.conv1 = ConfigDict(dict(lower_at=67.0, divide_by=10.0, freeze_at=72.0))

    c.pretrained = ConfigDict(
        dict(workdir='', layers=('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7'))
    )
    c.mesh = ConfigDict(dict(tower=0, data=0, dense='tower'))  # 0: chosen automatically
    c.evaluation = ConfigDict(dict(every_epochs=1.0, batch_size=128, average_views=True))
    c.checkpoint = ConfigDict(dict(every_epochs=1.0, every_minutes=15.0, keep=3))
    c.log = ConfigDict(dict(every_steps=100))
    c.loader = ConfigDict(dict(threads=0, workers=0, prefetch=8, skip_bad=0))
    c.loader.resident, c.loader.resident_gib = 'auto', 0.0
    return c
