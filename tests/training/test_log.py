import json
import resource
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alexnet_jax.config.durations import Durations
from alexnet_jax.runtime import progress
from alexnet_jax.training import log, progress_line
from alexnet_jax.training.pictures import filter_pictures
from alexnet_jax.training.workdir import Workdir

PLAN = Durations(examples=100, batch_size=10, steps=50, evaluate_every=10, save_every=10)


def write(folder, steps, step=0, evaluated=0):
    writer = log.Writer(Workdir(folder), step, evaluated)
    log_steps(writer, steps)
    writer.close()


def log_steps(writer, steps):
    for s in steps:
        writer.scalars(s, {'train/loss': float(s)})
        if s % 10 == 0:
            writer.scalars(s, {'eval/top1_error': 1.0 / s})


def curves(folder):
    """Returns the points that TensorBoard reads, by the names of their curves."""
    events = EventAccumulator(str(folder), {'scalars': 0}).Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()['scalars']
    }


def points(folder):
    """Returns the points of metrics.jsonl in the precision of TensorBoard."""
    lines, result = Workdir(folder).read_metrics(), {}
    for line in lines:
        for name in line.keys() - {'step'}:
            result.setdefault(name, []).append((line['step'], float(np.float32(line[name]))))
    return result


def steps_of(folder):
    return {name: [step for step, _ in xs] for name, xs in points(folder).items()}


UNDISTURBED = {'train/loss': list(range(1, 21)), 'eval/top1_error': [10, 20]}


def test_a_resumed_run_discards_what_was_logged_after_the_checkpoint(tmp_path):
    write(tmp_path, range(1, 16))
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 16, "tra')  # torn by a kill
    write(tmp_path, range(11, 21), step=10, evaluated=10)
    assert steps_of(tmp_path) == UNDISTURBED
    assert curves(tmp_path) == points(tmp_path)


def test_an_evaluation_that_will_be_repeated_is_discarded(tmp_path):
    write(tmp_path, range(1, 11))
    write(tmp_path, [], step=10, evaluated=0)
    assert steps_of(tmp_path) == {'train/loss': list(range(1, 11))}
    assert curves(tmp_path) == points(tmp_path)


@pytest.mark.parametrize('killed_at', [1, 5, 10, 15])
@pytest.mark.parametrize('checkpoint', [0, 5, 10])
def test_no_point_is_missing_or_double_after_a_kill(tmp_path, killed_at, checkpoint):
    """Also before the first checkpoint; a kill leaves the files as they are at that moment."""
    checkpoint = min(checkpoint, killed_at)
    log_steps(log.Writer(Workdir(tmp_path), 0, 0), range(1, killed_at + 1))
    assert curves(tmp_path) == points(tmp_path)
    assert steps_of(tmp_path)['train/loss'] == list(range(1, killed_at + 1))
    evaluated = checkpoint // 10 * 10
    write(tmp_path, range(checkpoint + 1, 21), step=checkpoint, evaluated=evaluated)
    assert steps_of(tmp_path) == UNDISTURBED
    assert curves(tmp_path) == points(tmp_path)


def test_the_picture_of_every_evaluation_is_kept(tmp_path):
    kernels = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 4))
    for step, steps in ((0, (0, 10, 20, 30)), (20, (30, 40))):
        writer = log.Writer(Workdir(tmp_path), step, step)
        for s in steps:
            writer.filters(s, kernels)
        writer.close()
    events = EventAccumulator(str(tmp_path), {'images': 0}).Reload()
    assert [e.step for e in events.Images('conv1')] == [0, 10, 20, 30, 40]


