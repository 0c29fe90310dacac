import csv

import numpy as np
import pytest

import nets
from alexnet_jax.evaluation import error_rates, prediction_files
from alexnet_jax.evaluation.trained_net import LabelledImages


@pytest.fixture
def truth():
    labels = np.random.default_rng(0).integers(7, size=90).astype(np.int32)
    names = [f'{i}.jpg' for i in range(89)] + ['caf\udce9.jpg']  # a byte that is not UTF-8
    return LabelledImages([f'class {k}' for k in range(8)], names, labels)  # class 7 has no image


@pytest.fixture
def p():
    p = np.random.default_rng(1).random((90, 8)).astype(np.float32)
    p[:20] = np.round(p[:20], 1)  # with ties
    return p / p.sum(axis=1, keepdims=True)


def read(path):
    with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
        return list(csv.DictReader(file))


def test_the_mean_of_the_errors_of_the_classes_is_the_error(tmp_path, truth, p):
    """The mean is weighted by the images; a class without images has no error."""
    prediction_files.write(tmp_path, truth, nets.log(p), {})
    rows = read(tmp_path / 'per_class.csv')
    assert [row['class'] for row in rows] == truth.classes
    assert rows[7]['images'] == '0'
    assert rows[7]['top-1 error'] == rows[7]['most frequent mistake'] == ''
    images = np.array([int(row['images']) for row in rows[:7]])
    total = error_rates.errors(nets.log(p), truth.labels)
    for name, error in (('top-1 error', total.top1), ('top-5 error', total.top5)):
        own = np.array([float(row[name]) for row in rows[:7]])
        assert (images * own).sum() / 90 == pytest.approx(error, abs=1e-5)


def test_the_most_frequent_mistake_is_not_the_class_itself(tmp_path, truth):
    p = np.full((90, 8), 0.01, np.float32)
    p[np.arange(90), truth.labels] = 0.9
    wrong = np.flatnonzero(truth.labels == 3)[:3]
    p[wrong[0], 5] = p[wrong[1], 6] = p[wrong[2], 6] = 1
    prediction_files.write(tmp_path, truth, nets.log(p), {})
    row = read(tmp_path / 'per_class.csv')[3]
    assert (row['most frequent mistake'], row['how often']) == ('class 6', '2')
    assert read(tmp_path / 'per_class.csv')[2]['most frequent mistake'] == ''


def test_predictions_are_the_five_most_probable(tmp_path, truth, p):
    prediction_files.write(tmp_path, truth, nets.log(p), {})
    rows = read(tmp_path / 'predictions.csv')
    assert [row['name'] for row in rows] == truth.names
    for index in (0, 50, 89):
        row = rows[index]
        assert row['index'] == str(index)
        assert row['class'] == truth.classes[truth.labels[index]]
        probabilities = [float(row[f'probability {rank}']) for rank in range(1, 6)]
        np.testing.assert_allclose(probabilities, np.sort(p[index])[::-1][:5], rtol=1e-5)
        answers = [row[f'answer {rank}'] for rank in range(1, 6)]
        assert len(set(answers)) == 5
        for answer, probability in zip(answers, probabilities, strict=True):
            assert p[index, truth.classes.index(answer)] == pytest.approx(probability, rel=1e-5)


def test_outputs_that_are_nan_are_mistakes(tmp_path, truth, p):
    log_p = nets.log(p)
    log_p[truth.labels == 0] = np.nan
    prediction_files.write(tmp_path, truth, log_p, {})
    row = read(tmp_path / 'per_class.csv')[0]
    assert row['top-1 error'] == row['top-5 error'] == '1'
    assert (row['most frequent mistake'], row['how often']) == ('not a number', row['images'])


def test_fewer_classes_than_five(tmp_path):
    truth = LabelledImages(['cat', 'dog'], ['1', '2'], np.int32([0, 1]))
    prediction_files.write(tmp_path, truth, nets.log([[0.5, 0.5], [0.1, 0.9]]), {})
    rows = read(tmp_path / 'predictions.csv')
    assert rows[0]['answer 1'] == 'cat'  # the first of equal ones
    assert 'answer 3' not in rows[0]


def test_no_name_is_a_formula_in_a_spreadsheet(tmp_path):
    """Text alone is changed: it gets an apostrophe, and numbers stay numbers."""
    classes = ['=HYPERLINK("http://x")', '-a', '+1', '@sum', '\tx', 'cat']
    truth = LabelledImages(classes, [f'={k}.jpg' for k in range(6)], np.arange(6, dtype=np.int32))
    prediction_files.write(tmp_path, truth, np.eye(6, dtype=np.float32)[::-1], {})
    safe = [f"'{classes[0]}", "'-a", '+1', "'@sum", "'\tx", 'cat']
    assert [row['class'] for row in read(tmp_path / 'per_class.csv')] == safe
    rows = read(tmp_path / 'predictions.csv')
    assert [row['class'] for row in rows] == [row['answer 1'] for row in rows][::-1] == safe
    assert rows[0]['name'] == "'=0.jpg"
    for path in tmp_path.glob('*.csv'):
        with path.open(newline='', encoding='utf-8') as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [cell for cell in cells if cell.startswith(('=', '@', '-', '\t'))] == []
    assert 'class \\ answer' in (tmp_path / 'confusion.csv').read_text()


def test_arrays_and_all_files_are_written(tmp_path, truth, p):
    paths = prediction_files.write(tmp_path, truth, nets.log(p), {'tuned_on': np.arange(3)})
    assert sorted(paths) == sorted(tmp_path.iterdir())
    with np.load(tmp_path / 'probabilities.npz') as file:
        np.testing.assert_allclose(file['probabilities'], p, rtol=1e-5)
        np.testing.assert_array_equal(file['labels'], truth.labels)
        assert file['tuned_on'].tolist() == [0, 1, 2]
