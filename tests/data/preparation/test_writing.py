import concurrent.futures
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
from alexnet_jax.data import images, pixel_statistics
from alexnet_jax.data.preparation import prepared_sets, shards, writing
from alexnet_jax.data.preparation.layouts import imagenet_tars
from alexnet_jax.data.preparation.own_images import class_folders
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.runtime import locks, signals
from alexnet_jax.runtime.user_errors import UserError

SMALL = Storage(size=32)


def ignore(*_):
    """Ignores messages and progress."""


def write(catalogue, storage, data_dir, workers=1, skip_bad=0):
    return writing.write(catalogue, storage, data_dir, workers, skip_bad, ignore, ignore)


def records(folder):
    """Returns the records of a data set as bytes, by file."""
    return {
        file.name: list(array_record_data_source.ArrayRecordDataSource(str(file)))
        for file in sorted(folder.glob('*.array_record*'))
        if file.name[-1].isdigit() and file.name[0] != '.'
    }


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """Tars of 1,000 synsets with two images each, and unusual ones."""
    return tars.ilsvrc2012(tmp_path_factory.mktemp('tars'), images=2)


@pytest.fixture(scope='module')
def catalogue(official):
    return imagenet_tars.list_images(official, ignore)


@pytest.fixture(scope='module')
def reference(catalogue, tmp_path_factory):
    """A data set that was prepared without interruption."""
    return write(catalogue, SMALL, tmp_path_factory.mktemp('reference')).folder


def test_records_are_the_images(reference, catalogue):
    """Every image is there once, with its label and name; unusual ones too, in RGB."""
    builder = tfds.builder_from_directory(str(reference))
    source = builder.as_data_source('train')
    by_name = {example['file_name'].decode(): example for example in source}
    train = catalogue.splits['train']
    assert sorted(by_name) == sorted(train.names)
    for name, label in zip(train.names, train.labels, strict=True):
        assert by_name[name]['label'] == label
    for name, data in tars.unusual().items():
        stored = images.encode(images.square(data, 32, 'bicubic'), 90)
        np.testing.assert_array_equal(by_name[name]['image'], images.decode(stored))
    assert builder.info.splits['train'].num_examples == 2006
    assert builder.info.features['label'].names == catalogue.classes
    assert len(builder.as_data_source('validation')) == 20


def test_any_number_of_workers_writes_the_same(reference, catalogue, tmp_path):
    other = write(catalogue, SMALL, tmp_path, workers=3).folder
    assert records(other) == records(reference)
    for name in ('statistics_train_32.npz', 'index.npz', 'dataset_info.json', 'features.json'):
        assert (other / name).read_bytes() == (reference / name).read_bytes()


def test_storage_is_raw_pixels_or_jpeg(reference, catalogue, tmp_path):
    raw = write(catalogue, dataclasses.replace(SMALL, raw=True), tmp_path).folder
    assert raw.parent.name == 'imagenet2012_32_raw'
    ours = tfds.builder_from_directory(str(raw)).as_data_source('train')
    theirs = tfds.builder_from_directory(str(reference)).as_data_source('train')
    assert [e['file_name'] for e in ours] == [e['file_name'] for e in theirs]
    for pixels, jpeg in itertools.islice(zip(ours, theirs, strict=True), 50):
        assert pixels['image'].shape == (32, 32, 3)
        assert np.abs(pixels['image'].astype(int) - jpeg['image']).mean() < 6
    sums = pixel_statistics.Sums.load(raw / 'statistics_train_32.npz')
    pixels = np.stack([e['image'] for e in ours])
    assert sums.images == 2006
    np.testing.assert_array_equal(sums.pixels_HWC, pixels.sum(0, dtype=np.int64))


def test_original_files_are_kept_to_the_byte(tmp_path):
    """CMYK images and the PNG are exceptions: they become JPEGs, as in TFDS's own data set."""
    tars.ilsvrc2012(tmp_path / 'tars', images=0, validation=1)  # the unusual ones alone
    catalogue = imagenet_tars.list_images(tmp_path / 'tars', ignore)
    folder = write(catalogue, Storage(size=0), tmp_path).folder
    assert folder == tmp_path / 'imagenet2012' / '5.1.0'
    encoded = {'image': tfds.decode.SkipDecoding()}
    source = tfds.data_source('imagenet2012', data_dir=tmp_path, split='train', decoders=encoded)
    unusual = tars.unusual()
    checked = 0
    for example in source:
        name = example['file_name'].decode()
        if name in unusual:
            checked += 1
            same = example['image'] == unusual[name]
            assert same == (name not in (tars.CMYK, tars.PNG))
            difference = images.decode(example['image']).astype(int) - images.decode(unusual[name])
            assert np.abs(difference).mean() < 2
    assert checked == len(unusual)


