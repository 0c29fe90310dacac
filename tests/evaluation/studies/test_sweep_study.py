"""The rows of a sweep, its table, and what it says about the best value."""

import json

import pytest

import nets
from alexnet_jax.config import loading
from alexnet_jax.config.settings import catalogue
from alexnet_jax.evaluation.studies import sweep_study
from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.evaluation.studies.sweep_study import name_values, sweep_rows
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir

RATES = [0.003, 0.01, 0.03]


def raw_with(values, _):
    raw = nets.load('digits')
    loading.override(raw, values)
    return raw


def rows_of(**lists):
    return sweep_rows({name.replace('__', '.'): x for name, x in lists.items()}, raw_with)


class Sweep:
    """A sweep of the learning rate, with the results of its runs."""

    def __init__(self, folder, errors):
        self.lists = {'learning_rate.initial': RATES}
        rows = sweep_rows(self.lists, raw_with)
        self.rows = {
            row.name: {'learning_rate.initial': x} for row, x in zip(rows, RATES, strict=True)
        }
        self.study = Study(rows, max(map(len, errors)), folder)
        for name, of_seeds in zip(self.rows, errors, strict=True):
            for seed, error in enumerate(of_seeds):
                workdir = self.study.folder(name, seed)
                with Workdir(workdir).claim(self.study.config(name, seed), nets.mesh_of(1)):
                    pass
                result = {'seconds': 60.0, 'centre': error, 'views': error}
                if error is None:
                    result = {'seconds': 9.0, 'diverged': 'the loss is nan at step 7'}
                (workdir / 'result.json').write_text(json.dumps(result))

    def table(self, own=None):
        return sweep_study.sweep_table(self.study, self.rows, own)

    def conclusion(self):
        return sweep_study.conclusion(self.study, self.lists, self.rows)


def test_all_combinations_are_rows_whose_flags_give_their_settings():
    rows = rows_of(learning_rate__initial=[0.1, 1e-05], model__conv3__then=[('relu',), ()])
    assert len({row.name for row in rows}) == 4
    assert rows[1].config.learning_rate.initial == 0.1
    assert rows[1].config.model.conv3.then == ()
    for row in rows:
        pairs = [flag.removeprefix('--config.').partition('=') for flag in row.flags]
        parsed = {name: catalogue()[name].parse(text) for name, _, text in pairs}
        assert parsed == {
            'learning_rate.initial': row.config.learning_rate.initial,
            'model.conv3.then': row.config.model.conv3.then,
        }


def test_names_of_folders_are_safe_and_distinct():
    """No commas, which separate folders in flags, no patterns and no long names."""
    texts = ['a/b', 'a_b', 'a,b', 'train[:5%]', 'x' * 300, 'x' * 299, '']
    rows = rows_of(
        learning_rate__steps__epochs=[(14.0, 20.0), (14.0,), ()], learning_rate__schedule=['steps']
    ) + rows_of(dataset__train_split=[text or 'train' for text in texts])
    names = [row.folder for row in rows]
    assert names[0] == 'learning_rate.steps.epochs=14.0+20.0-learning_rate.schedule=steps'
    assert 'dataset.train_split=a_b' in names
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) < 200
        assert not set(name) & set(' ,/[]*?()%\'"')


@pytest.mark.parametrize(
    ('lists', 'message'),
    [
        ({'optimizer__epochs': [1.0]}, 'a sweep compares at least two values'),
        ({'optimizer__momentum': [0.9, 1.5]}, r'optimizer\.momentum=1\.5 must be'),
        ({'augmentation__crop': [64, 999]}, 'is larger than dataset.image_size'),
        ({'model__conv1__kernel': [11, 99]}, 'conv1'),
        ({'learning_rate__fixed__levels': [2, 3]}, 'this config does not use it'),
        ({'optimizer__epochs': [*range(1, 50)], 'optimizer__batch_size': [*range(1, 50)]}, '2,401'),
    ],
)
def test_values_that_do_not_fit_are_refused_before_anything_starts(lists, message):
    with pytest.raises(UserError, match=message):
        rows_of(**lists)


