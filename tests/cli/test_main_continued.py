"""Runs that are continued: with more epochs in place, or from the state of another run."""

import json
import shutil
from pathlib import Path

import pytest

import runs
from alexnet_jax import main as program
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir
from endurance.comparison import curve_differences


@pytest.mark.slow
def test_a_finished_run_is_extended_in_place(tmp_path, data_dir, trained_run):
    """The refusal names the flag; with it the run continues, and its curves have all points."""
    workdir = tmp_path / 'run'
    shutil.copytree(trained_run, workdir)
    longer = runs.command(workdir, data_dir, **{'optimizer.epochs': 2.5})
    code, _, err = runs.run(longer)
    assert code == 2
    assert 'add --extend' in err
    code, out, err = runs.run([*longer, '--extend'])
    assert code == 0, err
    assert 'resuming' in out
    step, _ = runs.final(workdir)
    assert step == 28
    changes = json.loads((workdir / 'config.json').read_text())['changes']
    assert [change['settings'] for change in changes] == [{'optimizer.epochs': [2.0, 2.5]}]
    assert [line['step'] for line in runs.metrics(workdir) if 'eval/loss' in line][-1] == 28
    assert curve_differences(workdir) == []


@pytest.mark.slow
def test_a_run_starts_from_the_state_of_another(tmp_path, data_dir, trained_run):
    workdir = tmp_path / 'run'
    command = runs.command(
        workdir, data_dir, f'--from={trained_run}', **{'optimizer.epochs': 2.5, 'seed': 1}
    )
    code, out, err = runs.run(command)
    assert code == 0, err
    assert 'after step 23 of 28' in out
    assert runs.final(workdir)[0] == 28
    record = json.loads((workdir / 'config.json').read_text())
    assert record['from'] == {'workdir': str(trained_run.resolve()), 'step': 23}


def test_a_source_that_does_not_exist_is_refused_and_nothing_is_written(tmp_path, trained_run):
    workdir = Workdir(tmp_path / 'run')
    with pytest.raises(UserError, match=r'has no checkpoint of step 7: it has [\d, ]*23$'):
        program._describe_source(workdir, (trained_run, 7))
    with pytest.raises(UserError, match='no checkpoint yet'):
        program._describe_source(workdir, (tmp_path / 'nowhere', None))
    with pytest.raises(UserError, match='is the --workdir itself'):
        program._describe_source(workdir, (tmp_path / 'run', None))
    assert not workdir.path.exists()


def test_a_source_is_a_folder_and_a_step():
    assert program._parse_source('runs/a:36') == (Path('runs/a'), 36)
    assert program._parse_source('runs/a') == (Path('runs/a'), None)
    assert program._parse_source('runs/a:b') == (Path('runs/a:b'), None)
    with pytest.raises(UserError, match='is an address'):
        program._parse_source('gs://bucket/run')
