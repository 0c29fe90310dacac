import dataclasses

import pytest

import nets
from alexnet_jax.config import loading, model_schema, schema, settings
from alexnet_jax.config.durations import durations
from alexnet_jax.config.validation import resolve
from alexnet_jax.data import images
from alexnet_jax.runtime.user_errors import UserError


def test_every_config_resolves():
    for name in loading.recipes():
        assert loading.load_config(name).dataset.classes != 1


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (
            {'optimizer__momentun': 0.9},
            'unknown setting optimizer.momentun: did you mean optimizer.momentum?',
        ),
        ({'optimizer__batch_size': 8.5}, 'optimizer.batch_size must be of type int, not 8.5'),
        ({'optimizer__batch_size': True}, 'optimizer.batch_size must be of type int, not True'),
        ({'optimizer__momentum': 1.0}, 'optimizer.momentum=1.0 must be at least 0 and below 1'),
        ({'optimizer__epochs': 0.0}, 'optimizer.epochs=0.0 must be above 0'),
        (
            {'learning_rate__initial': float('nan')},
            'learning_rate.initial=nan must be a finite number',
        ),
        ({'learning_rate__schedule': 'cosine'}, "'cosine' is none of plateau, steps, fixed"),
        ({'augmentation__crop': 73}, 'augmentation.crop=73 is larger than dataset.image_size=72'),
        (
            {'model__conv1__then': ('relu', 'lrn')},
            "model.conv1.then has 'lrn', which is none of relu",
        ),
        ({'model__fc6': 5}, 'model.fc6 is a section with settings of its own, not 5'),
        ({'mesh__tower': 3}, 'mesh.tower=3 does not divide model.towers=2'),
        ({'mesh__data': 3}, 'optimizer.batch_size=8 is not divisible by mesh.data=3'),
        ({'model__towers': 0}, 'model.towers=0 must be at least 1'),
        ({'dataset__classes': 1}, 'dataset.classes=1 must be at least 2'),
        ({'dataset__resize': 'cubic'}, "dataset.resize='cubic' is none of area, bilinear"),
        ({'augmentation__mean': 'none'}, "augmentation.mean='none' is none of image, colour"),
        ({'augmentation__images_per_draw': 0}, 'images_per_draw=0 must be at least 1'),
        ({'augmentation__constants': '2012'}, "augmentation.constants='2012' has no mean image"),
        (
            {'augmentation__constants': 'torchvision'},
            "augmentation.constants='torchvision' has no mean image",
        ),
        (
            {
                'augmentation__constants': 'torchvision',
                'augmentation__mean': 'colour',
                'augmentation__colour__noise': 'root',
            },
            "augmentation.constants='torchvision' has no principal colours",
        ),
        (
            {'augmentation__deviations': (58.0,)},
            'augmentation.deviations=(58.0,) must have three divisors',
        ),
        (
            {'augmentation__deviations': (1.0, 0.0, 1.0)},
            'augmentation.deviations has 0.0, which must be above 0',
        ),
        (
            {'augmentation__colour__noise': 'sqrt'},
            "augmentation.colour.noise='sqrt' is none of none, eigenvalue, root",
        ),
        (
            {'augmentation__colour__deviation': -0.1},
            'augmentation.colour.deviation=-0.1 must be at least 0',
        ),
        ({'augmentation__colour__until_epoch': -1.0}, 'until_epoch=-1.0 must be at least 0'),
        ({'seed': -1}, 'seed=-1 must be at least 0'),
        (
            {'augmentation__positions': 10},
            'positions=10 is more than the 9 positions of a crop of 64 pixels in 72',
        ),
        ({'model__conv3__reads': 'both'}, "model.conv3.reads='both' is none of own, all"),
        ({'model__fc6__nonlinearity': 'elu'}, "fc6.nonlinearity='elu' is none of relu, tanh"),
        ({'model__conv1__maps': 0}, 'model.conv1.maps=0 must be at least 1'),
        ({'model__conv1__shared': False}, 'model.conv1.shared=False must be True'),
        ({'model__conv2__decay_factor': -1.0}, 'model.conv2.decay_factor=-1.0 must be at least 0'),
        ({'model__fc8__rate_factor': -1.0}, 'model.fc8.rate_factor=-1.0 must be at least 0'),
        ({'model__fc6__input_dropout': 1.0}, 'model.fc6.input_dropout=1.0 must be at least 0 and'),
        (
            {'model__response_normalization__reads': 'neighbours'},
            "model.response_normalization.reads='neighbours' is none of own, all",
        ),
        (
            {'model__conv2__then': ('relu', 'batch_normalization')},
            "model.conv2.then has 'batch_normalization', which is none of relu",
        ),
        (
            {'model__conv3__batch_normalization': True, 'model__conv3__shared': False},
            'model.conv3.batch_normalization=True needs shared weights',
        ),
        ({'model__spatial_normalization__k': 0.0}, 'spatial_normalization.k=0.0 must be above 0'),
        ({'model__response_normalization__alpha': -1.0}, 'alpha=-1.0 must be at least 0'),
        ({'loader__skip_bad': -1}, 'loader.skip_bad=-1 must be at least 0'),
        ({'model__conv1__reads': 'all'}, "model.conv1.reads must be 'own'"),
        (
            {'model__conv2__then': ('relu', 'relu')},
            'model.conv2.then has two nonlinearities, relu and relu',
        ),
        (
            {'model__conv2__then': ('tanh', 'max_pooling', 'relu')},
            'model.conv2.then has two nonlinearities, tanh and relu',
        ),
        (
            {'model__conv5__then': ('global_average_pooling', 'relu')},
            'model.conv5.then: nothing comes after global_average_pooling',
        ),
        ({'model__conv2__then': 'relu'}, "model.conv2.then must be a tuple, not 'relu'"),
        ({'model__conv2__then': (1,)}, 'model.conv2.then must be of type str, not 1'),
        (
            {'learning_rate__steps__epochs': (1.0, float('inf'))},
            'learning_rate.steps.epochs=inf must be a finite number',
        ),
        (
            {'learning_rate__steps__epochs': (1.0, -2)},
            'learning_rate.steps.epochs has -2.0, which must be at least 0',
        ),
        (
            {'pretrained__layers': ('conv1', 'conv9')},
            "pretrained.layers has 'conv9', which is none of conv1, conv2",
        ),
        ({'model__towers': 65}, 'model.towers=65 must be at least 1 and at most 64'),
        ({'model__width': 1e9}, 'model.width=1000000000.0 must be at least 0.001 and at most 64'),
        ({'model__conv2__maps': 10**9}, 'must be at least 0 and at most 65,536'),
        ({'model__fc6__units': 10**9}, 'must be at least 0 and at most 1,048,576'),
        ({'optimizer__batch_size': 10**9}, 'must be at least 1 and at most 65,536'),
        ({'evaluation__batch_size': 10**9}, 'must be at least 1 and at most 65,536'),
        ({'dataset__image_size': 10**6}, 'dataset.image_size=1000000 must be at least 1 and at mo'),
        ({'augmentation__crop': 10**6}, 'augmentation.crop=1000000 must be at least 1 and at most'),
        ({'mesh__tower': 10**6}, 'mesh.tower=1000000 must be at least 0 and at most 64'),
        ({'mesh__data': 10**6}, 'mesh.data=1000000 must be at least 0 and at most 4,096'),
        ({'loader__threads': 10**6}, 'loader.threads=1000000 must be at least 0 and at most 1,024'),
        ({'loader__workers': 10**6}, 'loader.workers=1000000 must be at least 0 and at most 1,024'),
        ({'loader__prefetch': 10**6}, 'loader.prefetch=1000000 must be at least 1 and at most'),
        ({'log__every_steps': 10**9}, 'log.every_steps=1000000000 must be at least 1 and at most'),
        ({'model__width': 1e-9}, 'model.width=1e-09 must be at least 0.001'),
        ({'model__conv1__std': 1e308}, 'model.conv1.std=1e+308 must be at most 3.4e+38 in size'),
        ({'model__conv2__bias': -1e39}, 'model.conv2.bias=-1e+39 must be at most 3.4e+38 in size'),
        ({'model__response_normalization__k': 1e-300}, 'k=1e-300 is 0 in float32'),
        ({'learning_rate__initial': 10**400}, 'learning_rate.initial=inf must be a finite number'),
        (
            {'checkpoint__every_epochs': float('inf')},
            'every_epochs=inf must be a finite number, above 0 and at most 1,000,000 (1000000: ',
        ),
        ({'evaluation__every_epochs': 1e308}, '(1000000: only at the end of the run)'),
        ({'dataset__name': ''}, 'dataset.name is empty: name a TFDS data set'),
        ({'dataset__train_split': ''}, 'dataset.train_split is empty: name a split'),
        ({'dataset__eval_split': ' '}, 'dataset.eval_split is empty: name a split'),
        ({'dataset__data_dir': 'hdfs://host/x'}, 'dataset.data_dir=hdfs://host/x'),
        (
            {'dataset__data_dir': 'gs://bucket/x', 'dataset__folder': 'images'},
            'dataset.folder cannot be prepared in a bucket',
        ),
        ({'dataset__folder': '~nobody-has-this-name/x'}, 'dataset.folder=~nobody-has-this-name/x'),
        ({'dataset__folder': 'a\nb'}, 'dataset.folder='),
        ({'pretrained__workdir': 's3://bucket'}, 'pretrained.workdir=s3://bucket'),
        (
            {'optimizer__epochs': 4, 'learning_rate__warm_up__epochs': 5},
            'learning_rate.warm_up.epochs=5 is more than optimizer.epochs=4',
        ),
        (
            {'optimizer__rule': 'lars'},
            "model.conv1.bias=0 has no norm, by which optimizer.rule='lars' scales",
        ),
        ({'optimizer__rule': 'adam'}, "optimizer.rule='adam' is none of sgd, lars"),
        ({'seed': 2**32}, 'seed=4294967296 must be at least 0 and at most 4,294,967,295'),
    ],
)
def test_what_cannot_be_is_named(overrides, message):
    with pytest.raises(UserError) as error:
        nets.override(nets.load('digits'), **{'optimizer__batch_size': 8, **overrides})
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_a_missing_setting_is_named():
    raw = nets.load('digits').to_dict()
    del raw['model']['fc7']['std']
    with pytest.raises(UserError, match=r'the config lacks model\.fc7\.std'):
        resolve(raw)


