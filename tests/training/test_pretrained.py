import numpy as np
import pytest

import nets
import runs
from alexnet_jax.config.schema import Pretrained
from alexnet_jax.model import alexnet
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import pretrained


@pytest.fixture(scope='module')
def first(tmp_path_factory, data_dir):
    """A short run to begin from."""
    workdir = tmp_path_factory.mktemp('pretrained') / 'first'
    code, _, err = runs.run(runs.command(workdir, data_dir, optimizer__epochs=0.5))
    assert code == 0, err
    return workdir


def width(**overrides):
    return nets.small(model__width=runs.SHORT['model.width'], **overrides)


def test_the_layers_named_are_theirs_and_the_others_new(first):
    ours = alexnet.initialize(width(seed=1))
    taken = pretrained.load_layers(ours, Pretrained(str(first), ('conv1', 'fc6')))
    _, theirs = runs.final(first)
    assert taken.keys() == ours.keys()
    for layer, arrays in taken.items():
        for name, x in arrays.items():
            kept = theirs[f".params['{layer}']['{name}']"]
            expected = kept if layer in ('conv1', 'fc6') else ours[layer][name]
            np.testing.assert_array_equal(x, expected)


def test_another_number_of_classes_is_fine_but_for_fc8(first):
    ours = alexnet.initialize(width(dataset__classes=7))
    layers = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')
    taken = pretrained.load_layers(ours, Pretrained(str(first), layers))
    assert taken['fc8']['kernel_TIK'].shape[-1] == 7
    with pytest.raises(UserError, match=r'fc8 in .* has the shapes'):
        pretrained.load_layers(ours, Pretrained(str(first), (*layers, 'fc8')))


def test_fine_tuning_as_a_user_does_it(first, tmp_path, data_dir):
    """The first step of a run with a rate of almost nothing leaves the layers as they were."""
    arguments = runs.command(
        tmp_path / 'second',
        data_dir,
        f'--config.pretrained.workdir={first}',
        optimizer__epochs=0.1,
        learning_rate__initial=1e-12,
        seed=5,
    )
    code, _, err = runs.run(arguments)
    assert code == 0, err
    _, before = runs.final(first)
    _, after = runs.final(tmp_path / 'second')
    for name, x in after.items():
        if name.startswith('.params') and 'kernel' in name:
            same = np.allclose(x, before[name], atol=1e-6)
            assert same == ('fc8' not in name), name


@pytest.mark.parametrize(
    ('workdir', 'layers', 'message'),
    [
        ('nowhere', ('conv1',), 'pretrained.workdir=nowhere has no checkpoint'),
        (None, ('conv6',), 'pretrained.layers names conv6, and this net has no such layer'),
    ],
)
def test_mistakes_are_one_line(first, workdir, layers, message):
    with pytest.raises(UserError) as error:
        pretrained.load_layers(
            alexnet.initialize(width()), Pretrained(workdir or str(first), layers)
        )
    assert message in str(error.value)


def test_a_mistake_leaves_no_traceback(tmp_path, data_dir):
    code, _, err = runs.run(
        runs.command(tmp_path / 'w', data_dir, '--config.pretrained.workdir=nowhere')
    )
    assert code == 2
    assert err.strip().splitlines()[-1].startswith('alexnet_jax: pretrained.workdir=nowhere')
    assert 'Traceback' not in err
