import numpy as np
import pytest

import nets
import runs
from alexnet_jax.config.schema import Pretrained
from alexnet_jax.model import alexnet
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import pretrained
from alexnet_jax.training.state import place_initial_state


def width(**overrides):
    return nets.small(model__width=runs.SHORT['model.width'], **overrides)


def test_the_named_layers_come_from_the_other_run_and_the_others_stay(trained_run):
    initial = alexnet.initialize(width(seed=1))
    params = pretrained.load_layers(initial, Pretrained(str(trained_run), ('conv1', 'fc6')))
    _, trained = runs.final(trained_run)
    assert params.keys() == initial.keys()
    for layer, arrays in params.items():
        for name, x in arrays.items():
            is_loaded = layer in ('conv1', 'fc6')
            path = f".params['{layer}']['{name}']"
            np.testing.assert_array_equal(x, trained[path] if is_loaded else initial[layer][name])


def test_another_number_of_classes_excludes_only_fc8(trained_run):
    initial = alexnet.initialize(width(dataset__classes=7))
    layers = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')
    params = pretrained.load_layers(initial, Pretrained(str(trained_run), layers))
    assert params['fc8']['kernel_TIK'].shape[-1] == 7
    with pytest.raises(UserError, match=r'fc8 in .* is for 10 classes, and this run has 7: leave'):
        pretrained.load_layers(initial, Pretrained(str(trained_run), (*layers, 'fc8')))


@pytest.mark.slow
def test_fine_tuning_as_a_user_does_it(trained_run, tmp_path, data_dir):
    """One step of a run with a learning rate of almost 0 leaves the layers as they were."""
    arguments = runs.command(
        tmp_path / 'second',
        data_dir,
        f'--config.pretrained.workdir={trained_run}',
        optimizer__epochs=0.1,
        learning_rate__initial=1e-12,
        seed=5,
    )
    code, _, err = runs.run(arguments)
    assert code == 0, err
    _, before = runs.final(trained_run)
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
def test_mistakes_are_user_errors(trained_run, workdir, layers, message):
    with pytest.raises(UserError) as error:
        pretrained.load_layers(
            alexnet.initialize(width()), Pretrained(workdir or str(trained_run), layers)
        )
    assert message in str(error.value)


def test_the_initial_state_raises_the_mistake():
    """The programs print a UserError as one line: see test_main.py."""
    config = width(pretrained__workdir='nowhere')
    with pytest.raises(UserError, match=r'pretrained\.workdir=nowhere has no checkpoint'):
        place_initial_state(config, nets.mesh_of(2))


def test_another_run_is_checked_before_the_data_are_prepared(trained_run, tmp_path):
    """A run that is resumed has its own checkpoint, and does not need the other one any more."""
    new, other = tmp_path / 'new', str(trained_run)
    for workdir, layers, message in (
        (
            str(tmp_path / 'nowhere'),
            ('conv1',),
            r'pretrained\.workdir=.*is not the workdir of a run',
        ),
        (other, ('conv1', 'conv6'), 'names conv6, and this net has no such layer'),
    ):
        config = width(pretrained__workdir=workdir, pretrained__layers=layers)
        with pytest.raises(UserError, match=message):
            pretrained.check_workdir(config, new)
    six = width(pretrained__workdir=other, pretrained__layers=('conv6',), model__conv6__maps=8)
    with pytest.raises(UserError, match=f'names conv6, and {other} has no such layer'):
        pretrained.check_workdir(six, new)
    some = width(pretrained__workdir=other, pretrained__layers=('conv1', 'fc8'))
    assert pretrained.check_workdir(some, new) == (
        f'conv1, fc8 begin as in {other} after step 23; '
        'random: conv2, conv3, conv4, conv5, fc6, fc7'
    )
    assert pretrained.check_workdir(width(), new) == ''
    (new / 'checkpoints' / '5').mkdir(parents=True)
    assert pretrained.check_workdir(config, new) == ''


ALL = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8')


