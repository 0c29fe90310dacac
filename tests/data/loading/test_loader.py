import errno
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import nets
import tars
from alexnet_jax.data import images, pixel_statistics
from alexnet_jax.data.loading import loader, unreadable_images
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.signals import Stopped, StopSignal
from alexnet_jax.runtime.user_errors import UserError


class Numbers:
    """A source of images whose label is their index."""

    size = 4

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {'image': np.full((4, 4, 3), index % 256, np.uint8), 'label': index}

    def where(self, index):
        return f'number {index}'


def order(
    length=50,
    batch_size=8,
    seed=0,
    first_step=0,
    steps=25,
    threads=2,
    prefetch=2,
    workers=0,
    reshuffle=True,
    rows=slice(None),
):
    """Returns the labels of so many batches."""
    reading = loader.Reading(4, threads=threads, workers=workers, prefetch=prefetch)
    batches = loader.training_batches(
        Numbers(length), reading, seed, batch_size, first_step, reshuffle, rows
    )
    return [batch['label'].tolist() for batch in itertools.islice(batches, steps)]


class Simultaneous(Numbers):
    """Counts the threads that read at the same time."""

    def __init__(self, length):
        super().__init__(length)
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __getitem__(self, index):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        return super().__getitem__(index)


@pytest.mark.parametrize(('size', 'threads'), [(4, 3), (2, 6)])
def test_cores_have_two_threads_each_where_images_are_scaled(monkeypatch, size, threads):
    """Half of them wait for the library's threads, which scale."""
    monkeypatch.setattr(cpu_devices, 'processor_count', lambda: 3)
    source = Simultaneous(50)
    list(itertools.islice(loader.training_batches(source, loader.Reading(size), 0, 2, 0), 12))
    assert source.most == threads


