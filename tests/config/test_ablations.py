"""Each ablation changes the settings that it names and no others."""

import pytest

import nets
from alexnet_jax.config import ablations
from alexnet_jax.config.validation import resolve
from alexnet_jax.model.layer_table import layer_table, parameter_count
from alexnet_jax.runtime.user_errors import UserError

LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')

# What may differ from the 2012 recipe, and the parameters that are left where they are known.
EXPECTED = {
    'relu': (
        {f'model.{name}.then' for name in LAYERS}
        | {'model.fc6.nonlinearity', 'model.fc7.nonlinearity'},
        60_965_224,
    ),
    'two_towers': (
        {'model.towers', 'model.conv5.maps', 'model.fc6.units', 'model.fc7.units'},
        59_798_312,  # layers-145-half.cfg
    ),
    'cross_talk': (
        {'model.conv2.maps', 'model.conv3.reads', 'model.fc6.units'}
        | {'model.fc6.reads', 'model.fc7.reads'},
        60_714_408,
    ),
    'lrn': ({'model.conv1.then', 'model.conv2.then'}, 60_965_224),
    'overlapping_pooling': (
        {'model.max_pooling.window', 'model.conv2.padding', 'model.conv5.padding'},
        60_965_224,
    ),
    'dropout': ({'model.fc6.dropout', 'model.fc7.dropout'}, 60_965_224),
    'crops': ({'augmentation.positions'}, 60_965_224),
    'mirror': ({'augmentation.mirror'}, 60_965_224),
    'colour': ({'augmentation.colour.noise'}, 60_965_224),
    'weight_decay': (
        {'optimizer.weight_decay', 'optimizer.bias_weight_decay'},
        60_965_224,
    ),
    'momentum': ({'optimizer.momentum'}, 60_965_224),
    'conv3': ({'model.conv3.maps', 'model.conv4.reads'}, None),
    'conv4': ({'model.conv4.maps'}, None),
    'conv5': ({'model.conv5.maps', 'model.conv4.then'}, None),
    'ten_views': ({'evaluation.average_views'}, 60_965_224),
}


def without(*names, config='ilsvrc2012'):
    return resolve(ablations.ablate(nets.load(config), names))


def test_all_are_here():
    assert EXPECTED.keys() == ablations.ABLATIONS.keys()


@pytest.mark.parametrize('name', EXPECTED)
def test_nothing_else_changes(name):
    keys, parameters = EXPECTED[name]
    assert ablations.changes(nets.load('ilsvrc2012'), name).keys() == keys
    count = parameter_count(without(name))
    assert parameters is None or count == parameters


@pytest.mark.parametrize('name', EXPECTED)
def test_the_config_itself_stays(name):
    raw = nets.load('ilsvrc2012')
    ablations.ablate(raw, [name])
    assert raw == nets.load('ilsvrc2012')


def sizes(config):
    rows = [row for row in layer_table(config) if row.name.startswith('conv')]
    return [(row.size, row.pooled) for row in rows]


def test_pools_that_do_not_overlap_leave_the_sizes():
    """layers-147.cfg: 55, 28, 26, 13, 13, 13, 11, 6."""
    found = sizes(without('overlapping_pooling'))
    assert found == [(55, 28), (26, 13), (13, 13), (13, 13), (11, 6)]
    digits = sizes(without('overlapping_pooling', config='digits'))
    assert digits[-1][1] == sizes(without(config='digits'))[-1][1] == 1
    cifar = sizes(without('overlapping_pooling', config='cifar10'))
    assert cifar == sizes(without(config='cifar10'))  # where there is nothing to keep


def test_the_one_gpu_net():
    """48-128-192-192-256 maps and 4,096 units (footnote 2)."""
    rows = layer_table(without('two_towers'))
    assert [row.maps for row in rows] == [48, 128, 192, 192, 256, 4096, 4096, 1000]
    assert not any(row.crossing for row in rows)


