import json
import os

import pytest

import nets
from alexnet_jax.config import schema
from alexnet_jax.config.settings import catalogue
from alexnet_jax.runtime import printing
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import config_file
from alexnet_jax.training.run_files.start_record import describe_start
from alexnet_jax.training.workdir import Workdir


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The config.json of a run with the settings of `nets.small`."""
    monkeypatch.setattr(printing, '_WARNINGS', set())
    file = tmp_path / 'config.json'
    start = describe_start(nets.small(), nets.mesh_of(2))
    config_file.write(file, {'config': config_file.plain(nets.small()), 'starts': [start]})
    return file


def edit(file, change):
    """Applies a function to the record in a config.json, and writes it back."""
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def refusal(file):
    """Returns the one line with which both resuming and evaluating refuse the file."""
    before = file.read_bytes() if file.is_file() else None
    lines = set()
    workdir = Workdir(file.parent)
    for use in (workdir.read_config, workdir.claim(nets.small(), nets.mesh_of(2)).__enter__):
        with pytest.raises(UserError) as caught:
            use()
        lines.add(str(caught.value))
    assert (file.read_bytes() if file.is_file() else None) == before
    (line,) = lines
    assert len(line.splitlines()) == 1
    return line


DAMAGED = [
    '',
    '[]',
    'null',
    '3',
    '"x"',
    '{}',
    '{"config": ',
    '{"config": 3, "starts": []}',
    '{"config": {}, "starts": []}',
    '{"starts": []}',
    '[' * 100_000,
]


@pytest.mark.parametrize('text', DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_one_line(file, text):
    file.write_text(text)
    assert 'config.json is damaged' in refusal(file)
    file.write_bytes(b'\xff' + text.encode())
    assert 'config.json is damaged' in refusal(file)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (lambda x: x.update(starts=[]), 'it lacks the starts'),
        (lambda x: x.update(starts=[3]), 'it lacks the starts'),
        (lambda x: x['starts'][0].update(started='yesterday'), 'it lacks the starts'),
        (lambda x: x.update(format='2'), "format '2'"),
        (lambda x: x.update(format=True), 'format True'),
        (lambda x: x.update(format=0), 'format 0'),
        (lambda x: x.update(data=[]), r"'data' is \[\]"),
        (lambda x: x.update(data={'train': {'images': 'x'}}), r"'data' is {'train': "),
        (lambda x: x.update({'from': {'workdir': 3}}), r"'from' is {'workdir': 3}"),
        (lambda x: x.update(changes={}), "'changes' is {}"),
        (lambda x: x['config'].pop('optimizer'), 'it lacks the setting optimizer.batch_size'),
        (lambda x: x['config'].update(model=3), 'it lacks the setting model.width'),
        (lambda x: x['config']['model'].update(conv1=3), 'model.conv1 is a section'),
        (lambda x: x['config'].update(seed='x'), "seed must be of type int, not 'x'"),
        (lambda x: x['config']['model']['conv1'].update(then=None), 'then must be a tuple'),
        (lambda x: x['config']['optimizer'].update(epochs=float('inf')), 'must be a finite number'),
    ],
)
def test_wrong_values_are_damage_and_named(file, change, reason):
    edit(file, change)
    with pytest.raises(UserError, match=reason):
        Workdir(file.parent).read_config()
    assert refusal(file).endswith('resumes it, and writes the file again')


def test_without_a_damaged_file_the_same_command_resumes(file):
    """The advice of the message is true."""
    (file.parent / 'checkpoints' / '3').mkdir(parents=True)
    file.write_text('[]')
    assert 'move it elsewhere; then the command that started the run resumes it' in refusal(file)
    file.rename(file.with_name('config.json.old'))
    with Workdir(file.parent).claim(nets.small(), nets.mesh_of(2)) as workdir:
        assert workdir.read_config() == nets.small()
    assert (file.parent / 'checkpoints' / '3').is_dir()


def test_a_file_that_cannot_be_read_is_one_line(file, monkeypatch):
    def read_text(*_, **__):
        raise PermissionError(13, 'Permission denied')

    with monkeypatch.context() as patch:
        patch.setattr(type(file), 'read_text', read_text)
        assert refusal(file) == f'cannot read {file}: Permission denied'
    file.unlink()
    file.mkdir()
    assert refusal(file) == f'{file} is not a file: move it elsewhere'
    file.rmdir()
    os.mkfifo(file)
    assert refusal(file) == f'{file} is not a file: move it elsewhere'
    file.unlink()
    file.symlink_to(file)
    assert refusal(file) == f'{file} is not a file: move it elsewhere'


def test_a_file_that_cannot_be_written_is_one_line(file, monkeypatch):
    def sync(_):
        raise OSError(28, 'No space left on device')

    before = file.read_text()
    monkeypatch.setattr('alexnet_jax.runtime.atomic_files.sync', sync)
    assert_full = pytest.raises(UserError, match=f'cannot write {file}: No space left on device')
    with assert_full, Workdir(file.parent).claim(nets.small(), nets.mesh_of(2)):
        pass
    assert file.read_text() == before


def test_a_newer_format_is_refused_by_name(file):
    edit(file, lambda record: record.update(format=3, config={'other': 'things'}))
    assert 'was written by a newer version of alexnet_jax, in format 3' in refusal(file)


def test_the_format_is_written(file):
    assert json.loads(file.read_text())['format'] == config_file.FORMAT
    edit(file, lambda record: record.pop('format'))
    with Workdir(file.parent).claim(nets.small(), nets.mesh_of(2)):
        pass
    record = json.loads(file.read_text())
    assert record['format'] == config_file.FORMAT
    assert len(record['starts']) == 2


def remove(record, name):
    *sections, last = name.split('.')
    values = record['config']
    for section in sections:
        values = values[section]
    del values[last]


def test_settings_that_were_added_mean_what_the_earlier_version_did(file):
    def change(record):
        for name in ('dataset.background', 'checkpoint.every_minutes', 'model.dtype'):
            remove(record, name)
        del record['config']['model']['batch_normalization'], record['config']['pretrained']

    edit(file, change)
    config = Workdir(file.parent).read_config()
    assert config == nets.small(dataset__background='black')
    with Workdir(file.parent).claim(nets.small(), nets.mesh_of(2)):
        pass  # the digits have no transparent pixels


def test_transparent_pixels_of_an_earlier_run_stay_black(file):
    def change(record):
        remove(record, 'dataset.background')
        record['config']['dataset']['folder'] = 'photos'

    edit(file, change)
    config = nets.small(dataset__folder='photos')
    message = r'dataset.background=black \(now white\): set them as they were'
    with pytest.raises(UserError, match=message):
        Workdir(file.parent).claim(config, nets.mesh_of(2)).__enter__()
    with Workdir(file.parent).claim(
        nets.small(dataset__folder='photos', dataset__background='black'), nets.mesh_of(2)
    ):
        pass


def test_the_settings_of_every_earlier_version_are_complete(file):
    """All that have ever been added are missing in the oldest files."""

    def change(record):
        for name in config_file.ADDED:
            remove(record, name)

    edit(file, change)
    assert config_file.ADDED.keys() <= catalogue().keys()
    config = Workdir(file.parent).read_config()
    assert schema.flatten(schema.as_dict(config)).keys() == catalogue().keys()
    with Workdir(file.parent).claim(nets.small(), nets.mesh_of(2)):
        pass


def test_any_other_missing_setting_is_that_of_the_paper_and_told(file, capsys):
    edit(file, lambda record: remove(record, 'optimizer.momentum'))
    for _ in range(2):
        assert Workdir(file.parent).read_config() == nets.small(optimizer__momentum=0.9)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('lacks settings, which are taken from ilsvrc2012: optimizer.momentum=0.9')


def test_a_setting_of_another_version_is_refused_by_name_unless_it_is_harmless(file):
    edit(file, lambda record: record['config']['loader'].update(shards=3))
    assert Workdir(file.parent).read_config() == nets.small()
    edit(file, lambda record: record['config']['optimizer'].update(nesterov=True))
    assert 'does not have: optimizer.nesterov: use the version that wrote it' in refusal(file)


def test_batch_normalization_was_an_operation(file):
    def change(record):
        for layer in record['config']['model'].values():
            if isinstance(layer, dict) and layer.pop('batch_normalization', False):
                layer['then'].insert(0, 'batch_normalization')

    config = nets.small(model__conv2__batch_normalization=True)
    edit(file, lambda record: record.update(config=config_file.plain(config)))
    edit(file, change)
    assert 'batch_normalization' in json.loads(file.read_text())['config']['model']['conv2']['then']
    assert Workdir(file.parent).read_config() == config
    with Workdir(file.parent).claim(config, nets.mesh_of(2)):
        pass


def test_which_settings_have_an_effect():
    settings = schema.flatten(config_file.plain(nets.small(learning_rate__schedule='steps')))
    unused = {name for name in settings if not config_file.has_effect(name, settings)}
    assert {'learning_rate.plateau.drops', 'model.conv6.std', 'dataset.background'} <= unused
    sections = (
        'learning_rate.plateau.',
        'learning_rate.fixed.',
        'learning_rate.polynomial.',
        'learning_rate.warm_up.divide_by',
        'optimizer.trust_coefficient',
        'model.conv6.',
        'model.bottleneck.',
    )
    assert all(name.startswith(sections) for name in unused - {'dataset.background'})
    assert not unused & {'model.conv6.maps', 'learning_rate.schedule', 'learning_rate.steps.epochs'}