def test_every_epoch_is_another_permutation():
    stream = list(itertools.chain(*order(steps=25)))  # 200 images, four epochs
    epochs = [stream[i : i + 50] for i in range(0, 200, 50)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_is_a_function_of_seed_and_step():
    assert order() == order(threads=1, prefetch=5)
    assert order() != order(seed=1)
    for first in (1, 6, 7, 20):  # within an epoch and at its boundary
        assert order(first_step=first, steps=3) == order()[first : first + 3]


@pytest.mark.parametrize('length', [1, 7, 8, 9, 16, 23])
def test_evaluation_has_every_image_once(length):
    batches = list(loader.evaluation_batches(Numbers(length), loader.Reading(4), 8))
    assert {batch['label'].shape for batch in batches} == {(8,)}
    labels = [
        label
        for batch in batches
        for label, weight in zip(batch['label'], batch['weight'], strict=True)
        if weight
    ]
    assert labels == list(range(length))


def test_fixed_batches_are_the_same_in_every_epoch():
    """2012: the order of the source; the first images fill up the last batch."""
    batches = order(steps=14, reshuffle=False)
    assert batches[:7] == batches[7:]
    assert batches[0] == list(range(8))
    assert batches[6] == [48, 49, 0, 1, 2, 3, 4, 5]
    assert order(first_step=9, steps=3, reshuffle=False) == batches[9:12]


def test_worker_processes_change_nothing():
    """Batches are the same with any number of processes, also when started within an epoch."""
    expected = order(first_step=3, steps=6)
    assert order(first_step=3, steps=6, workers=2) == expected
    assert order(first_step=3, steps=6, workers=1, threads=1) == expected


def test_a_process_reads_only_its_rows():
    expected = order(steps=10)
    halves = [order(steps=10, rows=rows) for rows in (slice(0, 4), slice(4, 8))]
    assert [a + b for a, b in zip(*halves, strict=True)] == expected


def test_evaluation_by_rows_counts_every_image_once():
    labels = [
        int(label)
        for rows in (slice(0, 2), slice(2, 8))
        for batch in loader.evaluation_batches(Numbers(21), loader.Reading(4), 8, rows)
        for label, weight in zip(batch['label'], batch['weight'], strict=True)
        if weight
    ]
    assert sorted(labels) == list(range(21))


class Damaged(Numbers):
    """A source with some images that cannot be read."""

    bad = (3, 4, 19)

    def __getitem__(self, index):
        if index in self.bad:
            raise images.BadImage('is torn')
        return super().__getitem__(index)


def training(allowed, workers=0):
    source = Damaged(20)
    unreadable = unreadable_images.UnreadableImages(source, allowed)
    reading = loader.Reading(4, workers=workers)
    batches = loader.training_batches(
        source, reading, 0, 4, 0, reshuffle=False, unreadable=unreadable
    )
    return list(itertools.islice(batches, 5)), unreadable


@pytest.mark.parametrize('workers', [0, 1])
def test_an_unreadable_image_stops_the_training(workers):
    with pytest.raises(UserError, match='number 3 is torn'):
        training(0, workers)


def test_as_many_unreadable_images_as_allowed_are_replaced_by_the_next():
    batches, unreadable = training(3)
    assert [batch['label'].tolist() for batch in batches] == [
        [0, 1, 2, 5],
        [5, 5, 6, 7],
        *([8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 0]),
    ]
    assert unreadable.names == ['number 3', 'number 4', 'number 19']
    assert all(batch.keys() == {'image', 'label'} for batch in batches)


def test_more_unreadable_images_than_allowed_are_an_error():
    with pytest.raises(UserError, match='3 training images cannot be read, for example number 3'):
        training(2)


def test_the_advice_for_an_unreadable_image_fits_the_split():
    """Training may leave images out, and an evaluation may not; a source may know a remedy."""
    batches = loader.training_batches(Damaged(20), loader.Reading(4), 0, 20, 0)
    with pytest.raises(UserError, match=r': prepare the data set again, or .* --skip_bad=N'):
        next(batches)

    class Known(Damaged):
        remedy = 'prepare it again: COMMAND'

    with pytest.raises(UserError, match=r'number 3 is torn: prepare it again: COMMAND(?!,)'):
        list(loader.evaluation_batches(Known(20), loader.Reading(4), 4))
    with pytest.raises(UserError, match=r'skip_bad=1: allow more, or prepare it again: COMMAND$'):
        unreadable_images.UnreadableImages(Known(20), 1).add(np.array([3, 4]))


def test_evaluation_leaves_no_image_out():
    with pytest.raises(UserError, match='number 3 is torn'):
        list(loader.evaluation_batches(Damaged(20), loader.Reading(4), 4))


def read(image, size, label=3):
    out = np.empty((size, size, 3), np.uint8)
    assert label == loader.read_into([{'image': image, 'label': label}], 0, out, 'bicubic')
    return out


def test_an_image_of_the_right_size_is_not_scaled():
    image = tars.picture(np.random.default_rng(0), 64, 64)
    np.testing.assert_array_equal(read(image, 64), image)
    png = tars.encode(image, 'PNG')
    np.testing.assert_array_equal(read(png, 64), image)
    jpeg = tars.encode(image, quality=95)
    np.testing.assert_array_equal(read(jpeg, 64), images.decode(jpeg))


def test_other_sizes_are_scaled_and_grey_becomes_rgb():
    image = tars.picture(np.random.default_rng(0), 60, 90)
    for form in (image, tars.encode(image, 'PNG'), tars.encode(image, mode='CMYK')):
        np.testing.assert_array_equal(read(form, 32).shape, (32, 32, 3))
    grey = read(image[..., :1], 60)
    np.testing.assert_array_equal(grey, np.repeat(image[:, 15:75, :1], 3, axis=-1))


class Single(Numbers):
    """A source of one example."""

    def __init__(self, image, label=3):
        super().__init__(1)
        self.example = {'image': image, 'label': label}

    def __getitem__(self, index):
        return self.example


@pytest.mark.parametrize(
    ('image', 'label', 'message'),
    [
        (np.zeros((4, 4, 3), np.uint8), -1, 'number 0 has no label: choose a split'),
        (np.zeros((4, 4, 3), np.float32), 3, 'number 0 has pixels of type float32'),
        (np.zeros((4, 4, 3), np.uint16), 3, 'number 0 has pixels of type uint16'),
        (np.zeros((4, 4, 4), np.uint8), 3, r'number 0 has .* shape \(4, 4, 4\)'),
        (np.zeros((4, 4), np.uint8), 3, r'number 0 has .* shape \(4, 4\)'),
    ],
)
def test_an_example_of_another_kind_is_refused_and_never_replaced(image, label, message):
    source = Single(image, label)
    with pytest.raises(UserError, match=message):
        loader.read_into(source, 0, np.empty((4, 4, 3), np.uint8), 'bicubic')
    unreadable = unreadable_images.UnreadableImages(source, 5)
    with pytest.raises(UserError, match=message):
        next(loader.training_batches(source, loader.Reading(4), 0, 1, 0, unreadable=unreadable))


def test_the_background_reaches_the_images_of_a_batch():
    data = tars.encode(np.zeros((4, 4, 4), np.uint8), 'PNG', 'RGBA')
    for background, level in (('white', 255), ('black', 0)):
        reading = loader.Reading(4, background=background)
        batch = next(loader.evaluation_batches(Single(data), reading, 1))
        assert set(batch['image'].ravel().tolist()) == {level}


def statistics(source, folder, size=4, split='train', unreadable=None):
    return loader.statistics_of(source, loader.Reading(size), str(folder), split, unreadable)


class Unreachable(Numbers):
    """A source whose images must not be read."""

    def __getitem__(self, index):
        raise AssertionError(index)


def test_statistics_count_every_image_once(tmp_path):
    sums = statistics(Numbers(100), tmp_path, split='train[:50%]')
    assert sums.images == 100
    np.testing.assert_allclose(sums.mean_image, 49.5)
    saved = statistics(Unreachable(100), tmp_path, split='train[:50%]')
    assert saved.images == 100  # from the file
    assert statistics(Numbers(3), tmp_path).images == 3


def of_other_images(file):
    statistics(Numbers(70), file.parent)


def of_another_size(file):
    statistics(Numbers(100), file.parent / 'x', size=8)
    (file.parent / 'x' / 'statistics_train_8_bicubic.npz').rename(file)


def of_no_images(file):
    pixel_statistics.Sums.zeros(4).save(file)


def torn(file):
    statistics(Numbers(100), file.parent)
    file.write_bytes(file.read_bytes()[:300])


def empty(file):
    file.write_bytes(b'')


@pytest.mark.parametrize('spoil', [of_other_images, of_another_size, of_no_images, torn, empty])
def test_statistics_that_do_not_fit_are_counted_again_and_replaced(tmp_path, capsys, spoil):
    (tmp_path / 'x').mkdir()
    file = tmp_path / 'statistics_train_4.npz'
    spoil(file)
    capsys.readouterr()
    sums = statistics(Numbers(100), tmp_path)
    assert sums.images == 100
    np.testing.assert_allclose(sums.mean_image, 49.5)
    (line,) = capsys.readouterr().out.splitlines()
    assert str(file) in line
    assert 'the mean image is computed again' in line
    assert statistics(Unreachable(100), tmp_path).images == 100  # replaced
    assert not capsys.readouterr().out


def test_statistics_that_cannot_be_read_now_are_counted_again(tmp_path, capsys, monkeypatch):
    statistics(Numbers(9), tmp_path)

    def fail(*_, **__):
        raise OSError(errno.EIO, 'Input/output error')

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'read_bytes', fail)
        patch.setattr(pixel_statistics.Sums, 'save', lambda *_: None)
        assert statistics(Numbers(9), tmp_path).images == 9
    out = capsys.readouterr().out
    assert 'Input/output error' in out
    assert 'damaged' not in out
    assert statistics(Unreachable(9), tmp_path).images == 9  # the file is still there


