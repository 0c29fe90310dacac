import json
import shlex

import pytest

from alexnet_jax.data.preparation import prepared_sets
from alexnet_jax.data.preparation.storage import Storage


def prepared(folder, **source):
    """Writes a data set's description; returns its folder."""
    folder.mkdir(parents=True)
    complete = {'images': {}, 'fingerprint': '', 'skipped': [], 'storage': {'size': 64}}
    if source:
        (folder / prepared_sets.SOURCE).write_text(json.dumps(complete | source))
    return folder


def arguments(command):
    """Returns the arguments of a command as a shell passes them on."""
    program, *rest = command.split(' --', 1)
    assert program == 'python -m alexnet_jax.prepare'
    return shlex.split('--' + rest[0])


def test_the_command_can_be_pasted_whatever_the_folder_is_called(tmp_path):
    root = tmp_path / "a b; $HOME 'x'"
    folder = prepared(root / 'digits' / '1.0.0')
    assert arguments(prepared_sets.command_again(folder)) == [
        *('--again', '--name=digits', f'--data_dir={root}')
    ]


def test_the_command_names_the_config_of_a_data_set(tmp_path):
    folder = prepared(tmp_path / 'cifar10_1' / 'v4' / '1.0.0')
    (folder / 'dataset_info.json').write_text(json.dumps({'configName': 'v4'}))
    assert arguments(prepared_sets.command_again(folder)) == [
        *('--again', '--name=cifar10_1/v4', f'--data_dir={tmp_path}')
    ]


def test_images_whose_origin_is_not_recorded_are_selected_by_the_user(tmp_path):
    storage = {'size': 0, 'raw': False, 'quality': 90, 'filter': 'lanczos'}
    folder = prepared(tmp_path / 'imagenet2012' / '5.1.0', storage=storage)
    assert arguments(prepared_sets.command_again(folder)) == [
        *('--again', '--tars=DIR', '--size=original', '--filter=lanczos'),
        f'--data_dir={tmp_path}',
    ]
    folder = prepared(tmp_path / 'set' / '5.1.0', source={'folder': '/a'})
    assert arguments(prepared_sets.command_again(folder))[1] == '--name=set'


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{"images": {}}', '\\xff'])
def test_a_description_that_cannot_be_used_is_none(tmp_path, text):
    (tmp_path / prepared_sets.SOURCE).write_bytes(text.encode())
    assert prepared_sets.read_source(tmp_path) == {}


def test_a_data_set_is_found_by_its_name_only(tmp_path):
    folder = prepared(tmp_path / 'set' / '5.1.0', source={})
    assert prepared_sets.find_prepared(tmp_path, 'set') == folder
    for name in ('', 'other', '../set', '*', 'set/5.1.0'):
        assert prepared_sets.find_prepared(tmp_path, name) is None


def test_a_set_of_a_folder_whose_description_is_lost_is_prepared_from_that_folder(tmp_path):
    """No data set of TFDS has its name; what the name tells is in the command."""
    storage = Storage(size=64, raw=True, filter='lanczos', background='black')
    folder = prepared(tmp_path / storage.name('folder_my_pets_0123abcd') / '5.1.0')
    assert prepared_sets.lacks_source(folder)
    assert arguments(prepared_sets.command_again(folder)) == [
        *('--again', '--folder=DIR', '--size=64', '--storage=raw', '--filter=lanczos'),
        *('--background=black', f'--data_dir={tmp_path}'),
    ]
    assert not prepared_sets.lacks_source(prepared(tmp_path / 'digits' / '1.0.0'))


@pytest.mark.parametrize(
    ('name', 'flags'),
    [
        ('imagenet2012', ['--size=original']),
        ('imagenet2010_256', ['--size=256']),
        ('synsets_fall2011_256_raw', ['--size=256', '--storage=raw']),
        ('imagenet2012_64_q80_lanczos', ['--size=64', '--quality=80', '--filter=lanczos']),
    ],
)
def test_a_set_of_tars_whose_description_is_damaged_is_prepared_from_tars(tmp_path, name, flags):
    folder = prepared(tmp_path / name / '5.1.0')
    (folder / prepared_sets.SOURCE).write_text('{')
    assert arguments(prepared_sets.command_again(folder)) == [
        *('--again', '--tars=DIR', *flags, f'--data_dir={tmp_path}')
    ]