@pytest.mark.parametrize(
    ('overrides', 'layers', 'message'),
    [
        (
            {'dataset__classes': 7},
            ALL,
            'fc8 in OTHER is for 10 classes, and this run has 7: leave fc8 out of '
            'pretrained.layers, so that it begins with random weights',
        ),
        (
            {'model__conv2__maps': 64},
            ALL,
            'conv2 in OTHER has the shapes bias_TO (2, 8), kernel_THWIO (2, 5, 5, 3, 8), and in '
            'this net bias_TO (2, 4), kernel_THWIO (2, 5, 5, 3, 4): set '
            '--config.model.conv2.maps=128, or leave conv2 out of pretrained.layers',
        ),
        (  # more settings than a line can name
            {f'model__conv{i}__kernel': 1 for i in range(1, 6)},
            ALL,
            ': use the recipe of that run, or leave conv1 out',
        ),
        (  # the maps have more pixels, which only fc6 shows
            {'augmentation__crop': 72},
            ALL,
            ': set --config.augmentation.crop=64, or leave fc6 out',
        ),
        (
            {'model__conv4__reads': 'all', 'model__towers': 1},
            ('conv4',),
            ': set --config.model.towers=2, --config.model.conv4.reads=own, or leave conv4 out',
        ),
        (
            {'model__conv3__batch_normalization': True},
            ('conv3',),
            ': set --config.model.conv3.batch_normalization=False, or leave conv3 out',
        ),
    ],
)
def test_a_layer_of_another_shape_is_refused_before_the_data_are_prepared(
    trained_run, tmp_path, overrides, layers, message
):
    config = width(pretrained__workdir=str(trained_run), pretrained__layers=layers, **overrides)
    with pytest.raises(UserError) as error:
        pretrained.check_workdir(config, tmp_path / 'new')
    assert message in str(error.value).replace(str(trained_run), 'OTHER')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('overrides', 'layers', 'message'),
    [
        ({}, ALL[:-1], ''),
        (
            {'dataset__classes': 7, 'model__fc7__std': 0.1, 'model__fc7__rate_factor': 0.5},
            ALL[:-1],
            '',
        ),
        ({'model__fc7__dropout': 0.2}, ALL[:-2], ''),
        (
            {'model__fc7__dropout': 0.2},
            ALL[:-1],
            'the layers of OTHER were trained with other settings: '
            'model.fc7.dropout=0.2 and not 0.5',
        ),
        (
            {'model__response_normalization__k': 1.0},
            ('conv1',),
            'other settings: model.response_normalization.k=1.0 and not 2.0',
        ),
        ({'model__response_normalization__k': 1.0}, ('conv3',), ''),
        (
            {'augmentation__deviations': (58.0, 57.0, 57.0)},
            ('conv1',),
            'augmentation.deviations=(58.0, 57.0, 57.0) and not (1.0, 1.0, 1.0)',
        ),
    ],
)
def test_layers_that_compute_something_else_are_told(
    trained_run, tmp_path, capsys, overrides, layers, message
):
    config = width(pretrained__workdir=str(trained_run), pretrained__layers=layers, **overrides)
    pretrained.check_workdir(config, tmp_path / 'new')
    printed = capsys.readouterr().err.replace(str(trained_run), 'OTHER')
    assert (message in printed) if message else not printed


def test_layers_that_are_frozen_with_random_weights_are_told(trained_run, tmp_path, capsys):
    frozen = {f'model__{name}__rate_factor': 0.0 for name in ('conv1', 'conv2', 'fc6')}
    new, taken = tmp_path / 'new', dict(pretrained__workdir=str(trained_run))
    for overrides, names in (
        ({}, 'conv2, fc6'),
        (taken | dict(pretrained__layers=('conv1', 'conv2')), 'fc6'),
    ):
        pretrained.check_workdir(width(**frozen, **overrides), new)
        (line,) = capsys.readouterr().err.splitlines()
        assert f'frozen with random weights: {names}, where rate_factor is 0' in line
    pretrained.check_workdir(width(**frozen, **taken), new)
    pretrained.check_workdir(width(**frozen), new, is_new=False)  # it has the state of another run
    pretrained.check_workdir(width(**frozen), trained_run)  # it is resumed
    assert not capsys.readouterr().err
