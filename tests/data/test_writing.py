import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import namedtuple

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source

import runs
import tars
from alexnet_jax.data import catalogue, images, pixel_statistics, writing
from alexnet_jax.runtime import locks
from alexnet_jax.runtime.user_errors import UserError

SMALL = writing.Storage(size=32)


def silent(*_):
    """Tells nobody."""


def write(found, storage, data_dir, workers=1, skip_bad=0):
    return writing.write(found, storage, data_dir, workers, skip_bad, silent, silent)


def records(folder):
    """All records of a data set as bytes, by file."""
    return {
        file.name: list(array_record_data_source.ArrayRecordDataSource(str(file)))
        for file in sorted(folder.glob('*.array_record*'))
        if file.name[-1].isdigit() and file.name[0] != '.'
    }


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Tars of 1,000 synsets with two images each, and odd ones."""
    return tars.ilsvrc2012(tmp_path_factory.mktemp('tars'), images=2)


@pytest.fixture(scope='module')
def found(made):
    return catalogue.find(made, silent)


@pytest.fixture(scope='module')
def written(found, tmp_path_factory):
    return write(found, SMALL, tmp_path_factory.mktemp('written')).folder


def test_records_are_the_images(written, found):
    """Every image once, with its label and name; the odd ones too, in three colours."""
    builder = tfds.builder_from_directory(str(written))
    source = builder.as_data_source('train')
    by_name = {example['file_name'].decode(): example for example in source}
    train = found.splits['train']
    assert sorted(by_name) == sorted(train.names)
    for name, label in zip(train.names, train.labels, strict=True):
        assert by_name[name]['label'] == label
    for name, data in tars.odd().items():
        stored = images.encode(images.square(data, 32, 'bicubic'), 90)
        np.testing.assert_array_equal(by_name[name]['image'], images.decode(stored))
    assert builder.info.splits['train'].num_examples == 2006
    assert builder.info.features['label'].names == found.classes
    assert len(builder.as_data_source('validation')) == 20


def test_any_number_of_workers_writes_the_same(written, found, tmp_path):
    other = write(found, SMALL, tmp_path, workers=3).folder
    assert records(other) == records(written)
    for name in ('statistics_train_32.npz', 'dataset_info.json', 'features.json'):
        assert (other / name).read_bytes() == (written / name).read_bytes()


def test_storage_is_raw_pixels_or_jpeg(written, found, tmp_path):
    raw = write(found, dataclasses.replace(SMALL, raw=True), tmp_path).folder
    assert raw.parent.name == 'imagenet2012_32_raw'
    ours = tfds.builder_from_directory(str(raw)).as_data_source('train')
    theirs = tfds.builder_from_directory(str(written)).as_data_source('train')
    assert [e['file_name'] for e in ours] == [e['file_name'] for e in theirs]
    for pixels, jpeg in itertools.islice(zip(ours, theirs, strict=True), 50):
        assert pixels['image'].shape == (32, 32, 3)
        assert np.abs(pixels['image'].astype(int) - jpeg['image']).mean() < 6
    sums = pixel_statistics.Sums.load(raw / 'statistics_train_32.npz')
    pixels = np.stack([e['image'] for e in ours])
    assert sums.images == 2006
    np.testing.assert_array_equal(sums.pixels_HWC, pixels.sum(0, dtype=np.int64))


@pytest.mark.parametrize(
    ('storage', 'name'),
    [
        (writing.Storage(), 'imagenet2012_256'),
        (writing.Storage(size=0), 'imagenet2012'),
        (writing.Storage(raw=True, quality=50), 'imagenet2012_256_raw'),
        (writing.Storage(size=128, quality=95), 'imagenet2012_128_q95'),
        (writing.Storage(filter='nearest'), 'imagenet2012_256_nearest'),
    ],
)
def test_what_is_not_usual_is_in_the_name(storage, name):
    assert storage.name('imagenet2012') == name


def test_original_files_are_kept_to_the_byte(found, tmp_path):
    """But for four colours and the PNG, which become JPEGs as in TFDS's own."""
    folder = write(found, writing.Storage(size=0), tmp_path).folder
    assert folder == tmp_path / 'imagenet2012' / '5.1.0'
    encoded = {'image': tfds.decode.SkipDecoding()}
    source = tfds.data_source('imagenet2012', data_dir=tmp_path, split='train', decoders=encoded)
    odd = tars.odd()
    seen = 0
    for example in source:
        name = example['file_name'].decode()
        if name in odd:
            seen += 1
            same = example['image'] == odd[name]
            assert same == (name not in (tars.CMYK, tars.PNG))
            difference = images.decode(example['image']).astype(int) - images.decode(odd[name])
            assert np.abs(difference).mean() < 2
    assert seen == len(odd)


def start(made, data_dir):
    return runs.start(
        [
            *(sys.executable, '-m', 'alexnet_jax.prepare', f'--tars={made}', '--partial'),
            *(f'--data_dir={data_dir}', '--size=32', '--workers=2'),
        ]
    )


