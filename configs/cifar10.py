"""The four-layer CIFAR-10 net of the 2012 code: that of Figure 1, and of the 13 % in §3.3.

    python -m alexnet_jax.main --config=cifar10
        13 % test error
    python -m alexnet_jax.main --config=cifar10 --ablate=weight_decay
    python -m alexnet_jax.main --config=cifar10 --ablate=weight_decay,relu
        Figure 1: ReLU, and tanh in its place; choose --config.learning_rate.initial for each

Two convolutional layers and two whose weights differ from place to place, as in
layers-conv-local-13pct.cfg. The mean image is subtracted, there is no other preprocessing, and the
full image is tested. The config of Figure 1 was not kept; the paper describes its net as a
four-layer net without any regularization, with the learning rate chosen separately for ReLU and
tanh.

The 2012 code lowered the learning rate when the validation error stopped improving; this recipe
lowers it after 120 epochs and again after 130. The biases keep theirs, 0.002, to the end, as in
layer-params-conv-local-13pct-noisylr.cfg, whose weights have 0.00001. docs/log.md has our
measurements, which ended before the first of these epochs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings of the run."""
    c = ConfigDict()
    c.seed = 0
    c.deterministic = False

    c.dataset = ConfigDict()
    c.dataset.name = 'cifar10'
    c.dataset.folder = ''  # a folder of your own images, which replaces the name
    c.dataset.data_dir = ''  # TFDS's own: $TFDS_DATA_DIR, or ~/tensorflow_datasets
    c.dataset.train_split = 'train'
    c.dataset.eval_split = 'test'
    c.dataset.classes = 10
    c.dataset.image_size = 32
    c.dataset.resize = 'bicubic'
    c.dataset.background = 'white'
    c.dataset.reshuffle = True

    c.augmentation = ConfigDict()
    c.augmentation.crop = 32
    c.augmentation.positions = 0  # all of them
    c.augmentation.mirror = False
    c.augmentation.images_per_draw = 1
    c.augmentation.mean = 'image'
    c.augmentation.constants = 'data'
    c.augmentation.deviations = (1.0, 1.0, 1.0)  # none
    c.augmentation.colour = ConfigDict(
        dict(noise='none', deviation=0.1, divide=False, until_epoch=90.0)
    )

    c.model = ConfigDict()
    c.model.towers = 1
    c.model.width = 1.0
    c.model.dtype = 'float32'
    c.model.precision = 'default'
    c.model.conv1 = ConfigDict(
        dict(maps=64, kernel=5, stride=1, padding=2, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.0001, bias=0.0, decay_factor=0.0)
        | dict(rate_factor=1.0, then=('relu', 'max_pooling'))
    )
    c.model.conv2 = ConfigDict(
        dict(maps=64, kernel=5, stride=1, padding=2, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=0.0, decay_factor=0.0)
        | dict(rate_factor=1.0, then=('relu', 'max_pooling'))
    )
    c.model.conv3 = ConfigDict(  # 'local3': each place has weights of its own
        dict(maps=32, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=False, batch_normalization=False, std=0.04, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.conv4 = ConfigDict(  # 'local4'
        dict(maps=32, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=False, batch_normalization=False, std=0.04, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.conv5 = ConfigDict(  # no maps, so no such layer
        dict(maps=0, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.conv6 = ConfigDict(
        dict(maps=0, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.fc6 = ConfigDict(  # no units, so no such layer
        dict(units=0, reads='all', std=0.01, bias=0.0, decay_factor=1.0, rate_factor=1.0)
        | dict(nonlinearity='relu', input_dropout=0.0, dropout=0.0)
    )
    c.model.fc7 = ConfigDict(
        dict(units=0, reads='all', std=0.01, bias=0.0, decay_factor=1.0, rate_factor=1.0)
        | dict(nonlinearity='relu', input_dropout=0.0, dropout=0.0)
    )
    c.model.bottleneck = ConfigDict(  # no units, so no such layer; see fall2011.py
        dict(units=0, reads='all', std=0.01, bias=0.0, decay_factor=1.0, rate_factor=1.0)
    )
    c.model.fc8 = ConfigDict(dict(std=0.01, bias=0.0, decay_factor=1.0, rate_factor=1.0))  # 'fc10'
    c.model.response_normalization = ConfigDict(
        dict(size=9, k=1.0, alpha=0.001 / 9, beta=0.75, reads='own')
    )
    c.model.spatial_normalization = ConfigDict(dict(size=5, k=1.0, alpha=4e-5, beta=0.75))
    c.model.batch_normalization = ConfigDict(dict(epsilon=1e-3, memory=0.9))
    c.model.max_pooling = ConfigDict(dict(window=3, stride=2))

    c.optimizer = ConfigDict()
    c.optimizer.batch_size = 128
    c.optimizer.dense_updates = 1  # as many as of the convolutions
    c.optimizer.epochs = 140.0
    c.optimizer.rule = 'sgd'
    c.optimizer.trust_coefficient = 0.001
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 0.004
    c.optimizer.bias_weight_decay = 0.0
    c.optimizer.bias_rate_factor = 2.0
    c.optimizer.bias_rate_falls = False

    c.learning_rate = ConfigDict()
    c.learning_rate.initial = 0.001
    c.learning_rate.schedule = 'steps'
    c.learning_rate.plateau = ConfigDict(dict(divide_by=10.0, drops=3, patience=3))
    c.learning_rate.steps = ConfigDict(dict(divide_by=10.0, epochs=(120.0, 130.0)))
    c.learning_rate.fixed = ConfigDict(
        dict(levels=4, divide_by=250.0, bias_levels=0, bias_divide_by=10.0)
    )
    c.learning_rate.polynomial = ConfigDict(dict(power=2.0))
    c.learning_rate.warm_up = ConfigDict(dict(epochs=0.0, divide_by=10.0))  # none
    c.learning_rate.conv1 = ConfigDict(dict(lower_at=-1.0, divide_by=10.0, freeze_at=-1.0))  # never

    c.pretrained = ConfigDict(dict(workdir='', layers=('conv1', 'conv2', 'conv3', 'conv4')))
    c.mesh = ConfigDict(dict(tower=0, data=0, dense='tower'))  # 0: chosen automatically
    c.evaluation = ConfigDict(dict(every_epochs=1.0, batch_size=500, average_views=False))
    c.checkpoint = ConfigDict(dict(every_epochs=5.0, every_minutes=0.0, keep=2))
    c.log = ConfigDict(dict(every_steps=50))
    c.loader = ConfigDict(dict(threads=0, workers=0, prefetch=4, skip_bad=0))
    c.loader.resident, c.loader.resident_gib = 'auto', 0.0
    return c
