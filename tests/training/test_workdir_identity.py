"""Which run a workdir belongs to: its settings, its data, and the run that it was started from."""

import dataclasses
import json
import re
import types

import numpy as np
import pytest

import nets
import runs
from alexnet_jax.config import schema
from alexnet_jax.config.settings import catalogue
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import state
from alexnet_jax.training.workdir import Workdir

DATA = {
    'train': {'images': 1442, 'fingerprint': 'ab12'},
    'eval': {'images': 355, 'fingerprint': 'cd34'},
    'folder': '/data/digits/1.0.0',
}


def claim(path, data=None, extend=False, source=None, **overrides):
    """Starts a run with the settings of `nets.small` and overrides; returns its record."""
    config, mesh = nets.small(**overrides), nets.mesh_of(2)
    with Workdir(path).claim(config, mesh, data, extend=extend, source=source) as workdir:
        return workdir.read_record()


def refusal(path, **arguments):
    before = (path / 'config.json').read_text()
    with pytest.raises(UserError) as caught:
        claim(path, **arguments)
    assert (path / 'config.json').read_text() == before
    assert len(str(caught.value).splitlines()) == 1
    assert 'delete' not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def trained(tmp_path):
    """A workdir with a checkpoint after step 3."""
    return runs.untrained(tmp_path / 'my run', nets.small())


def other(split, **values):
    return DATA | {split: DATA[split] | values}


def test_the_data_are_recorded_and_accepted_again_at_any_place(tmp_path):
    assert claim(tmp_path, DATA)['data'] == DATA
    moved = DATA | {'folder': '/moved'}
    record = claim(tmp_path, moved, dataset__data_dir='/moved', evaluation__batch_size=4)
    assert record['data'] == moved
    assert record['config']['dataset']['data_dir'] == '/moved'
    assert claim(tmp_path)['data'] == moved  # where the data are not known


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (other('train', images=1441), 'train: 1,442 images then, 1,441 now: set'),
        (other('train', fingerprint='x'), 'train: other images, as many: set'),
        (other('eval', fingerprint='x'), 'eval: other images, as many: set'),
        (
            other('train', images=1443) | {'eval': {'images': 354, 'fingerprint': 'x'}},
            'train: 1,442 images then, 1,443 now; eval: 355 images then, 354 now: set',
        ),
    ],
)
def test_other_data_are_refused_and_named(tmp_path, data, message):
    claim(tmp_path, DATA)
    line = refusal(tmp_path, data=data)
    assert message in line
    assert f'the images are not those that {tmp_path} was trained on' in line
    assert 'set --config.dataset.data_dir to the place of the original images' in line
    assert line.endswith('(they were in /data/digits/1.0.0)')
    assert 'set --config.dataset.folder to' in refusal(tmp_path, data=data, dataset__folder='x')
    assert message in refusal(tmp_path, data=data, extend=True)


def test_only_the_split_whose_images_have_changed_is_named(tmp_path):
    """The fingerprint of a split is that of the whole data set; its list is its own."""

    def data(fingerprint, train, test):
        return {
            'train': {'images': 9, 'fingerprint': fingerprint, 'list': train},
            'eval': {'images': 5, 'fingerprint': fingerprint, 'list': test},
        }

    claim(tmp_path, data('a', 'x', 'y'))
    assert 'on: train: other images, as many: set' in refusal(tmp_path, data=data('b', 'z', 'y'))
    assert 'on: eval: other images, as many: set' in refusal(tmp_path, data=data('b', 'x', 'z'))
    both = 'on: train: other images, as many; eval: other images, as many: set'
    assert both in refusal(tmp_path, data=data('b', 'z', 'z'))
    assert both in refusal(tmp_path, data=data('b', 'x', 'y'))  # edited in place


def test_the_place_of_the_original_images_is_not_that_of_the_prepared_ones(tmp_path):
    claim(tmp_path, DATA, dataset__folder='/pets')
    line = refusal(tmp_path, data=other('train', images=5), dataset__folder='/others')
    assert line.endswith(
        'set --config.dataset.folder to the place of the original images (they were in /pets)'
    )


def test_with_a_checkpoint_a_new_run_may_start_from_it_on_other_data(trained):
    claim(trained, DATA)
    line = refusal(trained, data=other('train', images=5))
    assert line.endswith(f", or --from='{trained}' with another --workdir to start from its state")


def test_a_record_of_an_earlier_version_takes_the_present_data(tmp_path):
    claim(tmp_path)
    assert 'data' not in Workdir(tmp_path).read_record()
    assert claim(tmp_path, DATA)['data'] == DATA
    assert 'train: other images' in refusal(tmp_path, data=other('train', fingerprint='x'))


def test_what_only_one_of_two_versions_says_about_the_data_is_not_compared(tmp_path):
    claim(tmp_path, {'train': {'images': 1442}, 'eval': {'images': 355}})
    claim(tmp_path, DATA)
    claim(tmp_path, other('train', digest='new'))