@pytest.fixture
def full_disk():
    """Returns a function that limits the size of files, as a disk that is full does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit()


@pytest.mark.parametrize('room', [0, 1, 20, 60, 200, 330, 400])
def test_a_full_disk_is_told_once_and_the_log_is_completed(tmp_path, full_disk, capsys, room):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    writer.SECONDS_BETWEEN_TRIES = 0.0
    log_steps(writer, range(1, 4))
    full_disk((tmp_path / 'metrics.jsonl').stat().st_size + room)
    log_steps(writer, range(4, 15))
    full_disk()
    log_steps(writer, range(15, 21))
    writer.close()
    assert steps_of(tmp_path) == UNDISTURBED
    assert curves(tmp_path) == points(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'alexnet_jax: cannot write {tmp_path}/')
    assert ': File too large; training continues, and the log is completed once' in line


def test_a_disk_without_room_is_told_with_its_path_and_reason(tmp_path, monkeypatch, capsys):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr('os.fstat', _no_room)
        log_steps(writer, range(1, 11))
    writer.close()
    assert capsys.readouterr().err == (
        f'alexnet_jax: cannot write {tmp_path}/metrics.jsonl: No space left on device; training '
        'continues, and the log is completed when there is room\n'
    )
    assert curves(tmp_path) == points(tmp_path)
    assert steps_of(tmp_path)['train/loss'] == list(range(1, 11))


def test_curves_that_cannot_be_written_do_not_hold_up_the_metrics(tmp_path, monkeypatch, capsys):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(writer._curves, 'flush', _no_room)
        log_steps(writer, range(1, 11))
        assert steps_of(tmp_path)['train/loss'] == list(range(1, 11))
        writer.close()
    assert len(capsys.readouterr().err.splitlines()) == 1
    write(tmp_path, range(11, 21), step=10, evaluated=10)  # the next start completes them
    assert curves(tmp_path) == points(tmp_path)


def test_a_disk_in_trouble_is_tried_rarely_except_before_a_checkpoint(tmp_path, monkeypatch):
    clock, tries = [100.0], []
    monkeypatch.setattr(log.time, 'monotonic', lambda: clock[0])
    writer = log.Writer(Workdir(tmp_path), 0, 0)

    def attempt(*_):
        tries.append(clock[0])
        _no_room()

    with monkeypatch.context() as patch:
        patch.setattr(writer._metrics, 'flush', attempt)
        for _ in range(21):
            log_steps(writer, [1])
            clock[0] += 0.5
        assert len(tries) == 3  # in ten seconds
        writer.flush()
        assert len(tries) == 4


SHEET = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)  # does not compress


def test_a_sheet_is_written_at_the_start_and_where_it_is_missing(tmp_path):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    assert writer.lacks_sheet(0)
    writer.sheet(0, SHEET)
    assert writer.lacks_sheet(0)  # after a kill before the first checkpoint, for TensorBoard
    assert not writer.lacks_sheet(10)
    writer.close()
    writer = log.Writer(Workdir(tmp_path), 10, 10)
    assert not writer.lacks_sheet(10)
    writer.close()
    events = EventAccumulator(str(tmp_path), {'images': 0}).Reload()
    assert [e.step for e in events.Images('training_images')] == [0]
    (tmp_path / 'training_images.png').unlink()
    assert writer.lacks_sheet(10)


def test_a_sheet_that_cannot_be_written_does_not_end_the_training(tmp_path, full_disk, capsys):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    writer.SECONDS_BETWEEN_TRIES = 0.0
    full_disk(400)
    writer.sheet(0, SHEET)
    full_disk()
    log_steps(writer, range(1, 21))
    writer.close()
    assert curves(tmp_path) == points(tmp_path)
    assert not (tmp_path / 'training_images.png').exists()
    assert not list(tmp_path.glob('.*png'))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f'alexnet_jax: cannot write {tmp_path}/training_images.png: File too large; training '
        'continues without this picture'
    )
    assert log.Writer(Workdir(tmp_path), 10, 10).lacks_sheet(10)


def test_a_process_that_is_not_the_first_writes_no_sheet():
    assert not log.SilentWriter().lacks_sheet(0)


def test_what_could_not_be_written_at_the_end_is_told(tmp_path, monkeypatch, capsys):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    monkeypatch.setattr('os.fstat', _no_room)
    log_steps(writer, range(1, 4))
    writer.close()
    monkeypatch.undo()
    *_, last = capsys.readouterr().err.splitlines()
    assert last == f'alexnet_jax: {tmp_path}/metrics.jsonl lacks the last 3 lines of the log'


def test_a_stderr_that_cannot_be_written_does_not_stop_the_training(tmp_path, monkeypatch):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, 'write', _no_room)
        patch.setattr('os.fstat', _no_room)
        log_steps(writer, range(1, 4))
    writer.close()
    assert curves(tmp_path) == points(tmp_path)


def test_a_loss_that_is_not_a_number_leaves_the_metrics_json(tmp_path):
    writer = log.Writer(Workdir(tmp_path), 0, 0)
    writer.scalars(1, {'train/loss': float('nan'), 'epoch': 0.5})
    writer.close()
    assert json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=pytest.fail) == {
        'step': 1,
        'train/loss': None,
        'epoch': 0.5,
    }
    assert curves(tmp_path) == {'epoch': [(1, 0.5)]}


def _no_room(*_):
    raise OSError(28, 'No space left on device')


def test_filters_of_both_towers_are_side_by_side():
    kernels = np.random.default_rng(0).normal(size=(2, 11, 11, 3, 48))
    kernels[1] = 0.0  # all weights of this tower are equal
    picture = filter_pictures.filter_picture(kernels)
    assert picture.dtype == np.uint8
    half = picture.shape[1] // 2
    assert len(np.unique(picture[:, :half])) > 200
    assert len(np.unique(picture[:, half:])) <= 2
    corner = picture[1:34:3, 1:34:3]  # the first kernel, scaled to the full range
    low, high = kernels[0, ..., 0].min(), kernels[0, ..., 0].max()
    np.testing.assert_array_equal(corner, np.uint8(255 * (kernels[0, ..., 0] - low) / (high - low)))


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0, '0:00'), (59.6, '1:00'), (3723, '1:02:03'), (-5, '0:00')]
)
def test_time_left(seconds, text):
    assert progress.time_left(seconds) == text


def test_the_progress_line_shows_the_progress_of_training(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_line.time, 'monotonic', lambda: clock[0])
    line = progress_line.ProgressLine(PLAN)
    values = {'loss': 1.25, 'top1_error': 0.5}
    assert line.step(1, values, 0.01) == 0  # the first step was compilation
    clock[0] += 20
    assert line.step(11, values, 0.01) == pytest.approx(5)  # 10 steps of 10 images in 20 s
    with line.pause():
        clock[0] += 100
    clock[0] += 2
    assert line.step(12, values, 0.01) == pytest.approx(5)  # the pause does not count
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        'epoch 1.1/5.0  step 11/50  loss 1.2500  error 50.0%  learning rate 0.01  '
        '5 images/s  1:18 left'
    )


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Returns a function that prints a step to a terminal of so many columns, and the line."""
    plan = Durations(1_281_167, 128, 900_810, evaluate_every=10_010, save_every=10_010)
    clock = [0.0]
    monkeypatch.setattr(progress_line.time, 'monotonic', lambda: clock[0])

    def show(columns):
        monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
        monkeypatch.setenv('COLUMNS', str(columns))
        line = progress_line.ProgressLine(plan)
        line.evaluated({'top1_error': 0.4567})
        values = {'loss': 1.25, 'top1_error': 0.5}
        for step in (450_404, 450_405):
            line.step(step, values, 0.001)
            clock[0] += 0.128
        return capsys.readouterr().out.removeprefix('\r\x1b[K')

    return show


