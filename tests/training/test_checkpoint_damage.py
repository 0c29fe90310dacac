"""A checkpoint is restored with the bits that were saved, or its damage is told and it is left out.

Trouble of the system is no damage, and neither is a net of other shapes.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import nets
import small_states
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Checkpoints, Position, reading
from alexnet_jax.training.optimizer import Progress
from endurance import flips
from small_states import (
    SHAPES,
    as_before_digests,
    assert_is,
    assert_no_thread_is_left,
    contents,
    data_files,
    restore,
    save,
    shapes_of,
    state_at,
)

POSITION = {'progress': Progress(0.1, 2, 1), 'sums': {'loss': 1 / 3}}


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    return save(tmp_path_factory.mktemp('template'), 2, 4, 6, **POSITION)


@pytest.fixture
def folder(template, tmp_path):
    """Checkpoints of the steps 2, 4 and 6."""
    return shutil.copytree(template, tmp_path / 'checkpoints')


@pytest.fixture
def one_folder(template, tmp_path):
    """A checkpoint of step 6."""
    shutil.copytree(template / '6', tmp_path / 'checkpoints' / '6')
    return tmp_path / 'checkpoints'


def test_a_flipped_bit_is_noticed_or_changes_nothing(one_folder):
    """`python tests/flips.py WORKDIR --count=1000` tries more bits of a real checkpoint."""
    state, position = restore(one_folder)
    results = set()
    for file, offset, mask in flips.sample(one_folder / '6', 60):
        with flips.flipped(file, offset, mask):
            result, message = flips.outcome(one_folder, SHAPES, state, position)
        assert result != flips.SILENT, f'{file} at {offset} ^ {mask}'
        assert len(message) < 300
        results.add(result)
    assert results == {flips.EQUAL, flips.NOTICED}


def test_a_flipped_bit_of_the_position_is_noticed(one_folder):
    """Without digests, one bit in thirteen gives another valid position."""
    state, position = restore(one_folder)
    file = one_folder / '6' / 'position' / 'metadata'
    for offset in range(len(file.read_bytes())):
        with flips.flipped(file, offset, 1 << offset % 8):
            result, _ = flips.outcome(one_folder, SHAPES, state, position)
        assert result != flips.SILENT, offset


def other_values(step_folder):
    """Gives the checkpoint the arrays of another one, each of which can be read."""
    with Checkpoints(step_folder.parent.parent / 'other', 1) as checkpoints:
        step = int(step_folder.name)
        checkpoints.save(state_at(step, seed=99), Position(step=step))
        checkpoints.wait()
    shutil.rmtree(step_folder / 'state')
    (step_folder.parent.parent / 'other' / step_folder.name / 'state').rename(step_folder / 'state')


def empty(step_folder):
    data_files(step_folder)[0].write_bytes(b'')


def cut(step_folder):
    file = data_files(step_folder)[0]
    file.write_bytes(file.read_bytes()[:-20])


def remove(step_folder):
    data_files(step_folder)[0].unlink()


def spoil_manifest(step_folder):
    (step_folder / 'state' / 'manifest.ocdbt').write_bytes(b'\0' * 100)


def remove_state(step_folder):
    shutil.rmtree(step_folder / 'state')


def spoil_position(step_folder):
    (step_folder / 'position' / 'metadata').write_text('{"step": ')


def another_position(step_folder):
    file = step_folder / 'position' / 'metadata'
    file.write_text(file.read_text().replace('"evaluated": 0', '"evaluated": 1'))


def a_list_as_position(step_folder):
    (step_folder / 'position' / 'metadata').write_text('[]')


def remove_digests(step_folder):
    shutil.rmtree(step_folder / 'digests')


def spoil_digests(step_folder):
    file = step_folder / 'digests' / 'metadata'
    file.write_text(file.read_text().replace('"error": null', '"error": 0.01'))


DAMAGES = {
    other_values: 'params.conv1.kernel_THWIO differs from what was saved',
    empty: 'params.conv1.kernel_THWIO cannot be read',
    cut: 'cannot be read',
    remove: 'params.conv1.kernel_THWIO cannot be read',
    spoil_manifest: 'params.conv1.kernel_THWIO cannot be read',
    remove_state: 'its arrays cannot be read',
    spoil_position: 'position/metadata is not readable',
    another_position: 'its position differs from what was saved',
    a_list_as_position: 'its position differs from what was saved',
    remove_digests: 'its digests are missing',
    spoil_digests: 'its digests differ from what was saved',
}


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_used(folder, damage, capfd):
    damage(folder / '6')
    damaged, whole = contents(folder / '6'), contents(folder / '4')
    assert_is(restore(folder), 4)
    assert contents(folder / '6.damaged') == damaged
    assert contents(folder / '4') == whole
    out, err = capfd.readouterr()
    assert out == ''
    assert err.count('\n') == 1
    assert len(err) < 300
    assert DAMAGES[damage] in err
    assert err.startswith('alexnet_jax: checkpoint 6 is damaged (')
    assert err.endswith('): checkpoint 4 is used, and 6 is now named 6.damaged\n')
    assert_is(restore(folder), 4)
    assert capfd.readouterr() == ('', '')  # it is told once


def test_a_name_that_is_taken_is_not_used_again(folder):
    for _ in range(3):
        save(folder, 6, keep=9)
        empty(folder / '6')
        assert_is(restore(folder), 4)
    names = {path.name for path in folder.iterdir()}
    assert names == {'2', '4', '6.damaged', '6.damaged2', '6.damaged3'}


def test_several_damaged_checkpoints_are_set_aside(folder, capfd):
    empty(folder / '6')
    remove(folder / '4')
    assert_is(restore(folder), 2)
    assert {path.name for path in folder.iterdir()} == {'2', '4.damaged', '6.damaged'}
    assert capfd.readouterr().err.count('\n') == 2


def test_what_is_set_aside_is_neither_counted_nor_deleted(folder):
    empty(folder / '6')
    restore(folder)
    save(folder, 6, 8, 10, keep=2)
    assert {path.name for path in folder.iterdir()} == {'8', '10', '6.damaged'}


def test_reading_renames_nothing_and_uses_the_one_before(folder, capfd):
    other_values(folder / '6')
    before = contents(folder)
    for _ in range(2):
        assert_is(restore(folder, keep=None), 4)
        _, err = capfd.readouterr()
        assert err == (
            'alexnet_jax: checkpoint 6 is damaged (params.conv1.kernel_THWIO differs from what was '
            'saved): checkpoint 4 is used\n'
        )
    assert contents(folder) == before


@pytest.mark.parametrize('keep', [3, None])
def test_a_run_does_not_start_from_nothing_where_all_are_damaged(folder, keep):
    """And nothing is renamed: the cause may be a library, not the checkpoints."""
    for step_folder in list(folder.iterdir()):
        empty(step_folder)
    before = contents(folder)
    for _ in range(2):
        with pytest.raises(UserError, match=r'no checkpoint in .* is whole: 6 \(params') as error:
            restore(folder, keep)
        assert len(str(error.value)) - len(str(folder)) < 300
    assert contents(folder) == before


def test_a_run_does_not_start_from_nothing_where_the_last_one_was_set_aside(one_folder):
    (one_folder / '6').rename(one_folder / '6.damaged')
    with pytest.raises(UserError, match=r'is whole: 6\.damaged; choose another --workdir'):
        restore(one_folder)


def test_parameters_alone_are_verified_too(folder, capfd):
    other_values(folder / '6')
    with Checkpoints(folder, keep=None) as checkpoints:
        params = checkpoints.restore_params()
    np.testing.assert_array_equal(
        params['conv1']['kernel_THWIO'], state_at(4).params['conv1']['kernel_THWIO']
    )
    assert 'checkpoint 6 is damaged (params.conv1.kernel_THWIO differs' in capfd.readouterr().err


def test_the_step_can_be_chosen(folder):
    assert_is(restore(folder, step=2), 2)
    with Checkpoints(folder, keep=None) as checkpoints:
        params = checkpoints.restore_params(step=4)
        np.testing.assert_array_equal(
            params['conv1']['kernel_THWIO'], state_at(4).params['conv1']['kernel_THWIO']
        )
        with pytest.raises(
            UserError, match=r'checkpoint 5 in .* does not exist: there are 2, 4, 6'
        ):
            checkpoints.restore(SHAPES, step=5)


def test_a_chosen_step_that_is_damaged_is_neither_replaced_nor_renamed(folder):
    empty(folder / '4')
    with pytest.raises(UserError, match=r'checkpoint 4 in .* is damaged: params\.conv1'):
        restore(folder, step=4)
    assert {path.name for path in folder.iterdir()} == {'2', '4', '6'}


SYSTEM_ERRORS = {
    'files': (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 'Too many open files'),
    'disk': (OSError(errno.EIO, os.strerror(errno.EIO), 'x'), r'Input/output error \(x\)'),
    'handle': (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), 'Stale file handle'),
    'permission': (PermissionError(errno.EACCES, 'Permission denied'), 'Permission denied'),
    'memory': (MemoryError(), 'out of memory'),
    'tensorstore': (
        ValueError(
            'UNKNOWN: Error opening "zarr" driver: [OS error 24: EMFILE Too many open files]'
        ),
        'Too many open files',
    ),
    'device': (
        RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'),
        'out of memory',
    ),
}


@pytest.mark.parametrize('name', SYSTEM_ERRORS)
def test_trouble_of_the_system_is_no_damage(folder, monkeypatch, name):
    error, words = SYSTEM_ERRORS[name]
    before = contents(folder)

    class Handler:
        def restore(self, *_, **__):
            raise Exception('Encountered error while reading array index') from error

    monkeypatch.setattr(reading, '_handler', Handler)
    message = rf'^cannot read checkpoint 6 in .*: {words}; this does not mean that it is damaged'
    with pytest.raises(UserError, match=message):
        restore(folder)
    assert contents(folder) == before


def test_a_file_that_the_system_cannot_read_is_no_damage(folder, monkeypatch):
    """As Orbax reports it, which does not say why."""
    empty(folder / '6')
    file = data_files(folder / '4')[0]

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    monkeypatch.setattr(reading, '_read_files', fail)
    with pytest.raises(UserError, match=r'cannot read checkpoint 6 in .*: Input/output error'):
        restore(folder)
    assert (folder / '6').is_dir()


def test_too_many_open_files_are_no_damage(folder):
    """With a real limit, on files that are opened while the checkpoint is read."""
    before = contents(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Checkpoints(folder, keep=3) as checkpoints:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with pytest.raises(UserError, match='Too many open files'):
                checkpoints.restore(SHAPES)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert_is(checkpoints.restore(SHAPES), 6)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ('other', 'message'),
    [
        (
            state_at(0, classes=4),
            r'params\.fc8\.bias is float32 of the shape \(3,\), not float32 of the shape \(4,\)',
        ),
        (
            state_at(0, dtype=np.float16),
            r'params\.fc8\.bias is float32 of the shape \(3,\), not float16 of the shape \(3,\)',
        ),
        (
            state_at(0)._replace(velocity={}),
            r'velocity\.trace\.conv1\.kernel_THWIO .*, not missing',
        ),
    ],
)
def test_another_net_is_not_taken_for_damage(folder, other, message):
    before = contents(folder)
    message = r'^checkpoint 6 in .* is of another net or version: ' + message
    for keep in (3, None):
        with pytest.raises(UserError, match=message):
            restore(folder, keep, shapes=shapes_of(other))
    assert contents(folder) == before


@pytest.mark.parametrize(
    'error', [Exception(nets.__doc__ * 99), TypeError(), AttributeError('x'), ValueError('{' * 999)]
)
@pytest.mark.parametrize('method', ['restore', 'metadata'])
def test_whatever_orbax_raises_is_one_short_line(one_folder, monkeypatch, error, method):
    if method == 'metadata':
        as_before_digests(one_folder / '6')

    def fail(*_, **__):
        raise error

    handler = reading._handler()
    monkeypatch.setattr(handler, method, fail, raising=True)
    monkeypatch.setattr(reading, '_handler', lambda: handler)
    with pytest.raises(UserError) as raised:
        restore(one_folder)
    text = str(raised.value)
    assert text.startswith(f'no checkpoint in {one_folder} is whole: 6 (its arrays cannot be read)')
    assert len(text) < 300
    assert '\n' not in text


@pytest.mark.slow
@pytest.mark.parametrize('damage', [remove, spoil_manifest])
@pytest.mark.parametrize('digests', [True, False])
def test_nothing_follows_the_line_when_the_process_ends(one_folder, damage, digests):
    """Reads of arrays that were under way printed a traceback each, "Event loop is closed"."""
    if not digests:
        as_before_digests(one_folder / '6')
    damage(one_folder / '6')
    program = f"""
        from pathlib import Path
        import small_states
        from alexnet_jax.runtime.user_errors import report_user_errors
        with report_user_errors():
            small_states.restore(Path({str(one_folder)!r}), keep=None)
    """
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program)],
        env=os.environ | {'PYTHONPATH': f'{nets.ROOT}:{nets.ROOT}/tests'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.startswith('alexnet_jax: no checkpoint in ')
    assert result.stderr.count('\n') == 1


def test_no_thread_is_left(folder):
    empty(folder / '6')
    before = set(threading.enumerate())
    restore(folder)
    restore(folder, keep=None)
    with pytest.raises(UserError):
        restore(folder, step=9)
    assert_no_thread_is_left(before)


def test_a_checkpoint_without_digests_is_restored_and_told(folder, capfd):
    as_before_digests(folder / '6')
    line = 'alexnet_jax: checkpoint 6 is of an earlier version without digests: it was not verified'
    for keep in (3, None):
        assert_is(restore(folder, keep), 6)
        assert capfd.readouterr().err == f'{line}\n'
    with Checkpoints(folder, keep=None) as checkpoints:
        assert checkpoints.restore_params()['fc8']['bias'].shape == (3,)
    assert capfd.readouterr().err == f'{line}\n'


def test_a_checkpoint_without_digests_may_be_damaged_or_of_another_net(folder):
    as_before_digests(folder / '6')
    with pytest.raises(
        UserError, match=r'checkpoint 6 in .* of another net or version: params.fc8'
    ):
        restore(folder, shapes=shapes_of(state_at(0, classes=4)))
    empty(folder / '6')
    assert_is(restore(folder), 4)


def test_state_and_position_agree(folder):
    as_before_digests(folder / '6')
    file = folder / '6' / 'position' / 'metadata'
    file.write_text(file.read_text().replace('"step": 6', '"step": 5'))
    assert_is(restore(folder), 4)
    (folder / '2').rename(folder / '9')  # by hand
    assert_is(restore(folder), 4)
    assert (folder / '9.damaged').is_dir()


def test_a_state_of_another_step_is_not_restored(folder):
    as_before_digests(folder / '6')
    shutil.rmtree(folder / '6' / 'state')
    shutil.copytree(folder / '2' / 'state', folder / '6' / 'state')
    with pytest.raises(UserError, match=r'damaged: its state is of step 2, its position of 6'):
        restore(folder, step=6)
    assert_is(restore(folder), 4)


def test_later_formats_are_not_taken_for_damage(folder, monkeypatch):
    before = contents(folder)
    monkeypatch.setattr('alexnet_jax.training.checkpoint.digests.FORMAT', 0)
    with pytest.raises(UserError, match=r'checkpoint 6 in .* is of another version: its digests'):
        restore(folder)
    assert contents(folder) == before


def test_a_reader_follows_a_run_that_trains(folder):
    """The step that is newest for the reader has been removed by the time that it is read."""
    with Checkpoints(folder, keep=None) as reader, Checkpoints(folder, keep=None) as second:
        save(folder, 8, 10, keep=1)
        assert reader.newest == 6
        assert_is(reader.restore(SHAPES), 10)
        with pytest.raises(UserError, match=r'checkpoint 6 in .* was removed by the run'):
            second.restore(SHAPES, step=6)


def test_a_reader_follows_a_run_that_removes_a_checkpoint_while_it_is_read(folder, monkeypatch):
    read_arrays = reading.read_arrays

    def read_after_removal(step_folder, target):
        if step_folder.name == '6':
            save(folder, 8, 10, keep=1)
        return read_arrays(step_folder, target)

    monkeypatch.setattr(reading, 'read_arrays', read_after_removal)
    assert_is(restore(folder, keep=None), 10)


def test_a_reader_may_see_a_position_that_is_replaced(folder, monkeypatch, capfd):
    """The digests are read before the position is replaced, and the position after it."""
    read_json = reading.read_json

    def read_after_replacement(step_folder, item):
        if item == reading.POSITION:
            monkeypatch.undo()
            save(folder, 6, evaluated=6)
        return read_json(step_folder, item)

    monkeypatch.setattr(reading, 'read_json', read_after_replacement)
    restored = restore(folder, keep=None)
    assert_is(restored, 6)
    assert restored[1].evaluated == 6
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize(
    'values',
    [
        {'step': -1},
        {'step': 2.0},
        {'step': True},
        {'step': '2'},
        {'evaluated': 9},
        {'steps': 9},
        {'sums': []},
        {'sums': {'loss': 'x'}},
        {'progress': None},
        {'progress': {'best': 0.1}},
        {'progress': {'best': '0.1', 'waited': 0, 'drops': 0}},
        {'progress': {'best': 0.1, 'waited': 0, 'drops': -1}},
        {'unknown': 1},
    ],
)
def test_an_impossible_position_is_refused(values):
    good = {
        'step': 2,
        'evaluated': 1,
        'progress': {'best': 0.1, 'waited': 0, 'drops': 0},
        'steps': 1,
        'sums': {},
    }
    assert Position.from_json(good) == Position(2, 1, Progress(0.1), 1)
    if values != {'progress': {'best': 0.1}}:  # the others of it have defaults
        with pytest.raises(ValueError, match='position'):
            Position.from_json(good | values)


def test_a_position_that_is_no_object_is_refused():
    for values in (None, [], 3, 'x', {}):
        with pytest.raises(ValueError, match='position'):
            Position.from_json(values)


def test_the_names_of_arrays_are_those_of_the_tree(folder):
    names = json.loads((folder / '6' / 'digests' / 'metadata').read_text())['arrays'].keys()
    assert names == {
        'step',
        'params.conv1.kernel_THWIO',
        'params.fc8.bias',
        'velocity.trace.conv1.kernel_THWIO',
    }
    assert small_states.State._fields == ('step', 'params', 'velocity')
