import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from alexnet_jax.data import dataset_check, image_index, images, records, sources, system_errors
from alexnet_jax.data.loading import loader
from alexnet_jax.data.preparation import shards
from alexnet_jax.runtime.user_errors import UserError

RNG = np.random.default_rng(0)
SIZE, EACH = 100, 12  # pixels; images in a shard: 360 kB of pixels cross five block headers
SHARDS = {'train': 2, 'validation': 1}


def write_set(folder, raw):
    """Writes a data set as `prepare` does: random pixels, or their JPEGs; labels 0, 1, 0, 1, ..."""
    folder.mkdir(parents=True)
    indexes, infos = [], []
    for split, number in SHARDS.items():
        for shard in range(number):
            path = folder / f'own-{split}.array_record-{shard:05d}-of-{number:05d}'
            writer = shards.RecordWriter(path)
            for row in range(EACH):
                pixels = RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
                stored = pixels.tobytes() if raw else images.encode(pixels, 90)
                writer.write(stored, row % 2, f'{shard}_{row}')
            writer.close()
            indexes.append((path, writer.index()))
        infos.append(tfds.core.SplitInfo(split, [EACH] * number, 1))
    image_index.save(folder, indexes)
    shape, encoding = (SIZE, SIZE, 3), tfds.features.Encoding.BYTES
    image = (
        tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=encoding)
        if raw
        else tfds.features.Image(shape=shape, encoding_format='jpeg')
    )
    label = tfds.features.ClassLabel(names=['cat', 'dog'])
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict({'image': image, 'label': label}),
        split_infos=infos,
        version='1.0.0',
        check_data=False,
    )
    return folder


@pytest.fixture(scope='module', params=[True, False], ids=['raw', 'jpeg'])
def prepared(request, tmp_path_factory):
    return write_set(tmp_path_factory.mktemp('sets') / 'own' / '1.0.0', request.param)


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / 'own' / '1.0.0')


def open_split(folder, split='train'):
    return sources.open_split(tfds.builder_from_directory(str(folder)), split)


def fetch(source, index):
    """Returns the bytes of an image and its label, as the loader reads them."""
    example = source.fetch(index, np.empty((SIZE, SIZE, 3), np.uint8))
    return bytes(example['image']), example['label']


def indexed(source, index):
    """Returns the bytes of an image and its label, as ArrayRecord reads them."""
    example = source[index]
    return bytes(example['image']), example['label']


@pytest.fixture
def no_records(monkeypatch):
    """Lets nothing be read by ArrayRecord."""

    def fail(path):
        raise AssertionError(path)

    monkeypatch.setattr(records, '_open_shard', fail)


@pytest.mark.parametrize('split', ['train', 'validation[3:]+train[:20]', 'train[13:15]'])
def test_the_index_finds_the_images_that_arrayrecord_reads(prepared, split):
    source = open_split(prepared, split)
    expected = [indexed(source, index) for index in range(len(source))]
    assert [fetch(source, index) for index in range(len(source))] == expected


@pytest.mark.usefixtures('no_records')
def test_an_image_is_read_by_one_call_straight_into_its_place(prepared, monkeypatch):
    calls = []
    for name in ('pread', 'preadv'):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *arguments, real=real: calls.append(1) or real(*arguments)
        )
    source = open_split(prepared)
    raw = not isinstance(source.features['image'], tfds.features.Image)
    out_HWC = np.empty((SIZE, SIZE, 3), np.uint8)
    for index in range(len(source)):
        assert (source.fetch(index, out_HWC)['image'] is out_HWC) == raw
    assert len(calls) == len(source) == 2 * EACH


def test_batches_are_the_same_without_the_index(prepared, copy):
    (copy / image_index.FILE).unlink()
    for size in (SIZE, 64):  # as it is stored, and scaled
        batches = [
            loader.training_batches(open_split(folder), loader.Reading(size), 3, 16, 0)
            for folder in (prepared, copy)
        ]
        for _ in range(3):
            with_index, without = (next(each) for each in batches)
            np.testing.assert_array_equal(with_index['image'], without['image'])
            np.testing.assert_array_equal(with_index['label'], without['label'])


def lay_out(path, contents, options='group_size:1,uncompressed'):
    """Writes records of an image with a byte before and after it; returns their index."""
    writer, index = (
        array_record_module.ArrayRecordWriter(str(path), options),
        image_index.ShardIndex(),
    )
    for image in contents:
        writer.write(b'<' + image + b'>')
        index.add(len(image) + 2, (1, len(image) + 1), 0, image)
    writer.close()
    return index.finish(path)