def test_more_epochs_need_a_flag_which_the_message_names(tmp_path):
    claim(tmp_path)
    epochs = nets.small().optimizer.epochs
    line = refusal(tmp_path, optimizer__epochs=90.0, learning_rate__initial=0.5)
    assert f'optimizer.epochs={epochs} (now 90.0): add --extend to continue it with' in line
    assert 'learning_rate.initial=0.01 (now 0.5)' in line
    record = claim(tmp_path, extend=True, optimizer__epochs=90.0, learning_rate__initial=0.5)
    assert record['config']['optimizer']['epochs'] == 90.0
    (change,) = record['changes']
    assert change['step'] is None
    assert change['settings'] == {
        'learning_rate.initial': [0.01, 0.5],
        'optimizer.epochs': [epochs, 90.0],
    }
    # From now on these are the settings of the run.
    claim(tmp_path, optimizer__epochs=90.0, learning_rate__initial=0.5)
    assert 'add --extend' in refusal(tmp_path)


def test_every_change_is_recorded_with_its_step_and_time(trained):
    for epochs in (90.0, 91.0):
        record = claim(trained, extend=True, optimizer__epochs=epochs)
    record = claim(trained, extend=True, optimizer__epochs=91.0)  # without a change
    assert [x['step'] for x in record['changes']] == [3, 3]
    assert record['changes'][1]['settings'] == {'optimizer.epochs': [90.0, 91.0]}
    assert record['changes'][1]['time'] <= record['starts'][-1]['started']
    assert json.loads((trained / 'config.json').read_text()) == record


def test_no_other_setting_can_be_extended(trained):
    changes = {'optimizer__epochs': 90.0, 'optimizer__momentum': 0.8}
    for extend in (False, True):
        line = refusal(trained, extend=extend, **changes)
        assert 'optimizer.momentum=0.9 (now 0.8)' in line
        assert '--extend' not in line
        assert line.endswith(
            f"choose another --workdir, or --from='{trained}' with another --workdir to start "
            'from its state'
        )


def test_starting_from_a_state_is_advised_only_where_it_is_possible(tmp_path, trained):
    claim(tmp_path / 'new')
    assert '--from' not in refusal(tmp_path / 'new', seed=1)  # there is no checkpoint
    assert '--from' in refusal(trained, seed=1)
    assert '--from' not in refusal(trained, seed=1, model__width=0.25)  # a net of other shapes


def test_the_settings_that_can_be_extended():
    names = {name for name in catalogue() if schema.may_extend(name)}
    assert {'optimizer.epochs', 'learning_rate.initial', 'learning_rate.plateau.drops'} <= names
    assert not names & {'optimizer.batch_size', 'seed', 'model.width', 'dataset.name'}
    assert not any(map(schema.may_change, names))


def test_the_run_that_a_run_was_started_from_is_recorded_and_compared(tmp_path):
    source = {'workdir': str(tmp_path / 'a'), 'step': 36}
    assert claim(tmp_path / 'b', source=source)['from'] == source
    assert claim(tmp_path / 'b', source=source)['from'] == source
    assert claim(tmp_path / 'b')['from'] == source  # resumed without the flag
    assert claim(tmp_path / 'b', source=source | {'step': None})['from'] == source
    for changed in ({'step': 40}, {'workdir': str(tmp_path / 'c')}):
        line = refusal(tmp_path / 'b', source=source | changed)
        assert f'was started from {tmp_path}/a after step 36, not from ' in line
        assert line.endswith('leave out --from to resume it, or choose another --workdir')


def test_the_source_is_compared_as_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim(tmp_path / 'b', source={'workdir': 'a', 'step': 36})
    claim(tmp_path / 'b', source={'workdir': str(tmp_path / 'a'), 'step': 36})


def test_a_run_that_was_not_started_from_another_is_not_taken_for_one(tmp_path):
    claim(tmp_path / 'b')
    line = refusal(tmp_path / 'b', source={'workdir': str(tmp_path / 'a'), 'step': 36})
    assert f'was started from its own initial state, not from {tmp_path}/a after step 36' in line


def test_settings_without_effect_are_not_compared(tmp_path):
    """There is no sixth layer, and the background is behind images of a folder alone."""
    claim(tmp_path)
    claim(tmp_path, model__conv6__std=0.5, dataset__background='black')
    schedule = nets.small().learning_rate.schedule
    other = 'fixed' if schedule == 'steps' else 'steps'
    section = {'fixed': 'fixed__levels', 'steps': 'steps__divide_by'}[other]
    claim(tmp_path, **{f'learning_rate__{section}': 7})
    assert 'learning_rate.schedule' in refusal(tmp_path, learning_rate__schedule=other)
    assert 'model.conv6.maps=0 (now 8)' in refusal(tmp_path, model__conv6__maps=8)


def test_a_run_keeps_its_mean_image_and_its_classes(tmp_path):
    """Statistics that change between two starts do not matter; other classes are refused."""
    constants = {'augmentation__constants': '2012', 'augmentation__mean': 'colour'}
    config = nets.small(**constants)
    folder = tmp_path / 'run'
    claim(folder, **constants)

    def start(classes):
        splits = types.SimpleNamespace(train=types.SimpleNamespace(classes=classes))
        return state.read_or_write_inputs(Workdir(folder), config, splits, None)

    names = [str(number) for number in range(10)]
    first = start(names)
    changed = dataclasses.replace(first, mean_HWC=first.mean_HWC + 1)
    Workdir(folder).write_inputs(changed)
    np.testing.assert_array_equal(start(names).mean_HWC, changed.mean_HWC)
    message = f'other classes than {re.escape(str(folder))} .class 0 is 0 in the run and 9 here.: '
    with pytest.raises(UserError, match=message):
        start(names[::-1])