@pytest.mark.slow
def test_killed_at_ten_moments_the_records_are_the_same(made, written, tmp_path):
    rng = np.random.default_rng(0)
    for seconds in rng.uniform(0.3, 3.2, 10):
        process = start(made, tmp_path)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        final = tmp_path / 'imagenet2012_32' / '5.1.0'
        unfinished = final.with_name('.5.1.0.incomplete')
        if not final.exists() and unfinished.exists():
            with pytest.raises(tfds.core.DatasetNotFoundError):
                tfds.builder('imagenet2012_32', data_dir=tmp_path)
            # What has its final name is whole, whenever the kill came.
            for done in unfinished.glob('.records/imagenet*.npz'):
                name = done.name.removesuffix('.npz')
                assert records(unfinished)[name] == records(written)[name]
    process = start(made, tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert '2,006 train, 20 validation' in out or 'prepared already' in out
    assert records(tmp_path / 'imagenet2012_32' / '5.1.0') == records(written)
    for name in ('statistics_train_32.npz', 'dataset_info.json'):
        ours = tmp_path / 'imagenet2012_32' / '5.1.0' / name
        assert ours.read_bytes() == (written / name).read_bytes()


def test_it_goes_on_after_the_shards_that_are_whole(found, written, tmp_path, monkeypatch):
    """The first attempt fails in the third shard; the second writes that one and the rest."""
    whole, count = writing._Writer.write, itertools.count()

    def full_disk(self, *arguments):
        if next(count) == 1200:
            raise UserError('No space left on device')
        whole(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writing._Writer, 'write', full_disk)
        with pytest.raises(UserError, match='No space left'):
            write(found, SMALL, tmp_path)
    unfinished = tmp_path / 'imagenet2012_32' / '.5.1.0.incomplete'
    assert len(list(unfinished.glob('.records/*.npz'))) == 2
    assert {f.name for f in unfinished.glob('.*')} == {'.records'}  # nothing half-written
    said = []
    writing.write(found, SMALL, tmp_path, 1, 0, said.append, silent)
    assert said[0] == 'going on after 1,004 of 2,026 images'
    assert records(tmp_path / 'imagenet2012_32' / '5.1.0') == records(written)
    assert not unfinished.exists()


def test_a_kill_while_metadata_are_written_loses_nothing(found, written, tmp_path, monkeypatch):
    whole = tfds.folder_dataset.write_metadata

    def killed(**arguments):
        whole(**arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tfds.folder_dataset, 'write_metadata', killed)
        with pytest.raises(KeyboardInterrupt):
            write(found, SMALL, tmp_path)
    assert not (tmp_path / 'imagenet2012_32' / '5.1.0').exists()
    folder = write(found, SMALL, tmp_path).folder
    assert records(folder) == records(written)
    for file in written.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_what_differs_is_written_again_and_nothing_else(spoilt, tmp_path):
    """A bad image is replaced in its tar: the shards without it are kept."""
    with pytest.raises(UserError, match='cannot be decoded'):
        write(spoilt, SMALL, tmp_path, skip_bad=1)
    unfinished = tmp_path / 'imagenet2012_32' / '.5.1.0.incomplete'
    before = {f.name: f.stat().st_mtime_ns for f in unfinished.glob('*.array_record*')}
    mended = catalogue.find(tars.ilsvrc2012(tmp_path / 'tars', extra=MENDED), silent)
    folder = write(mended, SMALL, tmp_path).folder
    same = [name for name, time in before.items() if (folder / name).stat().st_mtime_ns == time]
    assert 1 <= len(same) < len(before)
    fresh = write(mended, SMALL, tmp_path / 'fresh').folder
    assert records(folder) == records(fresh)


def test_other_settings_begin_again(found, tmp_path):
    """What is no part of the name, such as turning upright: no shard of the old is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, '_finish', lambda *_: None)
        write(found, SMALL, tmp_path)
    said = []
    other = dataclasses.replace(found, upright=True)
    writing.write(other, SMALL, tmp_path, 1, 0, said.append, silent)
    assert not any('going on' in line for line in said)


def test_a_record_that_is_not_whole_does_not_count(found, written, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, '_finish', lambda *_: None)
        write(found, SMALL, tmp_path)
    unfinished = tmp_path / 'imagenet2012_32' / '.5.1.0.incomplete'
    done = sorted((unfinished / '.records').iterdir())
    done[0].write_bytes(b'')
    done[1].write_bytes(done[1].read_bytes()[:100])
    said = []
    folder = writing.write(found, SMALL, tmp_path, 1, 0, said.append, silent).folder
    assert 'going on after' in said[0]
    assert records(folder) == records(written)


def test_two_at_a_time_are_refused(found, tmp_path):
    with (
        locks.acquire(tmp_path / 'imagenet2012_32' / '.lock', ''),
        pytest.raises(UserError, match=f'process {os.getpid()} on .* is using'),
    ):
        write(found, SMALL, tmp_path)


def test_a_disk_that_is_too_small_is_refused_before(found, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(1, 1, 1 << 30))
    with pytest.raises(UserError, match=r'has 1\.1 GB free and about 1\.1 GB are needed'):
        write(found, SMALL, tmp_path)
    assert not list(tmp_path.glob('**/*.array_record*'))


def test_a_disk_that_gets_full_is_one_line_and_nothing_is_lost(found, written, tmp_path):
    """The system refuses to write on, in the middle of a shard."""
    first = next(written.glob('*-train.array_record-00000-*')).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first - 100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r'cannot write .*array_record-00000-of-00004'):
            write(found, SMALL, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob('imagenet2012_32/5.1.0'))
    left = {f.name for f in tmp_path.glob('imagenet2012_32/.5*/.*')}
    assert left == {'.records'}  # nothing half-written
    assert records(write(found, SMALL, tmp_path).folder) == records(written)


BAD = {
    'n01440764_7.JPEG': b'no image',
    'n01443537_8.JPEG': tars.encoded(tars.picture(np.random.default_rng(0), 90, 90))[:-500],
}


MENDED = {name: tars.encoded(tars.picture(np.random.default_rng(0), 70, 70)) for name in BAD}


@pytest.fixture(scope='module')
def spoilt(tmp_path_factory):
    """Two training images are bad."""
    folder = tmp_path_factory.mktemp('spoilt')
    return catalogue.find(tars.ilsvrc2012(folder, extra=BAD), silent)


@pytest.mark.parametrize('workers', [1, 2])
def test_a_bad_image_is_named_with_its_tar(spoilt, tmp_path, workers):
    with pytest.raises(UserError) as error:
        write(spoilt, SMALL, tmp_path, workers)
    assert any(name in str(error.value) for name in BAD)
    assert 'ILSVRC2012_img_train.tar: ' in str(error.value)
    assert '--skip_bad=N' in str(error.value)


def test_bad_images_are_left_out_where_allowed(spoilt, tmp_path):
    with pytest.raises(UserError, match='2 training images cannot be decoded'):
        write(spoilt, SMALL, tmp_path, skip_bad=1)
    result = write(spoilt, SMALL, tmp_path, skip_bad=2)
    assert sorted(result.skipped) == sorted(BAD)
    assert result.images == {'train': 1000, 'validation': 20}
    builder = tfds.builder_from_directory(str(result.folder))
    assert len(builder.as_data_source('train')) == 1000
    assert pixel_statistics.Sums.load(result.folder / 'statistics_train_32.npz').images == 1000


def test_a_tar_that_shrinks_is_named(tmp_path):
    folder = tars.ilsvrc2012(tmp_path / 'tars', extra={})
    found = catalogue.find(folder, silent)
    with open(folder / 'ILSVRC2012_img_train.tar', 'r+b') as file:
        file.truncate(100_000)
    with pytest.raises(UserError, match='has become shorter while it was read'):
        write(found, SMALL, tmp_path)


def test_a_change_of_the_source_is_told(tmp_path):
    folder = tars.class_folders(tmp_path / 'pets')
    final = write(catalogue.class_folders(folder), SMALL, tmp_path).folder
    assert write(catalogue.class_folders(folder), SMALL, tmp_path).folder == final
    (folder / 'cat' / '0.jpg').unlink()
    with pytest.raises(UserError, match=r'prepared from other images \(40 then, 39 now\)'):
        write(catalogue.class_folders(folder), SMALL, tmp_path)
    (final / writing.SOURCE).unlink()
    with pytest.raises(UserError, match=r'was not written by alexnet_jax\.prepare'):
        write(catalogue.class_folders(folder), SMALL, tmp_path)


def test_ones_own_images_are_turned_upright(tmp_path):
    folder = tars.class_folders(tmp_path / 'pets')
    turned = tars.Image.Exif()
    turned[0x0112] = 6
    half = np.zeros((40, 40, 3), np.uint8)
    half[:20] = 250
    (folder / 'cat' / 'turned.jpg').write_bytes(tars.encoded(half, exif=turned.tobytes()))
    final = write(catalogue.class_folders(folder), SMALL, tmp_path).folder
    builder = tfds.builder_from_directory(str(final))
    found = {
        e['file_name']: e['image']
        for s in ('train', 'validation')
        for e in builder.as_data_source(s)
    }
    image = found[b'cat/turned.jpg']
    assert image[:, 20:].mean() > 230
    assert image[:, :12].mean() < 20


def test_the_record_of_what_it_was_made_from(written):
    known = json.loads((written / writing.SOURCE).read_text())
    assert known['images'] == {'train': 2006, 'validation': 20}
    assert known['storage']['filter'] == 'bicubic'
    assert not list(written.glob('.*'))
    assert len(list(written.iterdir())) == 4 + 1 + 5