def test_positions_do_not_count_block_headers(tmp_path):
    """Lengths around those that end at, before, after or within the header of a block."""
    lengths = [0, 1, 65_300, *RNG.integers(0, 400, 300), *range(65_400, 65_540, 7), 500_000]
    contents = [RNG.integers(0, 256, length, np.uint8).tobytes() for length in lengths]
    entries = lay_out(tmp_path / 'shard', contents)
    assert len(entries) == len(lengths)
    with (tmp_path / 'shard').open('rb') as file:
        for image, (position, length, _, checksum) in zip(contents, entries.tolist(), strict=True):
            assert image_index.read(file.fileno(), position, length) == image
            place = bytearray(length)
            assert not length or image_index.read_into(file.fileno(), position, memoryview(place))
            assert place == image
            assert image_index.checksum(image) == checksum
        assert not image_index.read_into(file.fileno(), position, memoryview(bytearray(10**6)))


@pytest.mark.parametrize('options', ['group_size:4,uncompressed', 'group_size:1,zstd'])
def test_files_of_another_layout_have_no_index(tmp_path, options):
    assert len(lay_out(tmp_path / 'shard', [bytes([k]) * 500 for k in range(8)], options)) == 0


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 4
    file.write_bytes(data)


def test_damage_to_a_shard_is_a_bad_image(copy):
    """As without the index: the same records, with the same words."""
    source = open_split(copy)
    flip(Path(source._shards.paths[0]), 20_000)
    outcomes = []
    for read in (fetch, indexed):
        damaged = {}
        for index in range(len(source)):
            try:
                read(source, index)
            except images.BadImage as error:
                damaged[index] = str(error)
        outcomes.append(damaged)
    assert len(outcomes[0]) == 1
    assert outcomes[0] == outcomes[1]
    with pytest.raises(UserError, match=r'record \d+ of own-train.*-00000-of-00002 is damaged'):
        list(loader.evaluation_batches(source, loader.Reading(SIZE), 8))


def test_a_wrong_entry_costs_time_only_and_is_a_fault(copy, capsys):
    source = open_split(copy)
    expected = [indexed(source, index) for index in range(len(source))]
    with np.load(copy / image_index.FILE) as file:
        arrays = dict(file)
    arrays['entries']['position'][3] += 1
    arrays['entries']['label'][5] = 7
    arrays['entries']['position'][6] = 10**9
    arrays['entries']['checksum'][8] ^= 1
    np.savez(copy / image_index.FILE, **arrays)
    source = open_split(copy)
    assert [fetch(source, index) for index in range(len(source))] == expected
    dataset_check.examine(copy.parents[1], 'own', 0)
    output = capsys.readouterr().out
    for record in (3, 5, 6, 8):
        assert f'record {record} of own-train.array_record-00000-of-00002 differs from' in output


@pytest.mark.parametrize('damage', ['flipped', 'empty', 'of another shard'])
def test_a_damaged_index_is_not_used_and_is_a_fault(copy, damage, capsys):
    expected = [indexed(open_split(copy), index) for index in range(2 * EACH)]
    if damage == 'flipped':
        flip(copy / image_index.FILE, 900)
    elif damage == 'empty':
        (copy / image_index.FILE).write_bytes(b'')
    else:
        shard = sorted(copy.glob('own-train*'))[1]
        writer = shards.RecordWriter(shard)
        for image, label in [*expected[EACH:]] * 2:
            writer.write(image, label, '')
        writer.close()
    source = open_split(copy)
    assert source.index_fault
    assert [fetch(source, index) for index in range(len(source))] == expected
    assert dataset_check.examine(copy.parents[1], 'own', 0) == 1
    assert f'FAULT: {image_index.FILE} is' in capsys.readouterr().out


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='counts open files in /proc')
@pytest.mark.usefixtures('no_records')
def test_only_some_files_are_open_at_once(prepared, monkeypatch):
    monkeypatch.setattr(system_errors, 'allow_open_files', lambda _: 4)
    source = open_split(prepared)
    for index in RNG.integers(0, len(source), 40):
        fetch(source, int(index))
        links = (Path(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd'))
        targets = [os.readlink(link) for link in links if link.is_symlink()]
        assert sum(target.startswith(str(prepared)) for target in targets) == 1
