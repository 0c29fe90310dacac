"""The paper's net at a quarter of its width, on the handwritten digits that come with scikit-learn.

It uses everything that trains the full net, in about a minute on two cores: two towers on two
devices, response normalization, overlapping pooling, dropout, momentum and weight decay as printed.

    python -m alexnet_jax.main

Differences from ilsvrc2012.py: images of 72 pixels and crops of 64 (the ratio of 256 and 224), no
reflections (a mirrored 2 is not a 2), width 1/4, batches of 64, and 24 epochs with a learning rate
that falls in steps. The initial weights are larger in conv3 to conv5, as in the 2012 code, and in
fc6, which has 1 pixel of the last maps as its input where the full net has 6x6.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings of the run."""
    c = ConfigDict()
    c.seed = 0
    c.deterministic = False

    c.dataset = ConfigDict()
    c.dataset.name = 'digits'
    c.dataset.folder = ''  # a folder of your own images, which replaces the name
    c.dataset.data_dir = ''  # TFDS's own: $TFDS_DATA_DIR, or ~/tensorflow_datasets
    c.dataset.train_split = 'train'
    c.dataset.eval_split = 'test'
    c.dataset.classes = 10
    c.dataset.image_size = 72
    c.dataset.resize = 'bicubic'
    c.dataset.background = 'white'
    c.dataset.reshuffle = True

    c.augmentation = ConfigDict()
    c.augmentation.crop = 64
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
    c.model.towers = 2
    c.model.width = 0.25
    c.model.dtype = 'float32'
    c.model.precision = 'default'
    c.model.conv1 = ConfigDict(
        dict(maps=48, kernel=11, stride=4, padding=0, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu', 'response_normalization', 'max_pooling'))
    )
    c.model.conv2 = ConfigDict(
        dict(maps=128, kernel=5, stride=1, padding=2, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=1.0, decay_factor=1.0)
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
        dict(units=2048, reads='all', std=0.03, bias=1.0, decay_factor=1.0, rate_factor=1.0)
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
        dict(size=5, k=2.0, alpha=1e-4, beta=0.75, reads='own')
    )
    c.model.spatial_normalization = ConfigDict(dict(size=5, k=1.0, alpha=4e-5, beta=0.75))
    c.model.batch_normalization = ConfigDict(dict(epsilon=1e-3, memory=0.9))
    c.model.max_pooling = ConfigDict(dict(window=3, stride=2))

    c.optimizer = ConfigDict()
    c.optimizer.batch_size = 64
    c.optimizer.dense_updates = 1  # as many as of the convolutions
    c.optimizer.epochs = 24.0
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
    c.learning_rate.steps = ConfigDict(dict(divide_by=10.0, epochs=(14.0, 20.0)))
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
    c.checkpoint = ConfigDict(dict(every_epochs=5.0, every_minutes=0.0, keep=2))
    c.log = ConfigDict(dict(every_steps=10))
    c.loader = ConfigDict(dict(threads=0, workers=0, prefetch=4, skip_bad=0))
    c.loader.resident, c.loader.resident_gib = 'auto', 0.0
    return c