@pytest.mark.parametrize('columns', [1, 20, 40, 60, 80, 90, 100, 120, 200])
def test_the_progress_line_is_never_wider_than_the_terminal(terminal, columns):
    line = terminal(columns)
    assert len(line) <= columns - 1
    assert '\n' not in line


def test_a_narrow_terminal_does_without_the_learning_rate_and_the_speed(terminal):
    names = ('epoch', 'step', 'loss', 'error', '(test', 'learning rate', 'images/s', 'left')
    lines = {}
    for columns in (200, 120, 100, 80, 60):
        line = terminal(columns)
        lines[columns] = [name for name in names if name in line]
    assert lines[200] == list(names)
    assert lines[120] == [name for name in names if name != 'learning rate']
    assert lines[100] == ['epoch', 'step', 'loss', 'error', '(test', 'left']
    assert lines[80] == ['step', 'loss', 'error', '(test', 'left']
    assert lines[60] == ['step', 'loss', 'left']


def test_a_towers_picture_is_its_own():
    kernels = np.random.default_rng(0).normal(size=(2, 5, 5, 3, 7))
    both = filter_pictures.filter_picture(kernels, columns=4, zoom=2)
    one, other = (filter_pictures.tower_picture(kernel, 4, 2) for kernel in kernels)
    assert one.shape == (2 * 11 + 1, 4 * 11 + 1, 3)
    np.testing.assert_array_equal(both[:, : one.shape[1]], one)
    np.testing.assert_array_equal(both[:, one.shape[1] + 3 : -3], other)
    assert (one[12:, 34:] == 255).all()  # no eighth kernel
    assert (one[::11] == 255).all()  # white between and around them
    assert (one[:, ::11] == 255).all()
