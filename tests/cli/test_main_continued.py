"""Runs that are continued: with more epochs in place, or from the state of another run."""

import json
import shutil
from pathlib import Path

import pytest

import nets
import runs
from alexnet_jax import main as program
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir
from endurance.comparison import curve_differences

CONFIG, MESH = nets.small(model__width=0.03125), nets.mesh_of(1)


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
        program._describe_source(CONFIG, MESH, workdir, (trained_run, 7))
    with pytest.raises(UserError, match='no checkpoint yet'):
        program._describe_source(CONFIG, MESH, workdir, (tmp_path / 'nowhere', None))
    with pytest.raises(UserError, match='is the --workdir itself'):
        program._describe_source(CONFIG, MESH, workdir, (tmp_path / 'run', None))
    assert not workdir.path.exists()


def test_a_source_whose_newest_checkpoint_is_damaged_gives_the_one_before(tmp_path, capsys):
    other = runs.untrained(tmp_path / 'other', CONFIG, step=3)
    runs.untrained(other, CONFIG, step=5)
    (other / 'checkpoints' / '5' / 'digests' / 'metadata').write_text('{}')
    for source in ((other, None), (other, 3)):
        origin = program._describe_source(CONFIG, MESH, Workdir(tmp_path / 'run'), source)
        assert origin == {'workdir': str(other), 'step': 3}
    assert 'checkpoint 3 is used' in capsys.readouterr().err
    with pytest.raises(UserError, match=r'checkpoint 5 .* is damaged'):
        program._describe_source(CONFIG, MESH, Workdir(tmp_path / 'run'), (other, 5))
    wider = nets.small(model__width=0.0625)
    with pytest.raises(UserError, match='of another net'):
        program._describe_source(wider, MESH, Workdir(tmp_path / 'run'), (other, 3))


def test_a_refused_number_of_epochs_is_not_recorded(tmp_path, data_dir):
    """Otherwise the next command would have to repeat the mistake or be refused, too."""
    overrides = {'dataset__data_dir': str(data_dir), 'model__width': 0.03125}
    config = nets.small(**overrides, optimizer__batch_size=128)
    done = runs.untrained(tmp_path / 'done', config, step=30)
    before = (done / 'config.json').read_bytes()
    short = nets.small(**overrides, optimizer__batch_size=128, optimizer__epochs=2.0)
    with StopSignal() as stop:
        for workdir, extend, source in (
            (done, True, None),
            (tmp_path / 'new', False, (done, None)),
        ):
            with pytest.raises(UserError, match=r'done 30 steps, .* ask for 23: set .*2\.66'):
                program._train(short, MESH, Workdir(workdir), stop, extend, source, None)
    assert (done / 'config.json').read_bytes() == before
    assert not (tmp_path / 'new').exists()


def test_a_source_is_a_folder_and_a_step():
    assert program._parse_source('runs/a:36') == (Path('runs/a'), 36)
    assert program._parse_source('runs/a') == (Path('runs/a'), None)
    assert program._parse_source('runs/a:b') == (Path('runs/a:b'), None)
    with pytest.raises(UserError, match='is an address'):
        program._parse_source('gs://bucket/run')
