"""The flags of programs that train, parsed in this process."""

import pytest
from absl import flags
from absl.testing import flagsaver

import nets
from alexnet_jax.config import command_line, settings
from alexnet_jax.config.ablations import ablate
from alexnet_jax.config.durations import durations
from alexnet_jax.config.loading import load_config
from alexnet_jax.config.validation import resolve
from alexnet_jax.runtime.user_errors import UserError


@pytest.fixture(autouse=True)
def _restore_flags():
    with flagsaver.flagsaver():
        flags.FLAGS.mark_as_parsed()
        yield


def parsed(*arguments):
    """The settings that a command line gives."""
    command_line.parse(['program', *arguments])
    return resolve(command_line.raw())


def mistake(capsys, *arguments):
    """The one line that a command line ends with."""
    with pytest.raises(SystemExit) as end:
        parsed(*arguments)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_without_flags_the_config_is_digits():
    assert parsed() == load_config('digits')
    assert command_line.file().stem == 'digits'


@pytest.mark.parametrize(
    'arguments',
    [
        ['--config=ilsvrc2012'],
        ['--config', 'ilsvrc2012'],
        ['-config=configs/ilsvrc2012.py'],
        [f'--config={nets.ROOT}/configs/ilsvrc2012.py'],
        ['--config=digits', '--config=ilsvrc2012'],
    ],
)
def test_a_config_is_given_by_name_or_path(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed(*arguments) == load_config('ilsvrc2012')
    assert command_line.config_name() == 'ilsvrc2012'


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    text = (nets.ROOT / 'configs' / 'digits.py').read_text()
    (tmp_path / 'mine.py').write_text(text.replace('c.seed = 0', 'c.seed = 7'))
    monkeypatch.setenv('HOME', str(tmp_path))
    assert parsed('--config=~/mine.py').seed == 7
    assert command_line.config_arguments() == [f'--config={tmp_path}/mine.py']


@pytest.mark.parametrize(
    ('arguments', 'name', 'value'),
    [
        (['--config.optimizer.batch_size=8'], 'optimizer.batch_size', 8),
        (['--config.optimizer.batch_size', '8'], 'optimizer.batch_size', 8),
        (['-config.optimizer.batch_size=8'], 'optimizer.batch_size', 8),
        (['--config.seed=1', '--config.seed=2'], 'seed', 2),
        (['--config.optimizer.epochs=3'], 'optimizer.epochs', 3.0),
        (['--config.learning_rate.initial=1e-3'], 'learning_rate.initial', 0.001),
        (['--config.learning_rate.conv1.lower_at', '-1'], 'learning_rate.conv1.lower_at', -1.0),
        (['--config.augmentation.mirror=true'], 'augmentation.mirror', True),
        (['--config.augmentation.mirror=1'], 'augmentation.mirror', True),
        (['--config.augmentation.mirror'], 'augmentation.mirror', True),
        (['--config.augmentation.mirror', '--config.seed=0'], 'augmentation.mirror', True),
        (['--config.dataset.reshuffle', 'False'], 'dataset.reshuffle', False),
        (['--noconfig.dataset.reshuffle'], 'dataset.reshuffle', False),
        (['--config.dataset.train_split=train[:10%]'], 'dataset.train_split', 'train[:10%]'),
        (['--config.dataset.data_dir='], 'dataset.data_dir', ''),
        (['--config.dataset.data_dir=/a=b,c'], 'dataset.data_dir', '/a=b,c'),
        (['--config.pretrained.layers=conv1,conv2'], 'pretrained.layers', ('conv1', 'conv2')),
        (['--config.pretrained.layers=conv1'], 'pretrained.layers', ('conv1',)),
        (['--config.pretrained.layers='], 'pretrained.layers', ()),
        (
            ['--config.model.conv3.then=relu, max_pooling'],
            'model.conv3.then',
            ('relu', 'max_pooling'),
        ),
        (
            ["--config.model.conv3.then=('relu','max_pooling')"],
            'model.conv3.then',
            ('relu', 'max_pooling'),
        ),
        (["--config.model.conv3.then=('relu',)"], 'model.conv3.then', ('relu',)),
        (["--config.model.conv3.then=['relu']"], 'model.conv3.then', ('relu',)),
        (["--config.pretrained.layers='conv1','fc6'"], 'pretrained.layers', ('conv1', 'fc6')),
        (['--config.learning_rate.steps.epochs=10,20'], 'learning_rate.steps.epochs', (10.0, 20.0)),
        (['--config.learning_rate.steps.epochs=(10,)'], 'learning_rate.steps.epochs', (10.0,)),
    ],
)  # fmt: skip
def test_an_override_is_parsed_by_the_type_of_its_setting(arguments, name, value):
    assert parsed(*arguments) == load_config('digits', {name: value})


def test_overrides_may_come_before_the_config_and_in_any_number():
    config = parsed('--config.seed=1', '--config=ilsvrc2012', '--config.model.width=0.5')
    assert config == load_config('ilsvrc2012', {'seed': 1, 'model.width': 0.5})


def test_a_file_of_flags_may_hold_everything(tmp_path):
    (tmp_path / 'flags').write_text(
        '# a comment\n--config=ilsvrc2012\n--config.seed=1\n\n--config.model.conv3.then=tanh\n'
    )
    config = parsed(f'--flagfile={tmp_path}/flags', '--config.seed=2')
    assert config == load_config('ilsvrc2012', {'seed': 2, 'model.conv3.then': ('tanh',)})


def test_the_same_settings_for_another_program():
    parsed('--config', 'ilsvrc2012', '--config.seed', '3', '--config.pretrained.layers=conv1,conv2')
    arguments = command_line.config_arguments()
    assert arguments == [
        '--config=ilsvrc2012',
        '--config.seed=3',
        '--config.pretrained.layers=conv1,conv2',
    ]
    assert command_line.config_arguments(without=('seed',)) == [arguments[0], arguments[2]]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--config.optimizer.momentun=0.9'], 'did you mean optimizer.momentum?'),
        (['--config.foo=1'], 'unknown setting foo: --settings lists all settings'),
        (['--config.learning_rate=1'], 'is a section with settings of its own: did you mean learn'),
        (['--config.model.conv1'], 'model.conv1 is a section with settings of its own'),
        (['--config.seed'], '--config.seed has no value: write --config.seed=VALUE'),
        (['--noconfig.augmentation.mirror=3'], 'write --config.augmentation.mirror=false'),
        (['runs/digits'], "unexpected argument 'runs/digits'"),
        (['--', '--config.seed=1'], "unexpected argument '--config.seed=1'"),
        (['--lr=0.1'], 'no flag --lr: did you mean --config.learning_rate.initial?'),
        (['--epochs=3'], 'no flag --epochs: did you mean --config.optimizer.epochs?'),
        (['--batch_size', '3'], 'did you mean --config.optimizer.batch_size?'),
        (['--dropout=0'], '--config.model.fc6.dropout or --config.model.fc7.dropout?'),
        (['--nonsense=0'], "Unknown command line flag 'nonsense': --help lists all flags"),
        (['--flagfile=/no/such'], '/no/such'),
        (['--settings=nonsense'], 'there is no setting or section nonsense'),
        (['--settings=lr'], 'no setting or section lr: did you mean learning_rate.initial?'),
        (['--settings=conv1'], 'did you mean model.conv1 or learning_rate.conv1?'),
        (['--config', '--config.seed=5'], '--config has no value: write --config=VALUE'),
        (['--config.NAME=seed=5'], 'NAME in --config.NAME=VALUE stands for a setting'),
        (['--config.config=foo'], 'config is not a setting but a flag: --config=foo'),
        (['--flagfile=/no/such/file'], 'Unable to open flagfile'),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(arguments, message, capsys):
    assert message in mistake(capsys, *arguments)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('optimizer.batch_size=many', 'optimizer.batch_size=many must be an integer'),
        ('optimizer.batch_size=8.5', 'optimizer.batch_size=8.5 must be an integer'),
        ('optimizer.epochs=long', 'optimizer.epochs=long must be a number'),
        ('optimizer.epochs=nan', 'optimizer.epochs=nan must be a finite number'),
        ('augmentation.mirror=maybe', 'augmentation.mirror=maybe must be true or false'),
        ('learning_rate.steps.epochs=10,x', 'learning_rate.steps.epochs=x must be a number'),
        ("model.conv3.then=('relu'", 'is no tuple: separate its items by commas'),
        ('model.conv3.then=relu,lrn', "model.conv3.then has 'lrn', which is none of relu, tanh"),
        ('mesh.data=3', 'optimizer.batch_size=64 is not divisible by mesh.data=3'),
        ('mesh.tower=4', 'mesh.tower=4 does not divide model.towers=2'),
        ('dataset.resize=cubic', "dataset.resize='cubic' is none of area"),
    ],
)
def test_a_mistake_in_a_value_is_named(override, message):
    with pytest.raises(UserError) as error:
        parsed(f'--config.{override}')
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_a_missing_config_is_answered_by_the_recipes():
    with pytest.raises(UserError, match=r'did you mean digits\? .*cifar10_normalized, digits'):
        parsed('--config=configs/digit.py')


