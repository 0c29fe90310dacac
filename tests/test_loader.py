import io
import itertools

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import loader


class Numbers:
    """Images whose label is their index."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {'image': np.full((4, 4, 3), index % 256, np.uint8), 'label': index}


def order(length=50, batch_size=8, seed=0, first_step=0, steps=25, threads=2, ahead=2):
    batches = loader.training_batches(
        Numbers(length), seed, batch_size, 4, first_step, threads, ahead
    )
    return [batch['label'].tolist() for batch in itertools.islice(batches, steps)]


def test_every_epoch_is_a_permutation_of_its_own():
    stream = list(itertools.chain(*order(steps=25)))  # 200 images, four epochs
    epochs = [stream[i : i + 50] for i in range(0, 200, 50)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_is_a_function_of_seed_and_step():
    assert order() == order(threads=1, ahead=5)
    assert order() != order(seed=1)
    for first in (1, 6, 7, 20):  # in the middle of an epoch, and at its edge
        assert order(first_step=first, steps=3) == order()[first : first + 3]


@pytest.mark.parametrize('length', [1, 7, 8, 9, 16, 23])
def test_evaluation_sees_every_image_once(length):
    batches = list(loader.evaluation_batches(Numbers(length), 8, 4, 2, 2))
    assert {batch['label'].shape for batch in batches} == {(8,)}
    seen = [
        label
        for batch in batches
        for label, weight in zip(batch['label'], batch['weight'], strict=True)
        if weight
    ]
    assert seen == list(range(length))


def encoded(array, mode, form):
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(
        file, form, **({'quality': 95} if form == 'JPEG' else {})
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ('mode', 'form'),
    [('RGB', 'PNG'), ('L', 'PNG'), ('CMYK', 'JPEG'), ('L', 'JPEG'), ('RGBA', 'PNG')],
)
def test_every_kind_of_image_becomes_rgb(mode, form):
    picture = np.full((60, 40, 3), (200, 200, 200), np.uint8)
    image = loader.prepare({'image': encoded(picture, mode, form), 'label': 3}, 32)['image']
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, 200, atol=4)


def test_short_side_is_scaled_and_the_centre_cut():
    """§2: of a picture twice as wide as high, the left and right quarter are lost."""
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255
    image = loader.prepare({'image': picture, 'label': 0}, 20)['image']
    assert image.shape == (20, 20, 3)
    assert image[:, 2:-2].min() == 255


def test_mean_image_counts_every_image_once(tmp_path):
    mean = loader.mean_image(Numbers(100), 4, str(tmp_path), 'train[:50%]', 2)
    np.testing.assert_allclose(mean, 49.5)
    assert mean.dtype == np.float32
    kept = loader.mean_image(Numbers(3), 4, str(tmp_path), 'train[:50%]', 2)
    np.testing.assert_array_equal(kept, mean)  # read back, not computed from the three
    assert loader.mean_image(Numbers(3), 4, str(tmp_path), 'train', 2).max() == 1