def start(folder_of_tars, data_dir):
    return runs.start(
        [
            *(sys.executable, '-m', 'alexnet_jax.prepare', f'--tars={folder_of_tars}'),
            *(f'--data_dir={data_dir}', '--partial', '--size=32', '--workers=2'),
        ]
    )


def wait_for_files(folder, pattern, number, process):
    """Waits until so many files match, or the process has ended."""
    while process.poll() is None and len(list(folder.glob(pattern))) < number:
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_any_stage_the_records_are_the_same(official, reference, tmp_path):
    final = tmp_path / 'imagenet2012_32' / '5.1.0'
    unfinished = final.with_name('.5.1.0.incomplete')
    stages = [
        ('.lock', 1),  # before anything is written
        (f'{unfinished.name}/.*array_record*', 1),  # within the first shards
        (f'{unfinished.name}/.records/imagenet*.npz', 2),  # between shards
        (f'{unfinished.name}/.records/imagenet*.npz', 5),  # after the last shard
    ]
    for pattern, number in stages:
        process = start(official, tmp_path)
        wait_for_files(final.parent, pattern, number, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if not final.exists() and unfinished.exists():
            with pytest.raises(tfds.core.DatasetNotFoundError):
                tfds.builder('imagenet2012_32', data_dir=tmp_path)
            # A shard that has its final name is complete, whenever the process was killed.
            for file in unfinished.glob('.records/imagenet*.npz'):
                name = file.name.removesuffix('.npz')
                assert records(unfinished)[name] == records(reference)[name]
    process = start(official, tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert '2,006 train, 20 validation' in out or 'already prepared' in out
    assert records(final) == records(reference)
    for name in ('statistics_train_32.npz', 'dataset_info.json'):
        assert (final / name).read_bytes() == (reference / name).read_bytes()


def test_complete_shards_are_kept_after_a_failure(catalogue, reference, tmp_path, monkeypatch):
    """The first attempt fails in the third shard; the second writes this shard and the rest."""
    write_record, count = shards.RecordWriter.write, itertools.count()

    def full_disk(self, *arguments):
        if next(count) == 1200:
            raise UserError('No space left on device')
        write_record(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards.RecordWriter, 'write', full_disk)
        with pytest.raises(UserError, match='No space left'):
            write(catalogue, SMALL, tmp_path)
    unfinished = tmp_path / 'imagenet2012_32' / '.5.1.0.incomplete'
    assert len(list(unfinished.glob('.records/*.npz'))) == 2
    assert {f.name for f in unfinished.glob('.*')} == {'.records'}  # no incomplete files
    lines = []
    writing.write(catalogue, SMALL, tmp_path, 1, 0, lines.append, ignore)
    assert lines[0] == 'resuming after 1,004 of 2,026 images'
    assert records(tmp_path / 'imagenet2012_32' / '5.1.0') == records(reference)
    assert not unfinished.exists()


def test_no_shard_is_lost_if_killed_while_metadata_are_written(
    catalogue, reference, tmp_path, monkeypatch
):
    write_metadata = tfds.folder_dataset.write_metadata

    def write_and_be_killed(**arguments):
        write_metadata(**arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tfds.folder_dataset, 'write_metadata', write_and_be_killed)
        with pytest.raises(KeyboardInterrupt):
            write(catalogue, SMALL, tmp_path)
    assert not (tmp_path / 'imagenet2012_32' / '5.1.0').exists()
    folder = write(catalogue, SMALL, tmp_path).folder
    assert records(folder) == records(reference)
    for file in reference.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_only_shards_with_other_images_are_written_again(damaged, tmp_path):
    """After bad images are replaced in their tars, the shards without them are kept."""
    with pytest.raises(UserError, match='cannot be decoded'):
        write(damaged, SMALL, tmp_path, skip_bad=1)
    unfinished = tmp_path / 'imagenet2012_32' / '.5.1.0.incomplete'
    before = {f.name: f.stat().st_mtime_ns for f in unfinished.glob('*.array_record*')}
    repaired = imagenet_tars.list_images(tars.ilsvrc2012(tmp_path / 'tars', extra=REPAIRED), ignore)
    folder = write(repaired, SMALL, tmp_path).folder
    same = [name for name, time in before.items() if (folder / name).stat().st_mtime_ns == time]
    assert 1 <= len(same) < len(before)
    fresh = write(repaired, SMALL, tmp_path / 'fresh').folder
    assert records(folder) == records(fresh)


def test_shards_written_with_other_settings_are_not_kept(catalogue, tmp_path):
    """Also where the setting is not part of the name, like the EXIF orientation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, '_finish', lambda *_: None)
        write(catalogue, SMALL, tmp_path)
    assert len(list(tmp_path.glob('**/.records/*.npz'))) == 5
    lines = []
    other = dataclasses.replace(catalogue, upright=True)
    writing.write(other, SMALL, tmp_path, 1, 0, lines.append, ignore)
    assert not any('resuming' in line for line in lines)


def test_a_shard_with_a_damaged_summary_is_written_again(catalogue, reference, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, '_finish', lambda *_: None)
        write(catalogue, SMALL, tmp_path)
    unfinished = tmp_path / 'imagenet2012_32' / '.5.1.0.incomplete'
    summaries = sorted((unfinished / '.records').iterdir())
    summaries[0].write_bytes(b'')
    summaries[1].write_bytes(summaries[1].read_bytes()[:100])
    lines = []
    folder = writing.write(catalogue, SMALL, tmp_path, 1, 0, lines.append, ignore).folder
    assert 'resuming after' in lines[0]
    assert records(folder) == records(reference)


def test_of_several_writers_of_a_data_set_one_writes_it_and_the_others_use_it(tmp_path):
    """Threads stand for processes: each opens the lock's file on its own."""
    catalogue = class_folders.list_images(tars.class_folders(tmp_path / 'pets', images=30))
    lines = []
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = list(
            pool.map(
                lambda _: writing.write(catalogue, SMALL, tmp_path, 1, 0, lines.append, ignore),
                range(3),
            )
        )
    assert len({result.folder for result in results}) == 1
    assert sum('to write in' in line for line in lines) == 1
    assert sum('already prepared' in line for line in lines) == 2


def test_a_stop_while_waiting_is_noticed(catalogue, tmp_path):
    with (
        signals.StopSignal(),
        locks.acquire(tmp_path / 'imagenet2012_32' / '.lock', ''),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(signals.Stopped):
            write(catalogue, SMALL, tmp_path)


def test_a_data_set_on_a_read_only_share_is_used_without_a_lock(tmp_path, monkeypatch):
    catalogue = class_folders.list_images(tars.class_folders(tmp_path / 'pets'))
    final = write(catalogue, SMALL, tmp_path).folder
    (final.parent / '.lock').unlink()

    def refuse(*_, **__):
        raise UserError('cannot write')

    monkeypatch.setattr(locks, 'acquire', refuse)
    assert write(catalogue, SMALL, tmp_path).folder == final


def test_a_data_set_is_replaced_only_by_a_complete_one(tmp_path, monkeypatch):
    """While a new one is written, or if that fails, the old one is there."""
    catalogue = class_folders.list_images(tars.class_folders(tmp_path / 'pets'))
    final = write(catalogue, SMALL, tmp_path).folder
    shard = next(final.glob('*train.array_record*'))
    whole = records(final)
    shard.write_bytes(shard.read_bytes()[:1000])
    with monkeypatch.context() as patch:
        patch.setattr(shards.RecordWriter, 'close', lambda _: raise_(UserError('disk full')))
        with pytest.raises(UserError, match='disk full'):
            writing.write(catalogue, SMALL, tmp_path, 1, 0, ignore, ignore, again=True)
    assert shard.stat().st_size == 1000
    writing.write(catalogue, SMALL, tmp_path, 1, 0, ignore, ignore, again=True)
    assert records(final) == whole
    assert {file.name for file in final.parent.iterdir()} == {'.lock', '5.1.0'}


def raise_(error):
    raise error


@pytest.mark.parametrize('renamed', [False, True])
def test_a_kill_while_a_data_set_is_replaced_loses_neither(tmp_path, renamed):
    """Killed after the old one was moved aside, or after the new one got its name."""
    final, complete = tmp_path / 'set' / '1.0.0', tmp_path / 'set' / '.1.0.0.incomplete'
    for folder in (final, complete):
        folder.mkdir(parents=True)
        (folder / folder.name).touch()
    final.rename(final.with_name('.1.0.0.replaced'))
    if renamed:
        complete.rename(final)
    prepared_sets.restore(final)
    expected = '.1.0.0.incomplete' if renamed else '1.0.0'
    assert [file.name for file in final.iterdir()] == [expected]
    assert not final.with_name('.1.0.0.replaced').exists()


def test_images_that_have_moved_are_not_prepared_again(tmp_path):
    pets = tars.class_folders(tmp_path / 'a' / 'pets')
    first = write(class_folders.list_images(pets), SMALL, tmp_path).folder
    (tmp_path / 'b').mkdir()
    pets.rename(tmp_path / 'b' / 'animals')
    moved = class_folders.list_images(tmp_path / 'b' / 'animals')
    assert write(moved, SMALL, tmp_path).folder == first
    assert write(moved, Storage(size=24), tmp_path).folder != first
    on_black = dataclasses.replace(SMALL, background='black')
    assert write(moved, on_black, tmp_path).folder.name != first


@pytest.mark.parametrize('copied', [True, False])
def test_other_pictures_of_the_same_names_and_sizes_are_other_images(tmp_path, copied):
    """Uncompressed images of one size have files of one size."""
    rng = np.random.default_rng(0)
    names = [f'{kind}/{i}.bmp' for kind in ('cat', 'dog') for i in range(80)]
    for folder in ('a', 'b'):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(tars.encode(tars.picture(rng, 20, 20), 'BMP'))
    if copied:
        shutil.rmtree(tmp_path / 'b')
        shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    one, other = (class_folders.list_images(tmp_path / folder) for folder in 'ab')
    assert one.fingerprint() == other.fingerprint()
    first, second = (write(catalogue, SMALL, tmp_path).folder for catalogue in (one, other))
    assert (first == second) == copied


@pytest.mark.parametrize('complete', [True, False])
def test_a_picture_that_was_exchanged_for_one_of_the_same_size_is_noticed(
    tmp_path, monkeypatch, complete
):
    """Also between a stop and the resumption; a copy may keep the time of its original."""
    rng = np.random.default_rng(0)
    for i in range(40):
        file = tmp_path / 'pets' / f'{"dog" if i % 2 else "cat"}' / f'{i}.bmp'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tars.encode(tars.picture(rng, 20, 20), 'BMP'))
        os.utime(file, (1e9, 1e9))
    with monkeypatch.context() as patch:
        if not complete:
            patch.setattr(writing, '_finish', lambda *_: None)
        write(class_folders.list_images(tmp_path / 'pets'), SMALL, tmp_path)
    if complete:
        assert write(class_folders.list_images(tmp_path / 'pets'), SMALL, tmp_path)
    time.sleep(0.02)  # the clock of a file system may be that coarse
    file.write_bytes(tars.encode(tars.picture(rng, 20, 20), 'BMP'))
    os.utime(file, (1e9, 1e9))
    catalogue = class_folders.list_images(tmp_path / 'pets')
    if complete:
        with pytest.raises(UserError, match=r'was prepared from other images: .* replace it'):
            write(catalogue, SMALL, tmp_path)
    else:
        folder = write(catalogue, SMALL, tmp_path).folder
        assert records(folder) == records(write(catalogue, SMALL, tmp_path / 'fresh').folder)


@pytest.mark.parametrize(
    ('place', 'refused'), [('train', True), ('train/cat', True), ('sets', False), ('.', False)]
)
def test_prepared_images_are_not_put_among_the_classes(tmp_path, place, refused):
    for split in ('train', 'val'):
        tars.class_folders(tmp_path / split, images=2)
    (tmp_path / place).mkdir(exist_ok=True)
    for _ in range(2):
        catalogue = class_folders.list_images(tmp_path)
        if refused:
            with pytest.raises(UserError, match=r'in the folder of the images, .*another data_dir'):
                write(catalogue, SMALL, tmp_path / place)
        else:
            assert write(catalogue, SMALL, tmp_path / place).images['validation'] == 4


def test_what_is_behind_transparent_pixels_is_part_of_the_data_set(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=12)
    clear = np.zeros((40, 40, 4), np.uint8)
    for kind in ('cat', 'dog'):
        (pets / kind / 'clear.png').write_bytes(tars.encode(clear, 'PNG', mode='RGBA'))
    catalogue = class_folders.list_images(pets)
    for background, expected in (('white', 255), ('black', 0)):
        storage = dataclasses.replace(SMALL, background=background)
        folder = write(catalogue, storage, tmp_path).folder
        builder = tfds.builder_from_directory(str(folder))
        found = [
            example['image'].mean()
            for split in ('train', 'validation')
            for example in builder.as_data_source(split)
            if example['file_name'].endswith(b'clear.png')
        ]
        assert found == pytest.approx([expected, expected], abs=1)
        assert folder.parent.name.endswith('_black') == (background == 'black')


def test_a_stop_is_noticed_while_images_are_written(tmp_path, monkeypatch):
    """What is complete remains, and the next call resumes there."""
    catalogue = class_folders.list_images(tars.class_folders(tmp_path / 'pets', images=600))
    calls = itertools.count()

    def stop_in_the_second_shard():
        if next(calls) == 700:
            raise signals.Stopped('SIGTERM')

    monkeypatch.setattr(writing, 'raise_if_stopped', stop_in_the_second_shard)
    with pytest.raises(signals.Stopped):
        write(catalogue, Storage(size=8), tmp_path)
    lines = []
    writing.write(catalogue, Storage(size=8), tmp_path, 1, 0, lines.append, ignore)
    assert 'resuming after' in lines[0]


def test_a_disk_that_is_too_small_is_refused_beforehand(catalogue, tmp_path, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(1, 1, 1 << 30))
    with pytest.raises(UserError, match=r'has 1\.1 GB free and about 1\.1 GB are needed'):
        write(catalogue, SMALL, tmp_path)
    assert not list(tmp_path.glob('**/*.array_record*'))


def test_a_full_disk_is_reported_in_one_line_and_no_shard_is_lost(catalogue, reference, tmp_path):
    """The operating system refuses to write more in the middle of a shard."""
    first = next(reference.glob('*-train.array_record-00000-*')).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first - 100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r'cannot write .*array_record-00000-of-00004'):
            write(catalogue, SMALL, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob('imagenet2012_32/5.1.0'))
    names = {f.name for f in tmp_path.glob('imagenet2012_32/.5*/.*')}
    assert names == {'.records'}  # no incomplete files
    assert records(write(catalogue, SMALL, tmp_path).folder) == records(reference)


BAD = {
    'n01440764_7.JPEG': b'not an image',
    'n01443537_8.JPEG': tars.encode(tars.picture(np.random.default_rng(0), 90, 90))[:-500],
}


REPAIRED = {name: tars.encode(tars.picture(np.random.default_rng(0), 70, 70)) for name in BAD}


@pytest.fixture(scope='module')
def damaged(tmp_path_factory):
    """A catalogue with two bad training images."""
    folder = tmp_path_factory.mktemp('damaged')
    return imagenet_tars.list_images(tars.ilsvrc2012(folder, extra=BAD), ignore)


@pytest.mark.parametrize('workers', [1, 2])
def test_a_bad_image_is_named_with_its_tar(damaged, tmp_path, workers):
    with pytest.raises(UserError) as error:
        write(damaged, SMALL, tmp_path, workers)
    assert any(f'{name} in ' in str(error.value) for name in BAD)
    assert 'ILSVRC2012_img_train.tar: ' in str(error.value)
    assert '--skip_bad=N' in str(error.value)


def test_several_bad_images_are_told_at_once(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=30)
    catalogue = class_folders.list_images(pets)
    bad = [name for name in catalogue.splits['train'].names if name.startswith('cat')][:3]
    for name in bad:
        (pets / name).write_bytes(b'x')
    with pytest.raises(UserError) as error:
        write(class_folders.list_images(pets), SMALL, tmp_path)
    assert str(error.value).startswith('3 images cannot be decoded: ')
    assert all(f'{name}: is not an image' in str(error.value) for name in bad)
    result = write(class_folders.list_images(pets), SMALL, tmp_path, skip_bad=3)
    assert sorted(result.skipped) == sorted(bad)


def test_a_bad_validation_image_is_not_to_be_skipped(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=30)
    name = class_folders.list_images(pets).splits['validation'].names[0]
    (pets / name).write_bytes(b'x')
    with pytest.raises(UserError, match=r'repair or replace the image$'):
        write(class_folders.list_images(pets), SMALL, tmp_path, skip_bad=5)


def test_as_many_bad_images_as_allowed_are_left_out(damaged, tmp_path):
    with pytest.raises(UserError, match='2 training images cannot be decoded'):
        write(damaged, SMALL, tmp_path, skip_bad=1)
    result = write(damaged, SMALL, tmp_path, skip_bad=2)
    assert sorted(result.skipped) == sorted(BAD)
    assert result.images == {'train': 1000, 'validation': 20}
    builder = tfds.builder_from_directory(str(result.folder))
    assert len(builder.as_data_source('train')) == 1000
    assert pixel_statistics.Sums.load(result.folder / 'statistics_train_32.npz').images == 1000


def test_a_tar_that_shrinks_is_named(tmp_path):
    folder = tars.ilsvrc2012(tmp_path / 'tars', extra={})
    catalogue = imagenet_tars.list_images(folder, ignore)
    with open(folder / 'ILSVRC2012_img_train.tar', 'r+b') as file:
        file.truncate(100_000)
    with pytest.raises(UserError, match='became shorter while it was read'):
        write(catalogue, SMALL, tmp_path)


def test_a_data_set_prepared_from_other_images_is_refused(tmp_path):
    folder = tars.class_folders(tmp_path / 'pets')
    final = write(class_folders.list_images(folder), SMALL, tmp_path).folder
    assert write(class_folders.list_images(folder), SMALL, tmp_path).folder == final
    (folder / 'cat' / '0.jpg').unlink()
    with pytest.raises(UserError, match=r'prepared from other images \(40 then, 39 now\)') as error:
        write(class_folders.list_images(folder), SMALL, tmp_path)
    again = f'--again --folder={folder} --size=32 --data_dir={tmp_path}'
    assert again in str(error.value)
    (final / prepared_sets.SOURCE).write_text('{"images"')
    with pytest.raises(
        UserError, match=r'prepared\.json is damaged: prepare the data set again:'
    ) as error:
        write(class_folders.list_images(folder), SMALL, tmp_path)
    assert again in str(error.value)


def test_a_data_set_of_another_program_is_left_alone(catalogue, tmp_path):
    final = writing.folder_of(tmp_path, catalogue, SMALL)
    final.mkdir(parents=True)
    with pytest.raises(UserError, match=r'was not written by alexnet_jax\.prepare: train on it'):
        write(catalogue, SMALL, tmp_path)


def test_own_images_are_rotated_as_exif_says(tmp_path):
    folder = tars.class_folders(tmp_path / 'pets')
    orientation = tars.Image.Exif()
    orientation[0x0112] = 6
    half = np.zeros((40, 40, 3), np.uint8)
    half[:20] = 250
    (folder / 'cat' / 'rotated.jpg').write_bytes(tars.encode(half, exif=orientation.tobytes()))
    final = write(class_folders.list_images(folder), SMALL, tmp_path).folder
    builder = tfds.builder_from_directory(str(final))
    images_by_name = {
        e['file_name']: e['image']
        for s in ('train', 'validation')
        for e in builder.as_data_source(s)
    }
    image = images_by_name[b'cat/rotated.jpg']
    assert image[:, 20:].mean() > 230
    assert image[:, :12].mean() < 20


def test_the_source_of_a_data_set_is_recorded(reference):
    source = json.loads((reference / prepared_sets.SOURCE).read_text())
    assert source['images'] == {'train': 2006, 'validation': 20}
    assert source['storage']['filter'] == 'bicubic'
    assert not list(reference.glob('.*'))
    assert len(list(reference.iterdir())) == 4 + 1 + 6
