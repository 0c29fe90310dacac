"""Config files: found by name from any folder, executed once, overridden by Python values."""

import importlib.metadata
import shutil
import subprocess
import sys

import numpy as np
import pytest

import nets
from alexnet_jax.config.loading import load_config
from alexnet_jax.runtime.user_errors import UserError


def message_of(function, *arguments, **keywords):
    with pytest.raises(UserError) as error:
        function(*arguments, **keywords)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('name', ['digits', 'configs/digits.py', 'digits.py'])
def test_a_recipe_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(nets.ROOT / 'configs' / 'digits.py')


def test_a_file_of_the_same_path_comes_before_the_recipe(tmp_path, monkeypatch):
    (tmp_path / 'configs').mkdir()
    text = (nets.ROOT / 'configs' / 'digits.py').read_text()
    (tmp_path / 'configs' / 'digits.py').write_text(text.replace('c.seed = 0', 'c.seed = 7'))
    monkeypatch.chdir(tmp_path)
    assert load_config('configs/digits.py').seed == 7
    assert load_config('digits').seed == 0


def test_a_config_of_ones_own_starts_from_a_recipe(tmp_path, monkeypatch):
    """As in the docstring of configs/__init__.py."""
    code = (nets.ROOT / 'configs' / '__init__.py').read_text().split('folder:\n\n')[1]
    code = '\n'.join(line[4:] for line in code.split('    python -m')[0].splitlines())
    (tmp_path / 'mine.py').write_text(code)
    monkeypatch.setenv('HOME', str(tmp_path))
    config = load_config('~/mine.py')
    assert config.optimizer.batch_size == 256
    assert config.model == load_config('ilsvrc2012').model


def test_overrides_are_values_by_name():
    config = load_config(
        'digits', {'model.conv3.then': ['tanh']}, optimizer__batch_size=32, model__width=1
    )
    assert config.model.conv3.then == ('tanh',)
    assert (config.optimizer.batch_size, config.model.width) == (32, 1.0)
    assert load_config().seed == 0


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'lr': 1.0}, 'unknown setting lr: did you mean learning_rate.initial?'),
        ({'model__conv1': 3}, 'model.conv1 is a section with settings of its own'),
        ({'optimizer__batch_size': '32'}, "optimizer.batch_size must be of type int, not '32'"),
        ({'optimizer__batch_size': 0}, 'optimizer.batch_size=0 must be at least 1'),
    ],
)
def test_a_wrong_override_is_named(overrides, message):
    assert message in message_of(load_config, 'digits', **overrides)


