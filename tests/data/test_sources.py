import concurrent.futures
import dataclasses
import gc
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import nets
import runs
import tars
from alexnet_jax.data import images, sources
from alexnet_jax.data.loading import loader
from alexnet_jax.data.preparation import tfds_sets, writing
from alexnet_jax.data.preparation.layouts import imagenet_tars
from alexnet_jax.data.preparation.own_images import class_folders
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.runtime import signals
from alexnet_jax.runtime.user_errors import UserError


@pytest.fixture(scope='module')
def splits(data_dir):
    return sources.open_splits(nets.small(dataset__data_dir=data_dir).dataset)


def test_digits_are_all_there_and_stratified(splits):
    assert (len(splits.train), len(splits.eval)) == (1442, 355)
    counts = [Counter(int(e['label']) for e in split) for split in splits[:2]]
    for digit in range(10):
        fraction = counts[1][digit] / (counts[0][digit] + counts[1][digit])
        assert fraction == pytest.approx(0.2, abs=0.006)


def test_digits_are_the_scans(splits):
    """Reduced to a ninth, they are the 8x8 scans of scikit-learn."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    image = images.decode(splits.train[0]['image'])
    assert image.shape == (72, 72, 3)
    assert np.all(image == image[..., :1])
    reduced = image[..., 0].reshape(8, 9, 8, 9).mean((1, 3))
    assert np.corrcoef(reduced.ravel(), scans.images[0].ravel())[0, 1] > 0.97


def test_no_image_is_in_both_splits(splits):
    train, test = ({bytes(e['image']) for e in split} for split in splits[:2])
    assert not train & test


def test_tensorflow_is_never_imported(splits):
    images.decode(splits.train[0]['image'])
    assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'dataset__name': 'no_such_set'}, "'no_such_set' is not a TFDS data set"),
        ({'dataset__name': ''}, 'the name of the data set is empty'),
        ({'dataset__name': 'digits:9.9.9'}, 'cannot be loaded at version 9.9.9, only: 1.0.0'),
        ({'dataset__name': 'digits/x=1'}, 'cannot be opened'),
        ({'dataset__name': '../digits'}, "'../digits' is not a TFDS data set"),
        ({'dataset__name': 'no\nsuch'}, "'no\\nsuch' is not a TFDS data set"),
        ({'dataset__train_split': ''}, 'dataset.train_split is empty'),
        ({'dataset__eval_split': ' '}, 'dataset.eval_split is empty'),
        ({'dataset__eval_split': 'test[5:2]'}, "split 'test[5:2]' of digits selects no images"),
        ({'dataset__eval_split': 'test[5:5]'}, "split 'test[5:5]' of digits selects no images"),
        ({'dataset__train_split': 'train[50%:20%]'}, 'selects no images'),
        ({'dataset__train_split': 'train['}, "has no split 'train['"),
        ({'dataset__train_split': 'train[:2000]'}, '[:2000] incompatible with 1442 examples'),
        ({'dataset__name': 'synthetic', 'dataset__folder': 'x'}, 'leave out one of them'),
        ({'dataset__classes': 11}, 'digits has 10 classes, not 11'),
        ({'dataset__train_split': 'trian'}, 'its splits: train, test'),
        ({'dataset__name': 'imagenet2012', 'dataset__classes': 1000}, '--size=original'),
        (
            {'dataset__name': 'imagenet2012_256', 'dataset__classes': 1000},
            'alexnet_jax.prepare --imagenet=DIR (or set --config.dataset.data_dir',
        ),
        (
            {'dataset__name': 'imagenet2012_256_bilinear', 'dataset__classes': 1000},
            'alexnet_jax.prepare --imagenet=DIR --filter=bilinear (or set',
        ),
        ({'dataset__folder': '/no/such/folder'}, 'dataset.folder=/no/such/folder is not a folder'),
    ],
)
def test_missing_data_are_reported_in_one_line(data_dir, overrides, message):
    dataset = nets.small(dataset__data_dir=data_dir).dataset
    changes = {name.removeprefix('dataset__'): value for name, value in overrides.items()}
    with pytest.raises(UserError) as error:
        sources.open_splits(dataclasses.replace(dataset, **changes))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'folder', ['gs://bucket/x', 's3://bucket', 'tf[1]', 'a*', 'b?/c', 'a\nb', '/proc/version']
)
def test_places_that_cannot_be_meant_are_refused_before_anything_is_written(
    tmp_path, monkeypatch, folder
):
    monkeypatch.chdir(tmp_path)
    for setting in ('argument', 'environment'):
        if setting == 'environment':
            monkeypatch.setenv('TFDS_DATA_DIR', folder)
        with pytest.raises(UserError, match=r'dataset.data_dir|TFDS_DATA_DIR') as error:
            tfds_sets.data_dir(folder if setting == 'argument' else '')
        assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_synthetic_images_are_the_same_for_the_same_index():
    splits = sources.open_splits(nets.full(dataset__name='synthetic').dataset)
    assert splits.train[5]['image'].shape == (256, 256, 3)
    np.testing.assert_array_equal(splits.train[5]['image'], splits.train[5]['image'])
    assert np.any(splits.train[5]['image'] != splits.train[6]['image'])
    assert 0 <= splits.train[5]['label'] < 1000


class Grey(tfds.core.GeneratorBasedBuilder):
    """A TFDS data set of grey images of various sizes, with a feature that is not used."""

    VERSION = tfds.core.Version('1.0.0')
    fails = False

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(None, None, 1), encoding_format='png'),
                    'label': tfds.features.ClassLabel(num_classes=3),
                    'more': tfds.features.Scalar(np.float32),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(30), 'test': self._generate_examples(9)}

    def _generate_examples(self, images):
        if self.fails:
            raise OSError('no network')
        for i in range(images):
            image = np.full((20 + i, 30, 1), 5 * i, np.uint8)
            yield i, {'image': Image.fromarray(image[..., 0]), 'label': i % 3, 'more': 0.5}


def test_any_tfds_data_set_is_prepared_and_read_by_its_name(tmp_path):
    dataset = nets.small(
        dataset__name='grey', dataset__data_dir=str(tmp_path), dataset__classes=3
    ).dataset
    splits = sources.open_splits(dataset)
    assert (len(splits.train), len(splits.eval)) == (30, 9)
    batches = loader.training_batches(splits.train, loader.Reading(16), 0, 30, 0)
    batch = next(batches)
    grey = batch['image'][:, 8, 8]
    assert sorted(grey[:, 0]) == [5 * i for i in range(30)]
    np.testing.assert_array_equal(grey[:, :1] // 5 % 3, batch['label'][:, None])


def test_a_data_set_that_cannot_be_prepared_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Grey, 'fails', True)
    dataset = nets.small(
        dataset__name='grey', dataset__data_dir=str(tmp_path), dataset__classes=3
    ).dataset
    with pytest.raises(UserError, match=r'cannot prepare grey in .*: no network'):
        sources.open_splits(dataset)


def grey(data_dir):
    return nets.small(
        dataset__name='grey', dataset__data_dir=str(data_dir), dataset__classes=3
    ).dataset


def test_of_several_first_runs_one_prepares_and_the_others_wait(tmp_path, capsys):
    """Threads stand for processes: each opens the lock's file on its own."""
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: sources.open_splits(grey(tmp_path)), range(3)))
    assert [len(splits.train) for splits in results] == [30, 30, 30]
    out = capsys.readouterr().out
    assert out.count('preparing grey in ') == 1
    assert 'Downloading' not in out


