import concurrent.futures
import contextlib
import os
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import images, records, system_errors
from alexnet_jax.data.loading import loader, unreadable_images
from alexnet_jax.runtime.user_errors import UserError

NAMES = (b'image', b'label', b'file_name')


def example(**features):
    """Serializes an example with the library."""
    message = tf_example_pb2.Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString()


@pytest.mark.parametrize('size', [0, 1, 100, 127, 128, 20_000, 3_000_000])
def test_features_are_located_where_the_library_wrote_them(size):
    image = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    record = example(
        image=[image, b'another'],
        more=[0.5, 2.5],
        label=[300, 7],
        file_name=[b'n01440764_1.JPEG'],
        other=[b'image'],
    )
    locations = records.locate_features(record, NAMES)
    assert record[slice(*locations[b'image'])] == image
    assert record[slice(*locations[b'file_name'])] == b'n01440764_1.JPEG'
    assert records._varint(record, locations[b'label'][0])[0] == 300
    assert locations.keys() == set(NAMES)


def test_missing_features_are_not_located():
    assert records.locate_features(example(other=[1]), NAMES) == {}
    assert records.locate_features(b'', NAMES) == {}


def test_truncated_bytes_are_never_taken_for_a_complete_image():
    """Truncation is an error, or the image is not located; a part of it never is."""
    record = example(image=[b'x' * 500], label=[3])
    for end in range(len(record)):
        try:
            locations = records.locate_features(record[:end], NAMES)
        except (IndexError, ValueError):
            continue
        assert b'image' not in locations or locations[b'image'][1] <= end


SHARDS, EACH = 6, 20  # more than 64 KB each, so that ArrayRecord has something to damage