def test_towers_without_cross_talk():
    """layers-150.cfg: they meet in fc8 alone; 160 maps in conv2, 4,096 units a tower in fc6."""
    rows = layer_table(without('cross_talk'))
    assert [row.name for row in rows if row.crossing] == ['fc8']
    assert [row.maps for row in rows] == [48, 160, 192, 192, 128, 4096, 2048, 1000]
    assert [row.reads for row in rows] == [3, 48, 160, 192, 192, 4608, 4096, 2048]


def test_what_later_nets_have_is_ablated_too():
    """Caffe's nets normalize across the towers; torchvision's drop inputs and round sizes down."""
    rows = layer_table(without('cross_talk', config='bvlc_alexnet'))
    assert [row.name for row in rows if row.crossing] == ['fc8']
    hidden = without('dropout', config='torchvision').model.hidden().values()
    assert not any(layer.dropout or layer.input_dropout for layer in hidden)
    found = sizes(without('overlapping_pooling', config='torchvision'))
    assert [pooled for _, pooled in found] == [27, 13, 13, 13, 6]


def test_without_normalization_there_is_none_of_either_kind():
    for name in ('ilsvrc2012', 'ilsvrc2012_as_run'):
        for layer in without('lrn', config=name).model.convolutions().values():
            assert not any('normalization' in operation for operation in layer.then)


@pytest.mark.parametrize('name', ['conv3', 'conv4', 'conv5'])
def test_without_a_middle_layer_towers_still_meet_and_maps_are_pooled(name):
    config = without(name)
    assert name not in config.model.convolutions()
    rows = {row.name: row for row in layer_table(config)}
    assert [row.crossing for row in rows.values() if row.name.startswith('conv')].count(
        169 * 128
    ) == 1
    assert [row.pooled for row in rows.values() if row.name.startswith('conv')][-1] == 6


def test_both_last_layers_can_go():
    config = without('conv5', 'conv4')
    assert list(config.model.convolutions()) == ['conv1', 'conv2', 'conv3']
    assert sizes(config)[-1] == (13, 6)
    config = without('conv3', 'conv4')
    assert config.model.conv5.reads == 'all'


def test_the_order_makes_no_difference():
    names = ['lrn', 'relu', 'dropout', 'conv3', 'overlapping_pooling']
    assert without(*names) == without(*reversed(names))


@pytest.mark.parametrize(
    ('config', 'names', 'message'),
    [
        ('digits', ['lnr'], "there is no ablation 'lnr'; there are relu, two_towers"),
        ('digits', ['lrn', 'lrn'], 'the ablation lrn is given twice'),
        ('digits', ['mirror'], 'nothing to ablate as mirror: it mirrors no image'),
        ('digits', ['colour'], 'nothing to ablate as colour: it has no colour noise'),
        ('cifar10', ['conv5'], 'nothing to ablate as conv5: it has no such layer'),
        ('cifar10', ['lrn'], 'nothing to ablate as lrn: no layer is normalized'),
        ('cifar10', ['dropout'], 'nothing to ablate as dropout: no layer has any'),
        ('cifar10', ['two_towers'], 'nothing to ablate as two_towers: it has one tower'),
        ('cifar10', ['crops'], 'nothing to ablate as crops: it trains on whole images'),
        (
            'digits',
            ['cross_talk', 'two_towers'],
            'the ablation cross_talk clashes with two_towers: the config has nothing to ablate',
        ),
    ],
)
def test_mistakes_are_one_line(config, names, message):
    with pytest.raises(UserError) as error:
        ablations.ablate(nets.load(config), names)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_all_middle_layers_may_be_removed():
    """The layer before them takes over the pools of conv5, after its own."""
    config = resolve(ablations.ablate(nets.load('digits'), ['conv3', 'conv4', 'conv5']))
    assert list(config.model.convolutions()) == ['conv1', 'conv2']
    assert config.model.conv2.then[-2:] == ('max_pooling', 'max_pooling')
    assert layer_table(config)[1].pooled == 1
