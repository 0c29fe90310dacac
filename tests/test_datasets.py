import sys
from collections import Counter

import numpy as np
import pytest

import nets
from alexnet_jax import datasets, loader
from alexnet_jax.errors import UserError


@pytest.fixture(scope='module')
def splits(data_dir):
    return datasets.open_splits(nets.small(dataset__data_dir=data_dir).dataset)


def test_digits_are_all_there_and_stratified(splits):
    assert (len(splits.train), len(splits.eval)) == (1442, 355)
    counts = [Counter(int(e['label']) for e in split) for split in splits[:2]]
    for digit in range(10):
        share = counts[1][digit] / (counts[0][digit] + counts[1][digit])
        assert share == pytest.approx(0.2, abs=0.006)


def test_digits_are_the_scans(splits):
    """Nine times as large, in colour; shrunk again, the 8x8 scans of scikit-learn."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    image = loader.prepare(splits.train[0], 72)['image']
    assert image.shape == (72, 72, 3)
    assert np.all(image == image[..., :1])
    shrunk = image[..., 0].reshape(8, 9, 8, 9).mean((1, 3))
    assert np.corrcoef(shrunk.ravel(), scans.images[0].ravel())[0, 1] > 0.97


def test_no_image_is_in_both_splits(splits):
    train, test = ({bytes(e['image']) for e in split} for split in splits[:2])
    assert not train & test


def test_tensorflow_is_never_imported(splits):
    loader.prepare(splits.train[0], 72)
    assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'dataset__name': 'no_such_set'}, "'no_such_set' is no TFDS data set"),
        ({'dataset__classes': 11}, 'digits has 10 classes, not 11'),
        ({'dataset__train_split': 'trian'}, 'its splits: train, test'),
        ({'dataset__name': 'mnist'}, 'run: python -m alexnet_jax.prepare --name=mnist'),
        ({'dataset__name': 'imagenet2012', 'dataset__classes': 1000}, 'ILSVRC2012_img_train.tar'),
    ],
)
def test_missing_data_is_one_line(data_dir, overrides, message):
    with pytest.raises(UserError) as error:
        datasets.open_splits(nets.small(dataset__data_dir=data_dir, **overrides).dataset)
    assert message in str(error.value)


def test_synthetic_images_are_the_same_for_the_same_index():
    splits = datasets.open_splits(nets.full(dataset__name='synthetic').dataset)
    assert splits.train[5]['image'].shape == (256, 256, 3)
    np.testing.assert_array_equal(splits.train[5]['image'], splits.train[5]['image'])
    assert np.any(splits.train[5]['image'] != splits.train[6]['image'])
    assert 0 <= splits.train[5]['label'] < 1000
