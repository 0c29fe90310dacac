"""ILSVRC-2012 as the paper prints it: Krizhevsky, Sutskever and Hinton, NIPS 2012, sections 2 to 5.

    python -m alexnet_jax.main --config=ilsvrc2012

The paper's net of this kind ("1 CNN" in Table 2) has 40.7 % top-1 and 18.2 % top-5 validation
error, ten views averaged; it took five to six days on two GTX 580. We have not trained it yet.

Where the paper and the 2012 code disagree, this recipe has the paper's value (docs/decisions.md).
The learning rate falls automatically where the authors lowered it by hand. The images are prepared
once, from ImageNet as you have it: python -m alexnet_jax.prepare --imagenet=PATH
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
    c.dataset.reshuffle = True

    c.augmentation = ConfigDict()
    c.augmentation.crop = 224
    c.augmentation.positions = 32  # along each axis: "a factor of 2048" is 32 x 32 x 2
    c.augmentation.mirror = True  # section 4.1
    c.augmentation.images_per_draw = 1
    c.augmentation.mean = 'image'
    c.augmentation.constants = 'data'
    c.augmentation.deviations = (1.0, 1.0, 1.0)  # none
    c.augmentation.colour = ConfigDict(
        dict(noise='eigenvalue', deviation=0.1, divide=False, until_epoch=90.0)
    )

    c.model = ConfigDict()
    c.model.towers = 2
    c.model.width = 1.0
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
        | dict(shared=True, batch_normalization=False, std=0.01, bias=0.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.conv4 = ConfigDict(
        dict(maps=192, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu',))
    )
    c.model.conv5 = ConfigDict(
        dict(maps=128, kernel=3, stride=1, padding=1, extra_padding=True, reads='own')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=1.0, decay_factor=1.0)
        | dict(rate_factor=1.0, then=('relu', 'max_pooling'))
    )
    c.model.conv6 = ConfigDict(  # no maps, so no such layer; see fall2011.py
        dict(maps=0, kernel=3, stride=1, padding=1, extra_padding=True, reads='all')
        | dict(shared=True, batch_normalization=False, std=0.01, bias=1.0, decay_factor=1.0)
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
        dict(size=5, k=2.0, alpha=1e-4, beta=0.75, reads='own')
    )
    c.model.spatial_normalization = ConfigDict(dict(size=5, k=1.0, alpha=4e-5, beta=0.75))
    c.model.batch_normalization = ConfigDict(dict(epsilon=1e-3, memory=0.9))
    c.model.max_pooling = ConfigDict(dict(window=3, stride=2))

    c.optimizer = ConfigDict()
    c.optimizer.batch_size = 128
    c.optimizer.dense_updates = 1  # as many as of the convolutions
    c.optimizer.epochs = 90.0
    c.optimizer.rule = 'sgd'
    c.optimizer.trust_coefficient = 0.001
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 0.0005
    c.optimizer.bias_weight_decay = 0.0005
    c.optimizer.bias_rate_factor = 1.0
    c.optimizer.bias_rate_falls = True

    c.learning_rate = ConfigDict()
    c.learning_rate.initial = 0.01
    c.learning_rate.schedule = 'plateau'
    c.learning_rate.plateau = ConfigDict(dict(divide_by=10.0, drops=3, patience=3))
    c.learning_rate.steps = ConfigDict(dict(divide_by=10.0, epochs=(25.0, 51.0, 79.0)))
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
    c.checkpoint = ConfigDict(dict(every_epochs=1.0, every_minutes=15.0, keep=3))
    c.log = ConfigDict(dict(every_steps=100))
    c.loader = ConfigDict(dict(threads=0, workers=0, prefetch=8, skip_bad=0))
    c.loader.resident, c.loader.resident_gib = 'auto', 0.0
    return c
