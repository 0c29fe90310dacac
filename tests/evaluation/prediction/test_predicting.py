"""The engine, with nets whose probabilities are the brightness of a picture."""

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import nets
from alexnet_jax.data import images
from alexnet_jax.evaluation import pictures
from alexnet_jax.evaluation.pictures import map_ahead
from alexnet_jax.evaluation.prediction import predicting
from alexnet_jax.evaluation.prediction.picture_sources import PictureSource


class Brightness:
    """A net of two classes: the probability of the first is the brightness of the picture."""

    def __init__(self, size=8, resize='area', batch_size=4, exponent=1.0):
        dataset = dataclasses.replace(nets.small().dataset, image_size=size, resize=resize)
        self.config = SimpleNamespace(dataset=dataset)
        self.batch_size, self.batches, self._exponent = batch_size, [], exponent

    def log_probabilities(self, images_BHWC, views):
        size = self.config.dataset.image_size
        assert images_BHWC.shape[1:] == (size, size, 3)
        self.batches.append((len(images_BHWC), views))
        p_B = (images_BHWC[:, 0, 0, 0] / 256 + 1 / 512) ** self._exponent
        return np.log(np.stack([p_B, 1 - p_B], axis=1)).astype(np.float32)


@pytest.fixture
def sources(tmp_path):
    """Ten pictures, 0 to 9 times 20 bright; the third and the last three cannot be read."""
    paths = [tmp_path / f'{n}.png' for n in range(10)]
    for n, path in enumerate(paths):
        Image.new('L', (8, 8), 20 * n).save(path)
    paths[2].write_text('text')
    for path in paths[7:]:
        path.unlink()
    return [PictureSource(path.name, str(path)) for path in paths]


def predict(*arguments, **options):
    """Returns the answers of all batches."""
    batches = list(predicting.predict(*arguments, **options))
    assert all(batches)
    return [answer for batch in batches for answer in batch]


def brightness(answers):
    return [None if x.log_p_K is None else float(np.exp(x.log_p_K[0])) for x in answers]


def test_every_picture_has_an_answer_in_order_and_batches_are_full(sources):
    """Pictures that cannot be read take no place in a batch, and do not end the rest."""
    net = Brightness()
    answers = predict([net], sources, views=5)
    assert [x.name for x in answers] == [f'{n}.png' for n in range(10)]
    expected = [20 * n / 256 + 1 / 512 for n in range(7)]
    expected[2] = None
    assert brightness(answers) == pytest.approx([*expected, None, None, None])
    assert net.batches == [(4, 5), (2, 5)]
    assert [x.problem for x in answers if x.problem] == [
        'is not an image (4 bytes)',
        *['cannot be read: No such file or directory'] * 3,
    ]
    assert predict([net], []) == []


def test_an_ensemble_is_the_mean_and_decodes_once_for_each_form(sources, monkeypatch):
    decoded = []
    square = images.square
    monkeypatch.setattr(images, 'square', lambda *a, **k: decoded.append(a[1:]) or square(*a, **k))
    ensemble = [Brightness(), Brightness(exponent=2.0), Brightness(size=6, exponent=3.0)]
    answers = predict(ensemble, sources[:2])
    p = np.array([1 / 512, 20 / 256 + 1 / 512])
    np.testing.assert_allclose(brightness(answers), (p + p**2 + p**3) / 3, 1e-5)
    assert sorted(decoded) == [(6, 'area')] * 2 + [(8, 'area')] * 2


def test_outputs_that_are_not_numbers_are_no_answer(sources):
    net = Brightness(exponent=np.nan)
    (answer,) = predict([net], sources[:1])
    assert answer == ('0.png', None, 'has outputs that are not numbers (NaN)')


def test_a_picture_that_needs_too_much_memory_does_not_end_the_rest(sources, monkeypatch):
    def read_file(path):
        if path.endswith('1.png'):
            raise MemoryError
        return read(path)

    read = pictures.read_file
    monkeypatch.setattr(pictures, 'read_file', read_file)
    answers = predict([Brightness()], sources[:2])
    assert answers[0].log_p_K is not None
    assert answers[1].problem == 'needs more memory than there is'


def test_threads_work_ahead_by_so_many_items_and_not_more():
    started = []
    most = threading.Event()

    def double(n):
        started.append(n)
        if len(started) == 4:
            most.set()
        return 2 * n

    results = map_ahead(double, iter(range(100)), 3)
    assert next(results) == 0
    assert most.wait(10), 'the items after the first are computed while nobody waits'
    assert sorted(started) == [0, 1, 2, 3]
    assert list(results) == [2 * n for n in range(1, 100)]


def test_work_ahead_ends_with_an_error_and_with_the_caller():
    def fail_at_three(n):
        if n == 3:
            raise ValueError(n)
        return n

    with pytest.raises(ValueError, match='3'):
        list(map_ahead(fail_at_three, range(10), 2))
    endless = iter(lambda: 1, 2)
    results = map_ahead(int, endless, 2)
    assert next(results) == 1
    results.close()
    assert list(map_ahead(int, [], 2)) == []
