import itertools

import numpy as np
import pytest

import tars
from alexnet_jax.data import images, loader
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
    unreadable = loader.UnreadableImages(source, allowed)
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


def test_an_image_without_a_label_is_refused():
    with pytest.raises(images.BadImage, match='has no label'):
        read(np.zeros((4, 4, 3), np.uint8), 4, label=-1)


def test_statistics_count_every_image_once(tmp_path):
    reading, split = loader.Reading(4), 'train[:50%]'
    sums = loader.statistics_of(Numbers(100), reading, str(tmp_path), split)
    assert sums.images == 100
    np.testing.assert_allclose(sums.mean_image, 49.5)
    saved = loader.statistics_of(Numbers(3), reading, str(tmp_path), split)
    assert saved.images == 100  # from the file, not computed from the three images
    assert loader.statistics_of(Numbers(3), reading, str(tmp_path), 'train').images == 3


def test_statistics_of_scaled_images_are_saved_by_filter(tmp_path):
    class Larger(Numbers):
        size = 8

    for resize in ('bicubic', 'nearest'):
        loader.statistics_of(Larger(3), loader.Reading(4, resize), str(tmp_path), 'train')
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {'statistics_train_4_bicubic.npz', 'statistics_train_4_nearest.npz'}


def test_statistics_leave_out_as_many_unreadable_images_as_allowed(tmp_path):
    unreadable = loader.UnreadableImages(Damaged(20), 3)
    sums = loader.statistics_of(Damaged(20), loader.Reading(4), str(tmp_path), 'train', unreadable)
    assert sums.images == 17
    np.testing.assert_allclose(sums.mean_image, (190 - 3 - 4 - 19) / 17, rtol=1e-6)
    assert len(unreadable.names) == 3


def test_statistics_that_cannot_be_saved_are_computed_nevertheless(capsys):
    sums = loader.statistics_of(Numbers(3), loader.Reading(4), '/proc', 'train')
    assert sums.images == 3
    assert 'cannot write /proc/statistics_train_4.npz' in capsys.readouterr().out
