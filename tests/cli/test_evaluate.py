"""The program that evaluates trained nets, on runs as a user makes them."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pytest

import runs
from alexnet_jax.evaluation import run_evaluation

# With these settings a run of two epochs learns about half of the digits.
LEARNS = {
    'model__towers': 1,
    'model__width': 0.125,
    'optimizer__batch_size': 32,
    'learning_rate__initial': 0.02,
    'evaluation__every_epochs': 2.0,
}


def evaluate(*arguments):
    return runs.run([sys.executable, '-m', 'alexnet_jax.evaluate', *arguments])


@pytest.fixture(scope='module')
def trained(tmp_path_factory, data_dir, trained_run):
    """The workdirs of two nets that differ in their size, their recipe and their seed."""
    workdir = tmp_path_factory.mktemp('runs') / 'a'
    code, _, err = runs.run(runs.command(workdir, data_dir, seed=1, **LEARNS))
    assert code == 0, err
    return [workdir, shutil.copytree(trained_run, workdir.parent / 'b')]


@pytest.fixture(scope='module')
def both(trained):
    """The folder of their evaluation, its summary, and what the program printed."""
    code, out, err = evaluate(f'--workdir={trained[0]},{trained[1]}', '--tune_weights')
    assert code == 0, err
    folder = trained[0] / 'evaluation_of_2'
    return folder, json.loads((folder / 'summary.json').read_text()), out


def test_errors_are_those_at_the_end_of_the_run(trained, both):
    """They are in the last line of the metrics; the checkpoint is the same."""
    _, summary, out = both
    assert '355 images' in out
    assert 0.1 < summary['results'][1]['top1_error'] < 0.8
    for i, workdir in enumerate(trained):
        last = runs.metrics(workdir)[-1]
        centre, views = summary['results'][2 * i : 2 * i + 2]
        assert centre['net'] == views['net'] == str(workdir)
        assert centre['step'] == last['step'] == (90, 23)[i]
        for top in ('top1_error', 'top5_error'):
            assert centre[top] == pytest.approx(last[f'eval/{top}'], abs=1e-6)
            assert views[top] == pytest.approx(last[f'eval_5_views/{top}'], abs=1e-6)
        assert centre['loss'] == pytest.approx(last['eval/loss'], rel=1e-5)
        line = re.search(rf'{workdir}, mean of 5 views +{last["step"]} +([\d.]+)%', out)
        assert float(line[1]) == pytest.approx(100 * views['top1_error'], abs=0.006)


def test_one_net_alone_and_two_in_any_order(trained, both, tmp_path):
    """A net has the same outputs alone and in an ensemble; the order of the nets is irrelevant."""
    folder, _, _ = both
    p = {}
    for name, workdirs in (('a', trained[:1]), ('b', trained[1:]), ('ba', trained[::-1])):
        run_evaluation.evaluate_runs(workdirs, {}, tmp_path / name, tune=False)
        with np.load(tmp_path / name / 'probabilities.npz') as file:
            p[name] = file['probabilities']
    with np.load(folder / 'probabilities.npz') as file:
        np.testing.assert_allclose(file['probabilities'], (p['a'] + p['b']) / 2, rtol=1e-5)
        np.testing.assert_allclose(file['probabilities'], p['ba'], rtol=1e-5)
    assert np.abs(p['a'] - p['b']).max() > 1e-3


def test_files_agree_with_each_other(both):
    folder, summary, out = both
    with np.load(folder / 'probabilities.npz') as file:
        p, labels = file['probabilities'], file['labels']
    with (folder / 'confusion.csv').open(newline='') as file:
        counts = np.array([row[1:] for row in csv.reader(file)][1:], int)
    assert counts.sum() == 355
    mean = summary['results'][-1]
    assert np.trace(counts) / 355 == pytest.approx(1 - mean['top1_error'], abs=1e-6)
    assert (p.argmax(axis=1) != labels).mean() == pytest.approx(mean['top1_error'], abs=1e-6)
    for path in folder.iterdir():
        assert path.name in out
    assert f'written to {folder}' in out


def test_weights_are_evaluated_on_images_that_were_not_used_for_tuning(both):
    _, summary, out = both
    assert 'weights tuned on 178 images' in out
    assert '177 images' in out
    equal, tuned = summary['tuned']['results']
    assert equal['images'] == tuned['images'] == 177
    assert len(summary['tuned']['weights']) == 2


def test_a_folder_may_have_a_comma_in_its_name(tmp_path):
    """Commas separate folders, unless the whole is one."""
    (tmp_path / 'a,b').mkdir()
    code, _, err = evaluate(f'--workdir={tmp_path}/a,b')
    assert (code, 'a,b is not the workdir of a run' in err) == (2, True)


def test_mistakes_are_one_line(tmp_path):
    for arguments, message in (
        ([], 'no run is named: --workdir=DIR'),
        ([f'--workdir={tmp_path}'], f'{tmp_path} is not the workdir of a run'),
        (['--workdir=a', '--tune_weights'], '--tune_weights needs several nets'),
        (['--workdri=a'], 'Did you mean: workdir'),
        (['--workdir=' + 'a' * 300], 'File name too long'),
        (['--workdir=gs://bucket/run'], '--workdir=gs://bucket/run'),
        ([f'--workdir={tmp_path}', '--data_dir=/no/such'], '--data_dir=/no/such is not a folder'),
        ([f'--workdir={tmp_path}', '--data_dir='], '--data_dir'),
        ([f'--workdir={tmp_path}', '--split='], '--split= is empty: name a split'),
        ([f'--workdir={tmp_path}', '--checkpoint=last'], '--checkpoint=last must be newest, best'),
        ([f'--workdir={tmp_path}', '--checkpoint=\u0663'], 'must be newest, best'),
    ):
        code, _, err = evaluate(*arguments)
        assert code == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1, err
