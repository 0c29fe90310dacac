import csv
import io

import numpy as np
import pytest

from alexnet_jax.evaluation import confusion


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    p = rng.random((60, 4)).astype(np.float32)
    return p, rng.integers(3, size=60).astype(np.int32)  # class 3 has no image


def test_rows_are_classes_and_the_diagonal_counts_right_answers(answers):
    p, labels = answers
    counts = confusion.matrix(p, labels)
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(labels, minlength=4))
    np.testing.assert_array_equal(counts.sum(axis=0), np.bincount(p.argmax(axis=1), minlength=4))
    assert np.trace(counts) == (p.argmax(axis=1) == labels).sum()
    one = confusion.matrix(np.float32([[0.1, 0.7, 0.2]]), np.int32([2]))
    assert one.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_outputs_that_are_nan_are_no_answer_and_wrong(tmp_path):
    """They are counted in a column of their own: class 0 gets no credit for them."""
    scores = np.float32([[0.0, -9.0], [np.nan, np.nan], [-9.0, 0.0], [np.nan, -1.0]])
    labels = np.int32([0, 0, 1, 0])
    counts = confusion.matrix(scores, labels)
    assert counts.tolist() == [[1, 0, 2], [0, 1, 0]]
    assert confusion.mistakes(counts).tolist() == [[0, 0, 2], [0, 0, 0]]
    assert confusion.answers(scores).tolist() == [0, -1, 1, -1]
    table, image = confusion.write(tmp_path, counts, ['cat', 'dog'])
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows == [
        ['class \\ answer', 'cat', 'dog', 'not a number'],
        ['cat', '1', '0', '2'],
        ['dog', '0', '1', '0'],
    ]
    assert image.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('label', [-1, 2])
def test_a_label_of_no_class_is_refused(label):
    with pytest.raises(ValueError, match=f'label {label} is not one of 2 classes'):
        confusion.matrix(np.zeros((1, 2), np.float32), np.int32([label]))


def test_the_table_can_be_read_back(tmp_path, answers):
    counts, names = confusion.matrix(*answers), ['a,b', 'ä', 'c"', 'caf\udce9']
    table, image = confusion.write(tmp_path, counts, names)
    rows = list(csv.reader(io.StringIO(table.read_text('utf-8', 'surrogateescape'), newline='')))
    assert rows[0][1:] == [row[0] for row in rows[1:]] == names
    np.testing.assert_array_equal(np.array([row[1:] for row in rows[1:]], int), counts)
    assert image.read_bytes().startswith(b'\x89PNG')
    assert sorted(tmp_path.iterdir()) == sorted([table, image])


def test_many_classes_are_written_as_arrays(tmp_path):
    counts = np.diag(np.arange(101))
    table, _ = confusion.write(tmp_path, counts, [str(i) for i in range(101)])
    assert table.name == 'confusion.npz'
    with np.load(table) as file:
        np.testing.assert_array_equal(file['counts'], counts)
        assert file['classes'][100] == '100'


def test_right_answers_are_blue_wrong_ones_red_and_zeros_white():
    """50 classes are too many for names: a cell has 20 pixels."""
    counts = np.diag(np.full(50, 3))
    counts[7, 30] = 1
    pixels = np.asarray(confusion.picture(counts, ['x'] * 50))
    assert pixels.shape == (1000, 1000, 3)
    assert tuple(pixels[10, 10]) == confusion.RIGHT
    red, green, blue = (int(x) for x in pixels[150, 610])
    assert red > blue == green
    assert tuple(pixels[10, 610]) == (255, 255, 255)


def test_few_classes_are_named():
    """The cells are those of the plain picture behind a margin, which holds the names."""
    counts = np.array([[3, 0], [0, 4]])
    pixels = np.asarray(confusion.picture(counts, ['a cat', 'a dog']))
    margin = len(pixels) - 57
    assert margin > 20
    assert pixels[:margin, margin:].min() < 100  # names above
    assert pixels[margin:, : margin - 2].min() < 100  # and to the left
    assert tuple(pixels[margin + 2, margin + 2]) == confusion.RIGHT
    assert tuple(pixels[margin + 40, margin + 2]) == (255, 255, 255)


def test_cells_with_a_larger_fraction_are_darker():
    cells = confusion.cells(np.array([[5, 0, 1], [3, 2, 0], [0, 0, 9]]))
    assert cells[0, 1].tolist() == [255, 255, 255]
    red, _, blue = cells[1, 0].tolist()
    assert red > blue  # a mistake
    red, _, blue = cells[2, 2].tolist()
    assert blue > red
    assert cells[2, 2].sum() < cells[1, 1].sum()  # the whole row is darker than a part of it