def write_set(folder, features, image, label=1, shards=SHARDS, each=EACH, lengths=None):
    """Writes a data set by hand; every record has this image and label."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        path = folder / f'own-train.array_record-{shard:05d}-of-{shards:05d}'
        writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1,uncompressed')
        for number in range(each):
            name = f'{shard}_{number}'.encode()
            writer.write(example(image=[image], label=[label], file_name=[name]))
        writer.close()
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(
            {'image': features, 'label': tfds.features.ClassLabel(names=['cat', 'dog'])}
        ),
        split_infos=[tfds.core.SplitInfo('train', lengths or [each] * shards, 1)],
        version='1.0.0',
        check_data=False,
    )
    return tfds.builder_from_directory(str(folder))


RAW = tfds.features.Tensor(shape=(40, 40, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
    """A data set of 120 images in 6 shards."""
    return write_set(tmp_path_factory.mktemp('own') / '1.0.0', RAW, PIXELS.tobytes())


def open_shards(folder):
    """Returns how many shards of a folder this process has open."""
    number = 0
    for name in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):  # another thread has closed it
            number += os.readlink(f'/proc/self/fd/{name}').startswith(str(folder))
    return number


def names_in_order(source, indices):
    return [source[index]['name'] for index in indices]


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='counts open files in /proc')
@pytest.mark.parametrize('threads', [1, 3])
def test_only_some_shards_are_open_at_once(builder, monkeypatch, threads):
    """A quarter of the limit, and one more for each thread that is reading."""
    monkeypatch.setattr(system_errors, 'allow_open_files', lambda _: 8)
    source = records.Records(builder, 'train')
    order = np.random.default_rng(0).integers(0, SHARDS * EACH, (threads, 300)).tolist()
    most = 0

    def read(indices):
        nonlocal most
        for index in indices:
            assert source[index]['name'] == f'{index // EACH}_{index % EACH}'
            most = max(most, open_shards(builder.data_dir))

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, order))
    assert 2 <= most <= 2 + 2 * threads
    assert open_shards(builder.data_dir) == 2


def test_a_copy_for_another_process_reads_the_same(builder):
    source = records.Records(builder, 'train')
    expected = names_in_order(source, range(0, 120, 7))
    assert names_in_order(pickle.loads(pickle.dumps(source)), range(0, 120, 7)) == expected


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='counts open files in /proc')
def test_shards_are_closed_when_the_process_has_too_many_files(builder):
    """The limit is that of the system, and other files of the process take all but three."""
    source = records.Records(builder, 'train')
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = []
    highest = max(int(name) for name in os.listdir('/proc/self/fd'))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                others.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(3):
            os.close(others.pop())
        assert len(set(names_in_order(source, range(0, 120, 5)))) == 24
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in others:
            os.close(descriptor)


def test_a_shard_is_read_again_after_the_disk_works_again(builder, monkeypatch):
    source = records.Records(builder, 'train')

    class Failing:
        def read(self, _):
            raise TROUBLE['Input/output error']

    with monkeypatch.context() as patch:
        patch.setattr(records, '_open_shard', lambda _: Failing())
        with pytest.raises(UserError, match='the data may be intact'):
            source[7]
    assert source[7]['name'] == '0_7'


TROUBLE = {
    'Too many open files': RuntimeError('open() failed: Too many open files; opening /x'),
    'Input/output error': RuntimeError('pread() failed: Input/output error; at byte 0'),
    'Stale file handle': RuntimeError('pread() failed: Stale file handle; at byte 0'),
    'Cannot allocate memory': MemoryError(),
    'No such file or directory': RuntimeError('open() failed: No such file or directory; opening'),
}


@pytest.mark.parametrize('reason', TROUBLE)
def test_trouble_of_the_system_is_no_bad_image(builder, monkeypatch, reason):
    """No image is replaced for it, however many may be."""

    def fail(_):
        raise TROUBLE[reason]

    monkeypatch.setattr(records, '_open_shard', fail)
    source = records.Records(builder, 'train')
    with pytest.raises(UserError, match=f'cannot read .*own-train.* \\({reason}\\): '):
        source[7]
    unreadable = unreadable_images.UnreadableImages(source, 100)
    batches = loader.training_batches(source, loader.Reading(40), 0, 8, 0, unreadable=unreadable)
    with pytest.raises(UserError, match=reason):
        next(batches)
    assert unreadable.names == []


def test_damage_is_a_bad_image(builder, tmp_path):
    copy = shutil.copytree(builder.data_dir, tmp_path / '1.0.0')
    shards = sorted(copy.glob('*array_record*'))
    flipped = bytearray(shards[1].read_bytes())
    flipped[20_000] ^= 4
    shards[1].write_bytes(flipped)
    shards[2].write_bytes(shards[2].read_bytes()[:70_000])
    source = records.Records(tfds.builder_from_directory(str(copy)), 'train')
    damaged = []
    for index in range(len(source)):
        try:
            source[index]
        except images.BadImage as error:
            damaged.append((index // EACH, str(error)[:10]))
    assert damaged == [(1, 'is damaged'), *[(2, 'is damaged')] * EACH]


def test_more_records_announced_than_there_are_is_damage(tmp_path):
    lengths = [EACH, EACH + 1]
    builder = write_set(tmp_path / '1.0.0', RAW, PIXELS.tobytes(), shards=2, lengths=lengths)
    source = records.Records(builder, 'train')
    assert len(source) == 2 * EACH + 1
    with pytest.raises(images.BadImage, match='is damaged'):
        source[2 * EACH]
    assert source.where(2 * EACH) == f'record {EACH} of own-train.array_record-00001-of-00002'


def test_any_damaged_record_is_a_bad_image(builder, monkeypatch):
    """Whatever its bytes, a record is read or is a BadImage; no other error escapes."""
    source = records.Records(builder, 'train')
    whole, rng = source._shards.read(0, 0), np.random.default_rng(0)
    outcomes = set()
    for _ in range(3000):
        record = bytearray(whole)
        # The image is most of a record; what is before and after it matters here.
        at = int(rng.integers(-60, 60))
        record[at] = int(rng.integers(256))
        if rng.random() < 0.2:
            del record[int(rng.integers(len(record))) :]
        monkeypatch.setattr(source._shards, 'read', lambda *_, record=record: bytes(record))
        try:
            outcomes.add(type(source[0]))
        except images.BadImage as error:
            outcomes.add(type(error))
    assert outcomes == {dict, images.BadImage}


def test_a_label_out_of_range_is_named(tmp_path):
    source = records.Records(write_set(tmp_path / '1.0.0', RAW, PIXELS.tobytes(), label=2), 'train')
    with pytest.raises(images.BadImage, match='has label 2; there are 2 classes'):
        source[0]
    with pytest.raises(UserError, match=r'record \d+ of own-train.* has label 2'):
        next(loader.training_batches(source, loader.Reading(40), 0, 8, 0))


@pytest.mark.parametrize(
    ('features', 'message'),
    [
        (tfds.features.Image(shape=(40, 40, 1), dtype=np.float32), 'pixels of type float32'),
        (
            tfds.features.Tensor(
                shape=(40, 40, 3), dtype=np.uint8, encoding=tfds.features.Encoding.ZLIB
            ),
            "stored with the encoding 'zlib'",
        ),
    ],
)
def test_pixels_that_would_be_misread_are_refused(tmp_path, features, message):
    builder = write_set(tmp_path / '1.0.0', features, b'', shards=1)
    with pytest.raises(UserError, match=message):
        records.Records(builder, 'train')
