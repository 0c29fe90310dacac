import gc
import os
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import nets
import tars
from alexnet_jax.data import images, loader, sources
from alexnet_jax.data.preparation import imagenet, writing
from alexnet_jax.data.preparation.storage import Storage
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
        ({'dataset__classes': 11}, 'digits has 10 classes, not 11'),
        ({'dataset__train_split': 'trian'}, 'its splits: train, test'),
        ({'dataset__name': 'imagenet2012', 'dataset__classes': 1000}, '--size=original'),
        (
            {'dataset__name': 'imagenet2012_256', 'dataset__classes': 1000},
            'alexnet_jax.prepare --tars=DIR (or set --config.dataset.data_dir',
        ),
        ({'dataset__folder': '/no/such/folder'}, 'dataset.folder=/no/such/folder is not a folder'),
    ],
)
def test_missing_data_are_reported_in_one_line(data_dir, overrides, message):
    with pytest.raises(UserError) as error:
        sources.open_splits(nets.small(dataset__data_dir=data_dir, **overrides).dataset)
    assert message in str(error.value)


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


class NeedsTensorFlow:
    """A builder of TFDS that needs TensorFlow."""

    name, data_dir = 'imagenet_v2', '/data'

    def download_and_prepare(self, **_):
        raise ModuleNotFoundError("No module named 'tensorflow'", name='tensorflow')


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match='pip install tensorflow'):
        sources.prepare(NeedsTensorFlow())


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
    assert out.count('GB to write') == 1
    assert f'{len(splits.train)} train, {len(splits.eval)} validation, 2 classes' in out
    for example in splits.train:
        image = images.decode(example['image'])
        assert image.shape == (72, 72, 3)
        assert image[..., example['label']].mean() > image[..., 2].mean() + 10
    with pytest.raises(UserError, match='has 2 classes, not 3'):
        sources.open_splits(folder_of(pets, tmp_path, dataset__classes=3))
    (pets / 'cat' / '0.jpg').unlink()
    with pytest.raises(UserError, match='move that folder away to prepare the present images'):
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
    catalogue = imagenet.list_images(folder, lambda *_: None)
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