def test_the_count_of_the_mean_image_stops_at_a_signal(tmp_path):
    class Signalled(Numbers):
        def __getitem__(self, index):
            if index == 100:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(index)

    with StopSignal(), pytest.raises(Stopped):
        statistics(Signalled(100_000), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_long_count_shows_its_progress(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(loader.ProgressBars, 'show_images', lambda _, *values: shown.append(values))
    monkeypatch.setattr(loader, '_SECONDS_WITHOUT_PROGRESS', 1000)
    statistics(Numbers(100), tmp_path)
    assert shown == []
    monkeypatch.setattr(loader, '_SECONDS_WITHOUT_PROGRESS', 0)
    statistics(Numbers(200), tmp_path)
    assert shown == [('mean image', images, 200) for images in (64, 128, 192, 200)]


def test_no_statistics_of_no_images(tmp_path):
    source = Damaged(3)
    source.bad = range(3)
    with pytest.raises(UserError, match=r'cannot be read|number 0 is torn'):
        statistics(source, tmp_path, unreadable=unreadable_images.UnreadableImages(source, 3))
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_scaled_images_are_saved_by_filter(tmp_path):
    class Larger(Numbers):
        size = 8

    for resize in ('bicubic', 'nearest'):
        loader.statistics_of(Larger(3), loader.Reading(4, resize), str(tmp_path), 'train')
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {'statistics_train_4_bicubic.npz', 'statistics_train_4_nearest.npz'}


def test_statistics_leave_out_as_many_unreadable_images_as_allowed(tmp_path):
    unreadable = unreadable_images.UnreadableImages(Damaged(20), 3)
    sums = loader.statistics_of(Damaged(20), loader.Reading(4), str(tmp_path), 'train', unreadable)
    assert sums.images == 17
    np.testing.assert_allclose(sums.mean_image, (190 - 3 - 4 - 19) / 17, rtol=1e-6)
    assert len(unreadable.names) == 3
    # The file says so: it serves a run that may leave images out, and no other.
    assert statistics(Damaged(20), tmp_path, unreadable=unreadable).images == 17
    assert statistics(Numbers(20), tmp_path).images == 20


def test_statistics_that_cannot_be_saved_are_computed_nevertheless(capsys):
    sums = loader.statistics_of(Numbers(3), loader.Reading(4), '/proc', 'train')
    assert sums.images == 3
    assert 'cannot write /proc/statistics_train_4.npz' in capsys.readouterr().out


def test_statistics_are_used_on_a_full_disk(tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        assert statistics(Numbers(3), tmp_path).images == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().out.splitlines()
    assert 'cannot write' in line
    assert list(tmp_path.iterdir()) == []


def test_lack_of_memory_is_one_line_and_no_bad_image():
    class Greedy(Numbers):
        def __getitem__(self, index):
            raise MemoryError

    unreadable = unreadable_images.UnreadableImages(Greedy(20), 20)
    batches = loader.training_batches(Greedy(20), loader.Reading(4), 0, 4, 0, unreadable=unreadable)
    with pytest.raises(UserError, match=r'Cannot allocate memory.*--config\.loader\.workers'):
        next(batches)
    assert unreadable.names == []


def test_errors_of_the_program_keep_their_traceback():
    class Wrong(Numbers):
        def __getitem__(self, index):
            raise RuntimeError('a mistake in the program')

    with pytest.raises(RuntimeError, match='a mistake in the program'):
        next(loader.training_batches(Wrong(20), loader.Reading(4), 0, 4, 0))


class Ending(Numbers):
    """A source that ends the process that reads it."""

    def __init__(self, number):
        super().__init__(20)
        self.number = number

    def __getitem__(self, index):
        os.kill(os.getpid(), self.number)
        time.sleep(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'message'),
    [(signal.SIGKILL, 'was killed.*out of memory'), (signal.SIGBUS, '/dev/shm.*it is full')],
)
def test_a_worker_that_the_system_ends_is_explained_in_one_line(number, message):
    batches = loader.training_batches(Ending(number), loader.Reading(4, workers=1), 0, 4, 0)
    with pytest.raises(UserError, match=message):
        next(batches)


ENDLESS = """
import multiprocessing, time
from alexnet_jax.data.loading import loader
from alexnet_jax.data.synthetic import Synthetic
if __name__ == '__main__':
    batches = loader.training_batches(Synthetic(99, 8, 10), loader.Reading(8, workers=2), 0, 4, 0)
    next(batches)
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    time.sleep(600)
"""


def runs(pid):
    """Checks whether a process exists; one that has ended and nobody has waited for does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='looks for processes in /proc')
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / 'endless.py'
    script.write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONPATH': str(nets.ROOT)},
    )
    with process:
        workers = process.stdout.readline().split()
        assert len(workers) == 2
        assert all(runs(pid) for pid in workers)
        process.kill()
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(runs(pid) for pid in workers)
