import itertools

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

from alexnet_jax.training.run_files import event_file
from alexnet_jax.training.run_files.event_file import EventFile

LINES = [{'step': s, 'a': s / 10, 'b': 1.0 / s} for s in range(1, 9)]


def picture(value):
    return np.full((4, 4, 3), value, np.uint8)


def read(folder):
    """Returns the points of all curves and the pictures, as TensorBoard reads them."""
    events = EventAccumulator(str(folder), {'scalars': 0, 'images': 0}).Reload()
    curves = {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()['scalars']
    }
    pictures = [
        (e.step, e.encoded_image_string)
        for name in events.Tags()['images']
        for e in events.Images(name)
    ]
    return curves, pictures


def files(folder):
    """Returns the files that are not empty; an empty one leads a running TensorBoard on."""
    assert len(list(folder.iterdir())) <= 2
    return [path for path in folder.iterdir() if path.stat().st_size]


def expected(lines):
    return {name: [(x['step'], float(np.float32(x[name]))) for x in lines] for name in ('a', 'b')}


def write(folder, lines, more=(), pictures=(), last_picture=-1):
    file = EventFile(folder, lines, last_picture)
    for line in more:
        file.add_scalars(line['step'], {name: x for name, x in line.items() if name != 'step'})
    for step in pictures:
        file.add_picture('conv1', step, picture(step))
    file.flush()
    return file


def test_the_curves_are_the_lines(tmp_path):
    write(tmp_path, LINES[:5], LINES[5:])
    assert read(tmp_path)[0] == expected(LINES)


def test_every_event_is_in_the_file_at_once(tmp_path):
    file = write(tmp_path, [])
    for i, line in enumerate(LINES, 1):
        file.add_scalars(line['step'], {'a': line['a'], 'b': line['b']})
        file.flush()
        assert read(tmp_path)[0] == expected(LINES[:i])


def test_a_new_start_replaces_the_points_and_keeps_the_pictures_of_the_checkpoint(tmp_path):
    write(tmp_path, [], LINES, pictures=[0, 4, 8])
    before = read(tmp_path)[1]
    write(tmp_path, LINES[:5], last_picture=4)
    curves, pictures = read(tmp_path)
    assert curves == expected(LINES[:5])
    assert pictures == before[:2]
    assert len(files(tmp_path)) == 1
    write(tmp_path, [])  # before the first checkpoint
    assert read(tmp_path) == ({}, [])


def test_a_tensorboard_that_is_running_shows_the_new_file(tmp_path):
    board = EventAccumulator(str(tmp_path), {'scalars': 0})
    for start in range(3):
        write(tmp_path, LINES[:start], LINES[start : start + 3])
        assert [e.step for e in board.Reload().Scalars('a')] == list(range(1, start + 4))


def test_the_times_of_points_are_kept(tmp_path, monkeypatch):
    clock = itertools.count(1000.0)
    monkeypatch.setattr(event_file.time, 'time', lambda: next(clock))
    write(tmp_path, [], LINES)

    def times():
        return [e.wall_time for e in EventAccumulator(str(tmp_path)).Reload().Scalars('b')]

    before = times()
    assert len(set(before)) == len(LINES)
    write(tmp_path, LINES)
    assert times() == before


def test_files_of_earlier_versions_are_replaced(tmp_path):
    """They were written by tensorboardX's own writer, and had no START at their beginning."""
    with SummaryWriter(str(tmp_path)) as board:
        for line in LINES:
            board.add_scalar('a', 7.0, line['step'])
        for step in (0, 4, 8):
            board.add_image('conv1', picture(step), step, dataformats='HWC')
    before = read(tmp_path)[1]
    write(tmp_path, LINES[:5], last_picture=4)
    assert read(tmp_path) == (expected(LINES[:5]), before[:2])


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    'moment', ['unlink', 'append', 'rename', 'sync_folder', 'truncate', 'second unlink']
)
def test_a_kill_while_the_curves_are_written_anew_loses_nothing(tmp_path, monkeypatch, moment):
    write(tmp_path, [], LINES, pictures=[0, 4, 8])
    write(tmp_path, LINES, last_picture=8)  # leaves an empty file, too
    before = read(tmp_path)
    calls = itertools.count(1)
    last = 2 if moment.startswith('second') else 1

    def killed(*_, **__):
        if next(calls) == last:
            raise Killed

    target = {
        'append': (event_file.AppendOnlyFile, 'append'),
        'sync_folder': (event_file.atomic_files, 'sync_folder'),
        'truncate': (event_file.os, 'truncate'),
    }.get(moment, (type(tmp_path), moment.split()[-1]))
    with monkeypatch.context() as patch:
        patch.setattr(*target, killed)
        with pytest.raises(Killed):
            write(tmp_path, LINES[:5], last_picture=4)
    # What TensorBoard shows until the next start: the old curves, or the new ones alone.
    assert read(tmp_path) in (before, (expected(LINES[:5]), before[1][:2]))
    write(tmp_path, LINES[:5], last_picture=4)
    assert read(tmp_path) == (expected(LINES[:5]), before[1][:2])
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize('cut', [1, 3, 10, 60])
def test_pictures_before_a_damaged_record_are_kept(tmp_path, cut):
    file = write(tmp_path, [], pictures=[0, 4, 8])
    before = read(tmp_path)[1]
    data = file.path.read_bytes()
    *_, (_, last) = event_file.read_events(file.path)
    middle = len(data) - len(last) // 2
    damaged = data[:-cut], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    for content in damaged:
        for old in tmp_path.iterdir():
            old.unlink()
        file.path.write_bytes(content)
        write(tmp_path, LINES, last_picture=8)
        assert read(tmp_path) == (expected(LINES), before[:2])


def test_a_file_that_cannot_be_read_stays_and_is_told(tmp_path, monkeypatch, capsys):
    old = write(tmp_path, [], LINES, pictures=[0]).path
    plain_read = type(old).read_bytes

    def read_bytes(path):
        if path == old:
            raise PermissionError(13, 'Permission denied')
        return plain_read(path)

    with monkeypatch.context() as patch:
        patch.setattr(type(old), 'read_bytes', read_bytes)
        write(tmp_path, LINES[:3], last_picture=4)
    assert f'cannot read {old}: Permission denied; its pictures' in capsys.readouterr().err
    assert old.exists()
    assert read(tmp_path) == (expected(LINES[:3]), [])


def test_a_point_that_is_not_finite_is_left_out(tmp_path):
    file = write(tmp_path, [])
    file.add_scalars(1, {'a': float('nan'), 'b': 1.0})
    file.add_scalars(2, {'a': float('inf')})
    file.flush()
    assert read(tmp_path)[0] == {'b': [(1, 1.0)]}


def test_events_that_could_not_be_written_are_written_later(tmp_path, monkeypatch):
    """The first file may be what cannot be written, or an event after it."""
    for folder, first in ((tmp_path / 'new', []), (tmp_path / 'more', LINES[:2])):
        folder.mkdir()
        file = EventFile(folder, first, -1)
        if first:
            file.flush()
        for line in LINES[len(first) :]:
            file.add_scalars(line['step'], {'a': line['a'], 'b': line['b']})
            with monkeypatch.context() as patch:
                patch.setattr(event_file.AppendOnlyFile, 'append', _fails)
                with pytest.raises(OSError, match='No space left'):
                    file.flush()
            assert not (folder / event_file.INCOMPLETE).exists()
        file.flush()
        assert read(folder)[0] == expected(LINES)


def _fails(*_, **__):
    raise OSError(28, 'No space left on device')