@pytest.mark.slow
def test_several_processes_share_an_empty_folder(tmp_path):
    command = [sys.executable, '-m', 'alexnet_jax.prepare', '--name=digits']
    processes = [runs.start([*command, f'--data_dir={tmp_path}']) for _ in range(3)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sum('preparing digits' in out for out, _ in outputs) == 1
    assert all('train: 1,442 images' in out for out, _ in outputs)


def test_what_killed_preparations_left_is_removed(tmp_path):
    left = tmp_path / 'grey' / 'incomplete.ABCDEF_1.0.0'
    left.mkdir(parents=True)
    (left / 'shard').touch()
    sources.open_splits(grey(tmp_path))
    assert {file.name for file in (tmp_path / 'grey').iterdir()} == {'.lock', '1.0.0'}


def test_a_prepared_data_set_is_used_without_a_lock(tmp_path, monkeypatch):
    sources.open_splits(grey(tmp_path))

    def refuse(*_, **__):
        raise UserError('read-only')

    monkeypatch.setattr(tfds_sets.locks, 'acquire', refuse)
    assert len(sources.open_splits(grey(tmp_path)).train) == 30


def test_a_damaged_data_set_is_repaired_by_the_command_that_is_told(tmp_path, monkeypatch):
    """A preparation that fails leaves the old one where it is."""
    splits = sources.open_splits(grey(tmp_path))
    image = splits.train[12]['image']
    shard = next(tmp_path.glob('grey/*/*train.array_record*'))
    content = bytearray(shard.read_bytes())
    content[content.index(image[:40]) + 20] ^= 1
    shard.write_bytes(content)
    batches = loader.training_batches(
        sources.open_splits(grey(tmp_path)).train, loader.Reading(16), 0, 30, 0
    )
    with pytest.raises(UserError, match=f'--again --name=grey --data_dir={tmp_path}'):
        next(batches)
    with monkeypatch.context() as patch:
        patch.setattr(Grey, 'fails', True)
        with pytest.raises(UserError, match='no network'):
            tfds_sets.prepare_again('grey', str(tmp_path))
    assert shard.read_bytes() == content
    tfds_sets.prepare_again('grey', str(tmp_path))
    assert sources.open_splits(grey(tmp_path)).train[12]['image'] == image
    assert {file.name for file in tmp_path.iterdir()} <= {'grey', 'downloads'}


@pytest.mark.parametrize('damage', ['torn', 'missing'])
def test_damaged_metadata_come_with_the_command_that_helps(tmp_path, damage):
    sources.open_splits(grey(tmp_path))
    info = tmp_path / 'grey' / '1.0.0' / 'dataset_info.json'
    info.write_text(info.read_text()[:60])
    if damage == 'missing':
        info.unlink()
    with pytest.raises(UserError, match=f'--again --name=grey --data_dir={tmp_path}'):
        sources.open_splits(grey(tmp_path))
    tfds_sets.prepare_again('grey', str(tmp_path))
    assert len(sources.open_splits(grey(tmp_path)).train) == 30


@pytest.mark.parametrize('name', ['grey', 'imagenet2012_256'])
def test_data_that_tensorflow_wrote_have_their_own_message(tmp_path, name):
    sources.open_splits(grey(tmp_path))
    folder = tmp_path / name / '1.0.0'
    if name != 'grey':
        shutil.copytree(tmp_path / 'grey', tmp_path / name)
    info = json.loads((folder / 'dataset_info.json').read_text())
    info |= {'fileFormat': 'tfrecord', 'name': name}
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    dataset = nets.small(dataset__name=name, dataset__data_dir=str(tmp_path)).dataset
    with pytest.raises(UserError, match=r'is in the format tfrecord; only array_record') as error:
        sources.open_splits(dataset)
    advice = f'alexnet_jax.prepare --tfrecord={folder} --data_dir=DIR'
    assert advice in str(error.value)


def test_a_full_disk_while_tfds_prepares_is_one_line(tmp_path, monkeypatch):
    """TFDS wraps the error of the disk."""

    def fail(*_, **__):
        try:
            raise OSError(28, 'No space left on device')
        except OSError as error:
            raise RuntimeError('Failed to finalize writing of split') from error

    monkeypatch.setattr(Grey, '_generate_examples', fail)
    with pytest.raises(UserError, match=r'cannot prepare grey in .*: No space left on device'):
        sources.open_splits(grey(tmp_path))
    assert not list((tmp_path / 'grey').glob('incomplete*'))


def test_a_stop_is_noticed_while_tfds_prepares(tmp_path, monkeypatch):
    def wait(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(200):  # as long as a download that hangs
            try:
                time.sleep(0.1)
            except Exception:  # a library may go on after any error
                continue
        yield from ()

    monkeypatch.setattr(Grey, '_generate_examples', wait)
    start = time.monotonic()
    with signals.StopSignal(), pytest.raises(signals.Stopped, match='SIGTERM'):
        sources.open_splits(grey(tmp_path))
    assert time.monotonic() - start < 15
    assert {file.name for file in (tmp_path / 'grey').iterdir()} == {'.lock'}


def test_programs_that_use_a_run_create_no_folder_and_prepare_in_no_wrong_place(tmp_path):
    missing = tmp_path / 'missing'
    with pytest.raises(UserError, match=f'{missing} is not a folder: choose the one that has'):
        sources.open_splits(grey(missing), create=False)
    with pytest.raises(UserError, match=f'grey is not in {tmp_path}: choose the folder'):
        sources.open_splits(grey(tmp_path), create=False)
    assert not list(tmp_path.iterdir())


def test_the_identity_of_images_does_not_depend_on_where_they_are(tmp_path):
    identity = sources.open_splits(grey(tmp_path)).identity()
    assert identity['folder'] == str(tmp_path / 'grey' / '1.0.0')
    assert identity['train']['images'] == 30
    assert identity['train']['fingerprint'] != identity['eval']['fingerprint']
    shutil.copytree(tmp_path, tmp_path.with_name('copy'))
    copy = sources.open_splits(grey(tmp_path.with_name('copy'))).identity()
    assert copy['folder'] == str(tmp_path.with_name('copy') / 'grey' / '1.0.0')
    assert (copy['train'], copy['eval']) == (identity['train'], identity['eval'])
    tfds_sets.prepare_again('grey', str(tmp_path))
    assert sources.open_splits(grey(tmp_path)).identity() == identity


def test_the_identity_changes_with_the_images(tmp_path):
    identity = sources.open_splits(grey(tmp_path)).identity()
    part = dataclasses.replace(grey(tmp_path), train_split='train[1:]')
    assert sources.open_splits(part).identity()['train'] != identity['train']
    info = tmp_path / 'grey' / '1.0.0' / 'dataset_info.json'
    content = json.loads(info.read_text())
    split = next(split for split in content['splits'] if split['name'] == 'train')
    split['shardLengths'] = ['29']
    info.write_text(json.dumps(content))
    assert sources.open_splits(grey(tmp_path)).identity()['train'] != identity['train']


def test_synthetic_images_have_an_identity():
    one, same, other = (
        sources.open_splits(nets.full(dataset__name='synthetic', dataset__classes=k).dataset)
        for k in (1000, 1000, 10)
    )
    assert one.identity() == same.identity() != other.identity()
    assert one.identity()['folder'] == ''


class NeedsTensorFlow:
    """A builder of TFDS that needs TensorFlow."""

    name = 'imagenet_v2'

    def __init__(self, folder):
        self.data_dir = str(folder / 'imagenet_v2' / '1.0.0')

    def is_prepared(self):
        return False

    def download_and_prepare(self, **_):
        raise ModuleNotFoundError("No module named 'tensorflow'", name='tensorflow')


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(UserError, match='pip install tensorflow'):
        tfds_sets.prepare(NeedsTensorFlow(tmp_path))


def folder_of(path, data_dir, **overrides):
    return nets.small(
        **{
            'dataset__folder': str(path),
            'dataset__data_dir': str(data_dir),
            'dataset__classes': 2,
            'dataset__eval_split': 'validation',
        }
        | overrides
    ).dataset


def test_own_images_are_prepared_on_first_use(tmp_path, capsys):
    pets = tars.class_folders(tmp_path / 'pets', images=40)
    for _ in range(2):
        splits = sources.open_splits(folder_of(pets, tmp_path))
        assert len(splits.train) + len(splits.eval) == 80
    out = capsys.readouterr().out
    assert out.count(' to write in ') == 1
    assert '2 classes: cat, dog' in out
    assert f'{len(splits.train)} train, {len(splits.eval)} validation (one image in 10' in out
    for example in splits.train:
        image = images.decode(example['image'])
        assert image.shape == (72, 72, 3)
        assert image[..., example['label']].mean() > image[..., 2].mean() + 10
    sources.open_splits(folder_of(pets, tmp_path), create=False)
    brief = capsys.readouterr().out
    assert '2 classes: cat, dog' in brief
    assert 'validated on' not in brief
    assert 'always answering' in out
    assert 'always answering' not in brief
    with pytest.raises(UserError, match='has 2 classes, not 3'):
        sources.open_splits(folder_of(pets, tmp_path, dataset__classes=3))
    (pets / 'cat' / '0.jpg').unlink()
    with pytest.raises(UserError, match='choose another data_dir to keep both, or replace it: '):
        sources.open_splits(folder_of(pets, tmp_path))


def test_images_of_a_folder_that_has_moved_are_the_same_images(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=15)
    before = sources.open_splits(folder_of(pets, tmp_path)).identity()
    pets.rename(tmp_path / 'moved')
    assert sources.open_splits(folder_of(tmp_path / 'moved', tmp_path)).identity() == before
    prepared_anew = sources.open_splits(folder_of(tmp_path / 'moved', tmp_path / 'new')).identity()
    assert prepared_anew['folder'] != before['folder']
    assert (prepared_anew['train'], prepared_anew['eval']) == (before['train'], before['eval'])


def test_each_split_of_own_images_has_a_list_of_its_own(tmp_path):
    for split, number in (('train', 6), ('val', 3)):
        tars.class_folders(tmp_path / 'pets' / split, images=number)
    before = sources.open_splits(folder_of(tmp_path / 'pets', tmp_path / 'a')).identity()
    shutil.copy(tmp_path / 'pets/train/cat/0.jpg', tmp_path / 'pets/train/cat/more.jpg')
    after = sources.open_splits(folder_of(tmp_path / 'pets', tmp_path / 'b')).identity()
    assert before['train']['list'] != after['train']['list']
    assert before['eval']['list'] == after['eval']['list']
    assert before['eval']['fingerprint'] != after['eval']['fingerprint']


def test_images_that_may_have_been_edited_are_told(tmp_path, capsys):
    """A photograph that is turned by a bit of its EXIF data keeps its name and its size."""
    pets = tars.class_folders(tmp_path / 'pets', images=15)
    for _ in range(2):
        sources.open_splits(folder_of(pets, tmp_path))
    assert 'were written after' not in capsys.readouterr().out
    later = time.time() + 60
    os.utime(pets / 'cat' / '3.jpg', (later, later))
    sources.open_splits(folder_of(pets, tmp_path))
    out = capsys.readouterr().out
    assert 'written after they had been prepared, the last one cat/3.jpg: if they were' in out
    assert f'--again --folder={pets} --size=72' in out


@pytest.mark.parametrize(
    ('splits', 'eval_split', 'message'),
    [
        (('train', 'valid'), 'test', 'train and validation, not test: set .*eval_split=validation'),
        (('train', 'valid'), 'valid', ''),
        (('Train', 'Test'), 'test', ''),
        (('Train', 'Test'), 'validation', ''),
        (('train', 'val', 'test'), 'test[:50%]', ''),
        (('train', 'val', 'test'), 'validation+test', ''),
        (('train', 'val'), 'validation[4:2]', 'selects no images'),
    ],
)
def test_splits_of_a_folder_have_the_names_that_it_gives_them(
    tmp_path, splits, eval_split, message
):
    for number, split in enumerate(splits):
        tars.class_folders(tmp_path / 'pets' / split, images=4 + 2 * number)
    dataset = folder_of(tmp_path / 'pets', tmp_path, dataset__eval_split=eval_split)
    if message:
        with pytest.raises(UserError, match=message):
            sources.open_splits(dataset)
    else:
        expected = {'test[:50%]': 8, 'validation+test': 28}.get(eval_split, 12)
        assert len(sources.open_splits(dataset).eval) == expected


def test_images_that_are_left_out_are_named_also_when_prepared_before(tmp_path, capsys):
    pets = tars.class_folders(tmp_path / 'pets', images=30)
    bad = next(
        name
        for name in class_folders.list_images(pets).splits['train'].names
        if name.startswith('cat')
    )
    (pets / bad).write_bytes(b'')
    for _ in range(2):
        splits = sources.open_splits(folder_of(pets, tmp_path), skip_bad=1)
        assert splits.skipped == (bad,)
        assert f'left out when prepared: 1 images that cannot be decoded: {bad}' in (
            capsys.readouterr().out
        )


def test_class_names_that_are_lost_are_noticed(tmp_path):
    """TFDS would number the classes, and take three names for three classes of a hundred."""
    pets = tars.class_folders(tmp_path / 'pets', images=15)
    folder = sources.open_splits(folder_of(pets, tmp_path)).folder
    names = Path(folder) / 'label.labels.txt'
    for text in ('', 'cat\ndoh\n', 'cat\n'):
        names.write_text(text)
        with pytest.raises(UserError, match=r'labels\.txt is missing or damaged: .* --again'):
            sources.open_splits(folder_of(pets, tmp_path))


class TensorFlowFiles:
    """The parts of TensorFlow that TFDS's builder of ImageNet uses, in plain Python."""

    class io:
        class gfile:
            exists = staticmethod(os.path.exists)
            remove = staticmethod(os.remove)
            GFile = staticmethod(open)

    class errors:
        ResourceExhaustedError = MemoryError


def test_our_imagenet2012_is_equal_to_that_of_tfds(tmp_path, monkeypatch):
    """TFDS's builder writes the same images and labels under each name from the same tars."""
    import tensorflow_datasets.core.download.extractor as extractor
    import tensorflow_datasets.core.shuffle as shuffle
    import tensorflow_datasets.datasets.imagenet2012.imagenet2012_dataset_builder as stock
    from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

    typical = tars.typical(np.random.default_rng(2), 20)
    extra = {f'n02105855_{i}.JPEG': data for i, data in enumerate(typical)} | tars.unusual()
    folder = tars.ilsvrc2012(tmp_path / 'tars', images=0, extra=extra)
    for module in (extractor, shuffle, stock, imagenet_common):
        monkeypatch.setattr(module, 'tf', TensorFlowFiles)

    def to_jpeg(data):
        return images.encode(images.decode(data), 100)

    monkeypatch.setattr(tfds.core.utils, 'jpeg_cmyk_to_rgb', to_jpeg)
    monkeypatch.setattr(tfds.core.utils, 'png_to_jpeg', to_jpeg)
    stock_builder = tfds.builder(
        'imagenet2012', data_dir=tmp_path / 'a', file_format='array_record'
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ResourceWarning)  # TFDS leaves the tars open
        stock_builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=folder),
            file_format='array_record',
        )
        gc.collect()
    catalogue = imagenet_tars.list_images(folder, lambda *_: None)
    writing.write(catalogue, Storage(size=0), tmp_path / 'b', 1, 0, print, lambda *_: None)
    both = []
    for data_dir in (tmp_path / 'a', tmp_path / 'b'):
        splits = sources.open_splits(
            nets.full(dataset__name='imagenet2012', dataset__data_dir=str(data_dir)).dataset
        )
        both.append({e['name']: (e['label'], e['image']) for split in splits[:2] for e in split})
    assert len(both[0]) == 26 + 20
    assert both[0] == both[1]
    info = [
        tfds.builder_from_directory(str(tmp_path / x / 'imagenet2012' / '5.1.0')).info for x in 'ab'
    ]
    assert repr(info[0].features) == repr(info[1].features)
    assert (info[0].version, info[0].name) == (info[1].version, info[1].name)
    assert info[0].features['label'].names == info[1].features['label'].names
    counts = [{n: s.num_examples for n, s in i.splits.items()} for i in info]
    assert counts[0] == counts[1]


def test_a_damaged_record_is_named_with_its_shard(tmp_path):
    dataset = nets.small(
        dataset__name='grey', dataset__data_dir=str(tmp_path), dataset__classes=3
    ).dataset
    splits = sources.open_splits(dataset)
    assert splits.train.where(7) == 'record 7 of grey-train.array_record-00000-of-00001'
    part = sources.Records(tfds.builder('grey', data_dir=tmp_path), 'train[10:20]')
    assert part.where(7) == 'record 17 of grey-train.array_record-00000-of-00001'
    assert part[7]['image'] == splits.train[17]['image']
    shard = next(tmp_path.glob('grey/*/*train.array_record*'))
    data = bytearray(shard.read_bytes())
    at = data.index(splits.train[12]['image'][:40])
    data[at + 20] ^= 1
    shard.write_bytes(data)
    splits = sources.open_splits(dataset)
    batches = loader.training_batches(splits.train, loader.Reading(16), 0, 30, 0)
    with pytest.raises(UserError, match=r'record 12 of grey-train.* is damaged'):
        next(batches)
