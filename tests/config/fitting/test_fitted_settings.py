import pytest

import nets
from alexnet_jax.config import loading
from alexnet_jax.config.fitting import fitted_settings
from alexnet_jax.config.fitting.image_survey import TYPICAL
from alexnet_jax.config.schema import flatten
from alexnet_jax.runtime.user_errors import UserError


def rules(config, images, fixed):
    """Three rules, of which each reads the result of the one before."""
    yield 'dataset.image_size', images.median_side, 'a median'
    yield 'augmentation.crop', config.dataset.image_size - 8, 'eight less'
    yield 'optimizer.batch_size', config.augmentation.crop // 2, f'{len(fixed)} fixed'


def values(rows):
    return [row.value for row in rows]


def test_each_rule_sees_the_results_of_those_before_it():
    raw = nets.load('digits')
    config, rows = fitted_settings.fit_settings(raw, rules, TYPICAL)
    assert values(rows) == [375, 367, 183]
    assert flatten(config)['augmentation.crop'] == 367
    assert raw.augmentation.crop == 64  # the original is not changed


def test_what_the_user_sets_wins_and_later_rules_follow_it():
    raw = nets.load('digits')
    loading.override(raw, {'augmentation.crop': 100})
    config, rows = fitted_settings.fit_settings(raw, rules, TYPICAL, {'augmentation.crop'})
    assert values(rows) == [375, 100, 50]
    assert [row.reason for row in rows] == ['a median', 'set by you', '1 fixed']
    assert flatten(config)['augmentation.crop'] == 100


def test_the_values_of_a_run_that_is_resumed_come_from_its_record():
    """Those that the rules set, and no others: a change of another setting is still noticed."""
    raw, recorded = nets.load('digits'), nets.load('digits')
    loading.override(recorded, {'augmentation.crop': 8, 'optimizer.batch_size': 4, 'seed': 7})
    names = fitted_settings.names_of_fitted(raw, rules, {'optimizer.batch_size'})
    assert names == ['dataset.image_size', 'augmentation.crop']
    config = flatten(fitted_settings.use_recorded(raw, names, recorded))
    assert (config['augmentation.crop'], config['optimizer.batch_size']) == (8, 64)
    assert config['seed'] == 0


def failing(config, images, fixed):
    yield 'seed', 1 // len(fixed), 'a mistake'


def unknown(config, images, fixed):
    yield 'optimizer.batchsize', 1, 'a mistake'


@pytest.mark.parametrize(
    ('mistaken', 'message'),
    [
        (failing, r'test_fitted_settings\.py, line \d+: .*fitted to the images: ZeroDivision'),
        (unknown, 'unknown setting optimizer.batchsize: did you mean optimizer.batch_size'),
    ],
)
def test_a_mistake_in_the_rules_is_one_line(mistaken, message):
    with pytest.raises(UserError, match=message) as error:
        fitted_settings.fit_settings(nets.load('digits'), mistaken, TYPICAL)
    assert '\n' not in str(error.value)


def test_the_table_has_a_value_and_a_reason_for_each_setting():
    row = fitted_settings.FittedSetting
    rows = [row('seed', 3, 'short'), row('model.conv1.then', ('relu', 'tanh'), 'long ' * 30)]
    lines = fitted_settings.settings_table(rows).splitlines()
    assert lines[0] == 'seed                      3  short'
    assert lines[1].startswith('model.conv1.then  relu,tanh  long long')
    assert all(len(line) <= 100 for line in lines)
    assert lines[2].startswith(' ' * 29 + 'long')


def test_a_config_file_may_have_rules(tmp_path):
    assert loading.find_rules(loading.find_config('digits')) is None
    file = tmp_path / 'mine.py'
    file.write_text('def fit(config, images, fixed):\n    return [("seed", 1, "why")]\n')
    found = loading.find_rules(file)
    assert list(found(None, None, ())) == [('seed', 1, 'why')]