@pytest.mark.parametrize(
    ('name', 'messages'),
    [
        ('configs/digit.py', ["no config file 'configs/digit.py'", 'did you mean digits?']),
        (
            'nothing_like_it',
            ['the recipes are average_pooling, batch_normalization, bvlc_alexnet,'],
        ),
        ('/nowhere/digits.py', ['there is no config file']),
    ],
)
def test_a_missing_file_is_named(name, messages):
    text = message_of(load_config, name)
    assert all(message in text for message in messages)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x = 1\ny = z\n', "mine.py, line 2, cannot be executed: NameError: name 'z' is not def"),
        ('x = (', 'mine.py cannot be executed: SyntaxError'),
        ('x = 1', 'mine.py is not a config file: it has no function get_config()'),
        ('def get_config():\n    return {}', 'must return an ml_collections.ConfigDict'),
        (
            'from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()',
            'the config lacks seed, deterministic, dataset',
        ),
    ],
)
def test_a_file_that_is_no_config_is_one_line(text, message, tmp_path):
    (tmp_path / 'mine.py').write_text(text)
    assert message in message_of(load_config, tmp_path / 'mine.py')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('"one\\ntwo\\n\\nthe reason\\n"', 'ValueError: one two the reason'),
        ('"x" * 999 + "\\nthe reason"', 'ValueError: the reason'),
        ('""', 'ValueError: ValueError'),
    ],
)
def test_the_reason_is_kept_of_an_exception_with_several_lines(text, message, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(f'def get_config():\n    raise ValueError({text})\n')
    assert message_of(load_config, path) == f'{path}, line 2, cannot be executed: {message}'


@pytest.mark.parametrize('name', ['', '~nobody-has-this-name/x.py', 'a' * 300, 'a\0b', 'gs://x.py'])
def test_a_name_that_is_no_path_is_refused(name):
    assert message_of(load_config, name).startswith('--config')


def test_an_override_needs_its_section(tmp_path):
    (tmp_path / 'mine.py').write_text(
        'from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()'
    )
    message = message_of(load_config, tmp_path / 'mine.py', optimizer__batch_size=3)
    assert 'the config lacks the section optimizer' in message


def test_a_file_is_executed_once(tmp_path, capsys):
    source = nets.ROOT / 'configs' / 'digits.py'
    (tmp_path / 'mine.py').write_text(source.read_text() + "\nprint('executed')\n")
    load_config(tmp_path / 'mine.py')
    assert capsys.readouterr().out == 'executed\n'


def test_the_package_imports_nothing_heavy():
    """`import alexnet_jax` takes no time, and load_config needs no JAX."""
    code = """
import sys, alexnet_jax
heavy = {'jax', 'flax', 'tensorflow_datasets', 'ml_collections'}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert {'Net', 'load', 'load_config', '__version__'} <= set(dir(alexnet_jax))
assert alexnet_jax.load_config('digits').dataset.name == 'digits'
assert 'jax' not in sys.modules
"""
    subprocess.run([sys.executable, '-c', code], check=True, cwd=nets.ROOT)


@pytest.mark.slow
def test_an_installed_wheel_trains(tmp_path, data_dir):
    """From an empty folder, without the checkout: programs, recipes, and configs of one's own."""
    source = tmp_path / 'source'
    shutil.copytree(nets.ROOT / 'alexnet_jax', source / 'alexnet_jax', symlinks=True)
    shutil.copytree(nets.ROOT / 'configs', source / 'configs')
    for name in ('pyproject.toml', 'requirements.txt', 'README.md'):
        shutil.copy(nets.ROOT / name, source)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']

    def run(*arguments):
        empty = tmp_path / 'empty'
        empty.mkdir(exist_ok=True)
        done = subprocess.run(arguments, cwd=empty, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # The dev extra has the build back end; without it pip downloads one.
    is_new = int(importlib.metadata.version('setuptools').partition('.')[0]) >= 77
    isolation = ['--no-build-isolation'] if is_new else []
    run(*pip, 'wheel', '--no-deps', *isolation, f'--wheel-dir={tmp_path}', str(source))
    (wheel,) = tmp_path.glob('*.whl')
    run(sys.executable, '-m', 'venv', '--without-pip', str(tmp_path / 'venv'))
    python = tmp_path / 'venv' / 'bin' / 'python'
    site = run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip()
    run(*pip, '--python', str(python), 'install', '--no-deps', '--no-index', str(wheel))
    ours = run(sys.executable, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))')
    with open(f'{site}/dependencies.pth', 'w') as file:
        file.write(ours)
    where = run(python, '-c', 'import alexnet_jax.configs.ilsvrc2012 as m; print(m.__file__)')
    assert where.startswith(site)
    assert 'main ' in run(python, '-m', 'alexnet_jax')
    short = [f'--config.dataset.data_dir={data_dir}', '--config.optimizer.epochs=0.05']
    short += ['--config.model.width=0.0625', '--config.evaluation.average_views=false']
    out = run(python, '-m', 'alexnet_jax.main', '--config=digits', '--workdir=run', *short)
    assert 'centre crop' in out
    assert (tmp_path / 'empty' / 'run' / 'config.json').exists()
    program = tmp_path / 'venv' / 'bin' / 'alexnet-jax'
    assert 'seed = 3' in run(program, 'main', '--config.seed=3', '--settings=seed')


def test_numbers_of_numpy_are_numbers():
    config = load_config(
        'digits', optimizer__batch_size=np.int64(8), optimizer__epochs=np.float32(2)
    )
    assert (config.optimizer.batch_size, config.optimizer.epochs) == (8, 2.0)


def test_a_frozen_config_can_be_overridden(tmp_path):
    file = tmp_path / 'frozen.py'
    file.write_text(
        'from ml_collections import FrozenConfigDict\n'
        'from alexnet_jax.configs import digits\n'
        'def get_config():\n'
        '    return FrozenConfigDict(digits.get_config())\n'
    )
    assert load_config(file, seed=3).seed == 3