def settings_text(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        command_line.parse(['program', *arguments])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_settings_lists_every_setting_with_value_range_and_meaning(capsys):
    text = settings_text(capsys, '--settings', '--config.optimizer.batch_size=32')
    assert max(map(len, text.splitlines())) <= 100
    for name in settings.catalogue():
        assert f'  {name} = ' in text
    assert (
        '  optimizer.batch_size = 32\n'
        '      Images per step, on all devices together (§5).\n'
        '      [int, at least 1 and at most 65,536]\n'
    ) in text
    assert 'optimizer: The update rule' in text
    assert "  dataset.folder = ''\n" in text


@pytest.mark.parametrize('flag', [['--settings=model.conv1'], ['--settings', 'model.conv1']])
def test_settings_lists_a_section(flag, capsys):
    text = settings_text(capsys, *flag, '--config.model.conv1.then=tanh')
    names = [line.split()[0] for line in text.splitlines() if ' = ' in line]
    assert names == [name for name in settings.catalogue() if name.startswith('model.conv1.')]
    assert '  model.conv1.then = tanh\n' in text
    assert '[tuple of str, each one of relu, tanh,' in text


def test_settings_lists_one_setting_even_of_a_config_that_does_not_resolve(capsys):
    text = settings_text(capsys, '--settings=seed', '--config.seed=-1')
    assert text.splitlines()[0] == '  seed = -1'


def test_a_parsed_config_can_be_ablated():
    command_line.parse(['program', '--config.seed=4'])
    config = resolve(ablate(command_line.raw(), ['lrn', 'dropout']))
    assert config.seed == 4
    assert config.model.fc6.dropout == 0


@pytest.mark.parametrize('digits', ['\uff11\uff12', '\u0663', '\u00b2'])
@pytest.mark.parametrize('setting', ['optimizer.batch_size=', 'learning_rate.steps.epochs=1.0,'])
def test_digits_are_ascii(setting, digits):
    """Python takes those of other scripts, which look like others in a terminal."""
    with pytest.raises(UserError, match=r'must be an? (integer|number) at least'):
        parsed(f'--config.{setting}{digits}')


def test_never_is_a_number_of_epochs():
    never = r'must be a number .*\(1000000: only at the end of the run'
    with pytest.raises(UserError, match=never):
        parsed('--config.checkpoint.every_epochs=never')
    plan = durations(load_config('digits', {'checkpoint.every_epochs': 1e6}), 1442)
    assert plan.save_every > plan.steps


def test_the_page_of_settings_has_no_control_characters(capsys):
    """The page shows values that are not checked yet."""
    with pytest.raises(SystemExit):
        parsed('--settings=augmentation.colour', '--config.augmentation.colour.noise=\x1b[31m\n')
    out = capsys.readouterr().out
    assert r"augmentation.colour.noise = '\x1b[31m\n'" in out
    assert '\x1b' not in out