def test_durations_follow_the_overrides():
    """Nothing is derived while a config file is read: a new batch size moves what is in epochs."""
    whole = durations(nets.small(optimizer__batch_size=8), examples=100)
    half = durations(nets.small(optimizer__batch_size=4), examples=100)
    assert (whole.steps, half.steps) == (300, 600)
    assert whole.epoch(whole.steps) == half.epoch(half.steps) == 24
    assert half.evaluate_every == 25


def test_the_colour_noise_ends_at_its_epoch():
    """In 2012 it was switched off after epoch 66 or so."""
    colour = nets.full(augmentation__colour__until_epoch=66.5).augmentation.colour
    assert [colour.deviation_at(epoch) for epoch in (0.0, 66.4, 66.5, 90.0)] == [0.1, 0.1, 0, 0]


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match=r'fewer than optimizer\.batch_size=8'):
        durations(nets.small(), examples=7)


def test_a_resolved_config_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        nets.small().seed = 1


def test_without_the_mean_of_views_there_is_one_view():
    assert nets.small(evaluation__average_views=False).views == 1


def test_the_filters_are_those_there_are():
    assert tuple(images.FILTERS) == schema.RESIZE


def test_every_setting_has_a_meaning_in_one_sentence():
    for name, setting in settings.catalogue().items():
        assert setting.meaning[0].isupper(), name
        assert setting.meaning.endswith('.'), name
    assert all(settings.sections().values())


def test_every_number_has_a_range_but_for_those_of_any_sign():
    """A bias may have any sign, and an epoch below 0 means never."""
    unlimited = {
        name.rpartition('.')[2]
        for name, setting in settings.catalogue().items()
        if setting.type in (int, float) and not setting.range
    }
    assert unlimited == {'bias', 'lower_at', 'freeze_at'}


def test_names_of_layers_are_those_of_the_fields():
    fields = {field.name for field in dataclasses.fields(model_schema.Model)}
    assert set(model_schema.LAYERS) <= fields
    assert tuple(nets.full().model.layers()) == tuple(
        name for name in model_schema.LAYERS if name not in ('conv6', 'bottleneck')
    )


@pytest.mark.parametrize('then', [(), ('max_pooling', 'relu'), ('relu', 'global_average_pooling')])
def test_operations_may_come_in_any_order(then):
    assert nets.small(model__conv5__then=then).model.conv5.then == then
