"""The grouped layout: exact inverses, and the meaning of every axis by an independent forward."""

import jax
import numpy as np
import pytest

import nets
from alexnet_jax.interchange import grouped_layout
from alexnet_jax.model import alexnet
from alexnet_jax.runtime.user_errors import UserError


def params_of(config):
    """Parameters as `alexnet.initialize` returns them, with a different number everywhere."""
    leaves, tree = jax.tree.flatten(alexnet.shapes(config))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.standard_normal(x.shape, np.float32) for x in leaves])


CONFIGS = {
    'two towers': {},
    'one tower': dict(model__towers=1),
    'three towers': dict(model__towers=3),
    'towers that meet nowhere but at fc8': dict(
        model__conv3__reads='own', model__fc6__reads='own', model__fc7__reads='own'
    ),
    'all layers read all': dict(
        model__conv2__reads='all', model__conv4__reads='all', model__conv5__reads='all'
    ),
    'batch normalization': dict(
        model__conv1__batch_normalization=True, model__conv3__batch_normalization=True
    ),
    'maps of several pixels': dict(model__conv5__then=('relu',)),
    'no hidden layers': dict(
        model__conv5__then=('relu',), model__fc6__units=0, model__fc7__units=0
    ),
    'average pooling': dict(
        model__conv5__then=('relu', 'global_average_pooling'),
        model__fc6__units=0,
        model__fc7__units=0,
    ),
    'a sixth convolution and a bottleneck': dict(
        model__conv6__maps=64, model__bottleneck__units=32
    ),
    'a bottleneck of each tower': dict(model__bottleneck__units=32, model__bottleneck__reads='own'),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_there_and_back_is_bit_equal(name):
    config = nets.small(**CONFIGS[name])
    params = params_of(config)
    arrays = grouped_layout.to_grouped(config, params)
    assert {key: x.shape for key, x in arrays.items()} == grouped_layout.shapes(config)
    assert all(x.flags.c_contiguous and x.dtype == np.float32 for x in arrays.values())
    nets.assert_equal_leaves(grouped_layout.from_grouped(config, arrays), params)


def test_groups_are_towers_where_a_layer_reads_its_own():
    assert grouped_layout.groups(nets.small()) == dict(conv1=1, conv2=2, conv3=1, conv4=2, conv5=2)
    assert set(grouped_layout.groups(nets.small(model__towers=1)).values()) == {1}


def test_the_axes_are_those_of_pytorch():
    """Single entries: tower 1's map 3 is map O + 3; fc6's input of a map, row and column."""
    config = nets.small(model__conv5__then=('relu',))
    params = params_of(config)
    arrays = grouped_layout.to_grouped(config, params)
    kernel = params['conv2']['kernel_THWIO']
    maps = kernel.shape[-1]
    assert arrays['conv2.weight'][maps + 3, 2, 4, 1] == kernel[1, 4, 1, 2, 3]
    assert arrays['conv2.bias'][maps + 3] == params['conv2']['bias_TO'][1, 3]
    size, maps = 3, params['conv5']['bias_TO'].shape[1]
    tower, row, column, of_map = 1, 2, 0, 5
    ours = ((tower * size + row) * size + column) * maps + of_map
    theirs = ((tower * maps + of_map) * size + row) * size + column
    units = params['fc6']['bias_TO'].shape[1]
    assert arrays['fc6.weight'][units + 7, theirs] == params['fc6']['kernel_TIO'][1, ours, 7]
    assert arrays['fc8.weight'][4, units + 6] == params['fc8']['kernel_TIK'][1, 6, 4]


def test_towers_that_read_their_own_units_have_zeros_between_them():
    config = nets.small(model__fc7__reads='own')
    arrays = grouped_layout.to_grouped(config, params_of(config))
    weight = arrays['fc7.weight']
    units = len(weight) // 2
    assert not weight[:units, units:].any()
    assert not weight[units:, :units].any()
    weight[0, -1] = 1e-30
    with pytest.raises(UserError, match=r'fc7\.weight connects each tower'):
        grouped_layout.from_grouped(config, arrays)


def test_unshared_weights_are_refused():
    config = nets.small(model__conv4__shared=False)
    with pytest.raises(UserError, match='conv4 has separate weights'):
        grouped_layout.to_grouped(config, params_of(config))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda x: x.pop('conv3.bias'), r'lack conv3\.bias'),
        (lambda x: x.update({'bn1.weight': x['conv1.bias']}), r'have bn1\.weight'),
        (lambda x: x.update({'fc7.bias': x['fc7.bias'][1:]}), r'fc7\.bias has the shape \(511,\)'),
    ],
)
def test_other_names_and_shapes_are_refused(change, message):
    config = nets.small()
    arrays = grouped_layout.to_grouped(config, params_of(config))
    change(arrays)
    with pytest.raises(UserError, match=message):
        grouped_layout.from_grouped(config, arrays)
