import base64
import io

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.reporting import figures


def test_png_holds_the_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    address = figures.png(picture)
    head, data = address.split(',')
    assert head == 'data:image/png;base64'
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture
    )


def test_a_thumbnail_keeps_its_shape_and_is_never_enlarged():
    assert figures.thumbnail(np.zeros((100, 300, 3), np.uint8), 60).shape == (20, 60, 3)
    assert figures.thumbnail(np.zeros((9, 8, 3), np.uint8), 60).shape == (9, 8, 3)


def kernels(*colours):
    """Makes a kernel (11, 11, 3, O) of which each map is a pattern times a colour."""
    pattern_HW = np.random.default_rng(0).normal(size=(11, 11))
    return np.stack([pattern_HW[..., None] * np.array(c) for c in colours], -1).astype(np.float32)


@pytest.mark.parametrize(
    ('colour', 'fraction'),
    [((1, 1, 1), 0), ((1, 0, 0), 2 / 3), ((1, -1, 0), 1), ((0, 1, 1), 1 / 3), ((0, 0, 0), 0)],
)
def test_how_colourful_a_filter_is(colour, fraction):
    assert figures.colourfulness(kernels(colour)) == pytest.approx(fraction, abs=1e-6)
    assert figures.colourfulness(100 * kernels(colour)) == pytest.approx(fraction, abs=1e-6)


def test_a_tower_is_as_colourful_as_its_filters_on_average():
    """The magnitude of a filter's weights does not matter."""
    kernel = kernels((1, 1, 1), (1, 1, 1), (1, -1, 0), (1, 0, 0))
    kernel[..., 2] *= 1000
    assert figures.colourfulness(kernel) == pytest.approx((1 + 2 / 3) / 4, abs=1e-6)
    random = np.random.default_rng(0).normal(size=(11, 11, 3, 500))
    assert figures.colourfulness(random) == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize('count', [1, 2, 8, 9, 355, 50_000])
def test_evenly_spaced_numbers_are_distinct_and_in_range(count):
    numbers = figures.evenly_spaced(count, 8)
    assert len(numbers) == min(8, count)
    assert len(set(numbers)) == len(numbers)
    assert 0 <= numbers[0] <= numbers[-1] < count
    gaps = np.diff([-numbers[0] - 1, *numbers, 2 * count - numbers[-1]])  # mirrored at both ends
    assert gaps.max() - gaps.min() <= 3


def test_examples_are_the_confident_mistakes_and_others():
    labels = np.zeros(20, np.int32)
    p = np.tile(np.float32([0.9, 0.1, 0.0]), (20, 1))
    p[3], p[7], p[12] = (0.2, 0.8, 0.0), (0.0, 0.01, 0.99), (0.45, 0.55, 0.0)
    usual, mistakes = figures.examples(p, labels, 4)
    assert mistakes == [7, 3]
    assert len(usual) == 2
    assert not {3, 7} & set(usual)
    usual, mistakes = figures.examples(p, labels, 10)
    assert mistakes == [7, 3, 12]
    assert len(usual) == 7
    assert usual == sorted(usual)
    assert figures.examples(p, labels, 100)[1] == [7, 3, 12]
    assert len(figures.examples(p, labels, 100)[0]) == 17


def test_images_are_of_all_classes_in_turn():
    """Also where one class has most of the images, and the images are sorted by class."""
    labels = np.repeat([2, 5, 7], [100, 1, 3])
    assert labels[figures.over_classes(labels, 3)].tolist() == [2, 5, 7]
    assert labels[figures.over_classes(labels, 5)].tolist() == [2, 5, 7, 2, 7]
    many = figures.over_classes(labels, 8)
    assert labels[many].tolist() == [2, 5, 7, 2, 7, 2, 7, 2]
    of_first = sorted(n for n in many if labels[n] == 2)
    assert np.diff(of_first).min() > 20  # spaced evenly within their class
    assert sorted(figures.over_classes(labels, 1000)) == list(range(104))


def test_with_more_classes_than_images_the_classes_are_evenly_spaced():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 9))
    assert labels[figures.over_classes(labels, 4)].tolist() == [12, 37, 62, 87]


def test_neighbours_are_by_distance_and_not_by_angle():
    """The vectors are far from the origin, and a long one has the direction of a query."""
    vectors = np.float32([[1, 0], [2, 0], [100, 0], [1, 0.5], [1, -3]]) + np.float32(500)
    nearest = figures.neighbours(vectors, [0, 2], 3)
    assert nearest.tolist() == [[3, 1, 4], [1, 0, 3]]
    assert figures.neighbours(vectors, [0], 9).shape == (1, 4)


def test_neighbours_agree_with_the_definition():
    vectors = np.random.default_rng(0).normal(3, 1, (150, 8)).astype(np.float32)
    nearest = figures.neighbours(vectors, range(150), 4)
    for number, near in enumerate(nearest):
        distances = np.linalg.norm(vectors.astype(np.float64) - vectors[number], axis=1)
        distances[number] = np.inf
        assert near.tolist() == np.argsort(distances)[:4].tolist()


COUNTS = np.array([[5, 0, 1], [3, 2, 0], [0, 0, 9]])


def test_confusions_are_counted():
    assert figures.frequent_confusions(COUNTS) == [(1, 0, 3), (0, 2, 1)]
    assert figures.frequent_confusions(COUNTS, 1) == [(1, 0, 3)]
    assert figures.worst_classes(COUNTS) == [(1, 3, 5), (0, 1, 6)]
    assert figures.worst_classes(np.diag([3, 0, 5])) == []