def test_differences_are_from_the_own_value_or_from_the_best(tmp_path):
    sweep = Sweep(tmp_path, [[0.02, 0.04], [0.02, 0.021], [0.5, 0.7]])
    first, second, third = sweep.table(own='learning_rate.initial=0.003')
    assert first['difference'] is None
    assert second['difference'] == pytest.approx(0.0205 - 0.03)
    assert (third['lowest'], third['highest'], third['seconds']) == (0.5, 0.7, 60)
    first, second, third = sweep.table()
    assert (first['difference'], second['difference']) == (pytest.approx(0.0095), None)
    text = sweep_study.sweep_text([first, second, third])
    assert text.splitlines()[0].split()[:2] == ['learning_rate.initial', 'top-1']
    assert '50.00% to 70.00%' in text
    assert 'noise' in text.splitlines()[1]


def test_with_one_seed_there_is_no_column_of_spread(tmp_path):
    text = sweep_study.sweep_text(Sweep(tmp_path, [[0.3], [0.1], [0.2]]).table())
    assert 'spread' not in text
    assert text.splitlines()[1].split() == ['0.003', '30.00%', '+20.00', '60']
    assert text.splitlines()[2].split() == ['0.01', '10.00%', '60']


@pytest.mark.parametrize(
    ('errors', 'lines'),
    [
        ([[0.3], [0.1], [0.2]], ['best: learning_rate.initial=0.01, with a top-1 error of 10.00%']),
        (
            [[0.1], [0.2], [None]],
            [
                'best: learning_rate.initial=0.003, with a top-1 error of 10.00%',
                'learning_rate.initial=0.003 is the lowest value that was tried: lower ones may be '
                'better',
            ],
        ),
        (
            [[0.3], [0.1], [0.1]],
            [
                'best: learning_rate.initial=0.01, with a top-1 error of 10.00%',
                'with the same error: learning_rate.initial=0.03',
            ],
        ),
        # The best mean is that of a row of which a run has diverged.
        (
            [[0.3, 0.3], [0.2, 0.2], [0.1, None]],
            ['best: learning_rate.initial=0.01, with a top-1 error of 20.00%'],
        ),
        ([[None], [None], [None]], ['every value has diverged: try others, such as lower rates']),
    ],
)
def test_the_best_value_and_the_ends_of_the_range(tmp_path, errors, lines):
    shown = Sweep(tmp_path, errors).conclusion()
    assert shown.replace('lower learning rates', 'lower rates').splitlines() == lines


def test_before_all_runs_have_ended_no_end_of_a_range_is_named(tmp_path):
    sweep = Sweep(tmp_path, [[0.1], [0.2], [0.3]])
    for name, lines in (
        ('0.03', 'best so far: learning_rate.initial=0.003, with'),
        ('0.', 'no run'),
    ):
        for file in tmp_path.glob(f'*={name}*/result.json'):
            file.unlink()
        assert sweep.conclusion().startswith(lines)


def test_a_row_that_diverged_has_no_error_and_no_difference(tmp_path):
    sweep = Sweep(tmp_path, [[0.3], [0.1], [None]])
    row = sweep.table()[2]
    assert (row['mean'], row['difference'], row['lowest']) == (None, None, None)
    assert row['diverged'] == {0: 'the loss is nan at step 7'}
    assert sweep_study.sweep_text([row]).splitlines()[1].split() == ['0.03', 'diverged', '9']


def test_text_and_tuples_are_at_no_end_of_a_range():
    name = name_values({'learning_rate.schedule': 'steps'})
    assert name == 'learning_rate.schedule=steps'
    assert sweep_study._end('learning_rate.schedule', ['plateau', 'steps'], 'steps') == ''
    assert sweep_study._end('augmentation.mirror', [True, False], True) == ''
