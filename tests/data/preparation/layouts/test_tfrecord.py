"""A data set in TFRecord is converted record by record, and damage is named."""

import json
import shutil
import struct

import google_crc32c
import pytest

import nets
from alexnet_jax.data import dataset_check, sources
from alexnet_jax.data.preparation import prepared_sets, tfds_sets
from alexnet_jax.data.preparation.layouts import tfrecord
from alexnet_jax.runtime import signals
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError

TRAIN, TEST = (f'digits-{split}.tfrecord-00000-of-00001' for split in ('train', 'test'))


def checksum(data):
    """CRC-32C, rotated to the right by 15 bits, plus a number, as the documentation says."""
    value = google_crc32c.value(data)
    return struct.pack('<I', ((value >> 15) + (value << 17) % 2**32 + 0xA282EAD8) % 2**32)


def frame(record):
    length = struct.pack('<Q', len(record))
    return length + checksum(length) + record + checksum(record)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """The digits as TensorFlow writes them, with their prepared records by split."""
    prepared = sources.open_splits(nets.small().dataset)
    folder = tmp_path_factory.mktemp('tensorflow') / 'digits' / '1.0.0'
    folder.mkdir(parents=True)
    records = {}
    for split, name, source in (('train', TRAIN, prepared.train), ('test', TEST, prepared.eval)):
        shard = source._shards
        records[split] = [shard.read(0, index) for index in range(len(source))]
        (folder / name).write_bytes(b''.join(frame(record) for record in records[split]))
    original = tfds_sets.data_dir('') / 'digits' / '1.0.0'
    info = json.loads((original / 'dataset_info.json').read_text())
    (folder / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': 'tfrecord'}))
    shutil.copy(original / 'features.json', folder)
    return folder, records


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the data set in TFRecord, which a test may damage."""
    return shutil.copytree(written[0], tmp_path / 'from/digits/1.0.0')


def convert(folder, tmp_path, **options):
    with ProgressBars() as bars:
        return tfrecord.convert(folder, tmp_path / 'to', bars, **options)


def open_converted(tmp_path):
    return sources.open_splits(nets.small(dataset__data_dir=str(tmp_path / 'to')).dataset)


def refusal(folder, tmp_path, **options):
    with pytest.raises(UserError) as error:
        convert(folder, tmp_path, **options)
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'to/digits/1.0.0').exists()
    return str(error.value)


@pytest.mark.parametrize('start', ['from', 'from/digits', 'from/digits/1.0.0'])
def test_the_records_are_the_same_bytes_in_the_same_order(written, folder, tmp_path, start):
    final = convert(tmp_path / start, tmp_path)
    assert final == tmp_path / 'to/digits/1.0.0'
    converted = open_converted(tmp_path)
    for split, source in (('train', converted.train), ('test', converted.eval)):
        shard = source._shards
        assert [shard.read(0, index) for index in range(len(source))] == written[1][split]
    assert dataset_check.examine(tmp_path / 'to', 'digits', 10) == 0


def test_the_message_about_tfrecord_names_the_command_that_converts(folder, tmp_path):
    dataset = nets.small(dataset__data_dir=str(tmp_path / 'from')).dataset
    command = f'--tfrecord={folder} --data_dir=DIR'
    with pytest.raises(UserError, match=f'python -m alexnet_jax.prepare {command}'):
        sources.open_splits(dataset)


def _truncate(data):
    return data[:-10]


def _cut_header(data):
    return data + b'\0' * 5


def _change_record(data):
    return data[:100] + bytes([data[100] ^ 4]) + data[101:]


def _change_length(data):
    return bytes([data[0] ^ 1]) + data[1:]


def _repeat_first(data):
    end = 16 + struct.unpack('<Q', data[:8])[0]
    return data + data[:end]


def _other_data(data):
    record = b'not an Example'
    return frame(record) + data


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (_truncate, 'ends within record 354'),
        (_cut_header, 'ends within record 355'),
        (_change_record, 'has a wrong checksum of record 0'),
        (_change_length, 'has a wrong checksum of the length of record 0'),
        (_repeat_first, 'has 356 records, and dataset_info.json says 355'),
        (_other_data, 'is not an Example with an image and a label'),
        (lambda data: b'', 'has 0 records, and dataset_info.json says 355'),
    ],
)
def test_a_damaged_file_is_named(folder, tmp_path, damage, message):
    file = folder / TEST
    file.write_bytes(damage(file.read_bytes()))
    text = refusal(folder, tmp_path)
    assert message in text
    assert str(file) in text


def test_a_missing_file_is_named_before_anything_is_written(folder, tmp_path):
    (folder / TRAIN).unlink()
    assert f'{TRAIN} is missing in {folder}' in refusal(folder, tmp_path)
    (folder / TEST).unlink()
    assert f'{TRAIN} and 1 more files are missing' in refusal(folder, tmp_path)
    assert not (tmp_path / 'to').exists()


def test_what_cannot_be_converted_is_refused(folder, tmp_path):
    assert 'has no data set of TFDS' in refusal(tmp_path / 'nothing', tmp_path)
    with pytest.raises(UserError, match='choose another --data_dir for the converted ones'):
        tfrecord.convert(folder, tmp_path / 'from', ProgressBars())
    shutil.copytree(folder, tmp_path / 'from/digits/1.1.0')
    text = refusal(tmp_path / 'from', tmp_path)
    assert 'has 2 data sets (digits/1.0.0, digits/1.1.0)' in text
    info = json.loads((folder / 'dataset_info.json').read_text())
    (folder / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': 'array_record'}))
    assert 'is in the format array_record, not tfrecord' in refusal(folder, tmp_path)


def test_without_the_package_of_checksums_the_message_names_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'google_crc32c', None)
    assert 'pip install google-crc32c' in refusal(folder, tmp_path)


def test_a_stopped_conversion_resumes_and_equals_an_undisturbed_one(
    written, folder, tmp_path, monkeypatch, capsys
):
    """Of the two shards, one is complete when the other one is found to be damaged."""
    intact = (folder / TEST).read_bytes()
    times = (folder / TEST).stat()
    (folder / TEST).write_bytes(_change_record(intact))
    tfrecord.os.utime(folder / TEST, ns=(times.st_atime_ns, times.st_mtime_ns))
    refusal(folder, tmp_path)
    unfinished = tmp_path / 'to/digits/.1.0.0.incomplete'
    complete = [file.name for file in unfinished.glob('digits-*')]
    (folder / TEST).write_bytes(intact)
    tfrecord.os.utime(folder / TEST, ns=(times.st_atime_ns, times.st_mtime_ns))
    convert(folder, tmp_path)
    assert ('resuming after 1,442 of 1,797' in capsys.readouterr().out) == bool(complete)
    assert not unfinished.exists()
    assert open_converted(tmp_path).train._shards.read(0, 7) == written[1]['train'][7]


def test_a_signal_stops_the_conversion(folder, tmp_path, monkeypatch):
    def stop():
        raise signals.Stopped('SIGTERM')

    monkeypatch.setattr(tfrecord, 'raise_if_stopped', stop)
    with pytest.raises(signals.Stopped):
        convert(folder, tmp_path)
    assert not (tmp_path / 'to/digits/1.0.0').exists()


def test_a_converted_data_set_is_used_again_or_replaced(folder, tmp_path, capsys):
    final = convert(folder, tmp_path)
    convert(folder, tmp_path)
    assert f'already prepared in {final}' in capsys.readouterr().out
    assert '--again --name=digits' in prepared_sets.command_again(final)
    with (folder / TEST).open('ab') as file:  # another file of that name
        file.write(b'\0')
    with pytest.raises(UserError, match='was prepared from something else'):
        convert(folder, tmp_path)
    assert final.exists()


def test_a_data_set_without_labels_is_refused(folder, tmp_path):
    features = json.loads((folder / 'features.json').read_text())
    del features['featuresDict']['features']['label']
    (folder / 'features.json').write_text(json.dumps(features))
    assert 'is not a data set of images with a label' in refusal(folder, tmp_path)
