"""The values of a sweep, as a user writes them."""

import pytest

from alexnet_jax.config.settings import catalogue
from alexnet_jax.evaluation.studies.value_lists import format_value, parse_value_lists
from alexnet_jax.runtime.user_errors import UserError


@pytest.mark.parametrize('prefix', ['', 'config.', '--config.'])
def test_the_prefix_of_a_setting_may_be_left_out(prefix):
    assert parse_value_lists([f'{prefix}learning_rate.initial=0.003,1e-2, 1']) == {
        'learning_rate.initial': [0.003, 0.01, 1.0]
    }


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        ('learning_rate.steps.epochs=(10,20.0),(14.0)', [(10.0, 20.0), (14.0,)]),
        ('learning_rate.steps.epochs=[1.0,2.0],()', [(1.0, 2.0), ()]),
        ('model.conv3.then=(relu,max_pooling),(relu)', [('relu', 'max_pooling'), ('relu',)]),
        ("model.conv3.then=('relu', 'max_pooling'),(relu)", [('relu', 'max_pooling'), ('relu',)]),
        ('augmentation.mirror=true,off', [True, False]),
        ('dataset.train_split=train[:10%],train', ['train[:10%]', 'train']),
        ("pretrained.workdir='','a,b',c)", ['', 'a,b', 'c)']),
    ],
)
def test_commas_within_parentheses_and_quotes_do_not_separate_values(text, values):
    """And each value is written in the same way by `format_value`, where it needs no quotes."""
    ((name, parsed),) = parse_value_lists([text]).items()
    assert parsed == values
    if 'pretrained' not in text:
        again = ','.join(map(format_value, parsed))
        assert parse_value_lists([f'{name}={again}']) == {name: values}


def test_several_settings_keep_their_order():
    lists = parse_value_lists(['optimizer.momentum=0.8,0.9', 'learning_rate.initial=1'])
    assert list(lists) == ['optimizer.momentum', 'learning_rate.initial']


@pytest.mark.parametrize(
    ('texts', 'message'),
    [
        (['x'], 'has no values: write --values config.SETTING=VALUE,VALUE'),
        (['=1,2'], 'has no values'),
        (['config.lr=1,2'], r'unknown setting lr: did you mean learning_rate\.initial'),
        (['model.conv1=1,2'], 'is a section with settings of its own'),
        (['optimizer.epochs=1,2,1.0'], r'gives optimizer\.epochs=1\.0 twice'),
        (['optimizer.epochs=1', 'config.optimizer.epochs=2'], r'gives optimizer\.epochs twice'),
        (['optimizer.epochs=1,,2'], 'has an empty value'),
        (['optimizer.epochs='], 'has an empty value'),
        (['optimizer.epochs=1,a'], r'optimizer\.epochs=a must be a number'),
        (['model.conv3.then=relu,tanh'], r'is a tuple: write \(relu\)'),
        (['model.conv3.then=(relu,(tanh)'], r'lacks a closing \)'),
        (["pretrained.workdir='a,b"], "lacks a closing '"),
        (['seed=1,2'], 'seed cannot be swept: --seeds=N trains each value with N seeds'),
        (['dataset.folder=a,b'], 'errors of different test images cannot be compared'),
        (['loader.threads=1,2'], 'loader.threads cannot be swept: no error depends on it'),
        (['mesh.tower=1,2'], 'no error depends on it'),
    ],
)
def test_a_mistake_is_one_line(texts, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_value_lists(texts)
    assert '\n' not in str(caught.value)


def test_each_setting_has_values_or_a_reason_against_them():
    """No type of a setting is forgotten."""
    refused = set()
    for name in catalogue():
        try:
            parse_value_lists([f'{name}=(),(x)' if catalogue()[name].is_tuple else f'{name}=1'])
        except UserError as error:
            if 'cannot be swept' in str(error):
                refused.add(name)
    assert 'seed' in refused
    assert not {x for x in refused if x.startswith(('model.', 'optimizer.', 'learning_rate.'))}
