"""The program of a sweep, with fake and with short runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nets
import runs
import tars

PROGRAM = [sys.executable, '-m', 'alexnet_jax.sweep']

# Each run only writes the files of a run that has ended; its error is the learning rate.
FAKE_SWEEP = """
import json, sys
import jax
from alexnet_jax import sweep
from alexnet_jax.config import command_line
from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.training.workdir import Workdir

def command(study, name, seed):
    folder, config = study.folder(name, seed), study.config(name, seed)
    with Workdir(folder).claim(config, MESH):
        pass
    error = config.learning_rate.initial + seed / 100
    line = {'step': 1, 'epoch': 1.0, 'train/loss': 1.0, 'eval/top1_error': error}
    (folder / 'metrics.jsonl').write_text(json.dumps(line) + '\\n')
    return [sys.executable, '-c', '']

MESH = jax.sharding.Mesh(jax.devices()[:1], ('data',))
Study.command = command
command_line.parse(sys.argv)
sweep.main([])
"""


def fake(folder, *arguments):
    command = [sys.executable, '-c', FAKE_SWEEP, f'--workdir={folder}', *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=nets.ROOT, check=False)
    return process.returncode, process.stdout, process.stderr


def test_a_sweep_is_tabulated_and_extended_by_more_values(tmp_path):
    values = 'config.learning_rate.initial=0.02,0.03'
    code, out, err = fake(tmp_path, '--values', values, '--seeds=2')
    assert (code, err) == (0, '')
    assert 'best: learning_rate.initial=0.02, with a top-1 error of 2.50%' in out
    assert 'is the lowest value that was tried: lower ones may be better' in out
    assert '[4/4] learning_rate.initial=0.03, seed 1' in out
    # 0.01 is the config's own value: differences are from it.
    code, out, err = fake(tmp_path, f'--values={values},0.01,0.005', '--seeds=2')
    assert (code, err) == (0, '')
    assert '[4/4]' in out  # the other four are there
    summary = json.loads((tmp_path / 'sweep.json').read_text())
    assert summary['own'] == 'learning_rate.initial=0.01'
    assert summary['best'] == 'learning_rate.initial=0.005'
    differences = [row['difference'] for row in summary['rows']]
    assert differences == [pytest.approx(0.01), pytest.approx(0.02), None, pytest.approx(-0.005)]
    assert (tmp_path / 'sweep.txt').read_text() in out
    assert '0.005 (best)' in (tmp_path / 'report.html').read_text()
    assert out.splitlines()[-1] == str(tmp_path / 'report.html')
    # The command in sweep.json is the same sweep.
    *_, flag, seeds = summary['command'].split()
    assert flag == '--values=learning_rate.initial=0.02,0.03,0.01,0.005'
    assert seeds == '--seeds=2'


def test_a_folder_with_runs_of_other_settings_is_refused(tmp_path):
    arguments = ['--values=learning_rate.initial=0.02,0.03']
    assert fake(tmp_path, *arguments)[0] == 0
    code, _, err = fake(tmp_path, *arguments, '--config.optimizer.epochs=3')
    assert (code, len(err.splitlines())) == (2, 1)
    assert 'holds a run with optimizer.epochs=24.0 (now 3.0): choose another --workdir' in err


def test_settings_that_are_fitted_to_the_images_follow_the_values(tmp_path):
    """The study has the settings of its runs, and says what else differs between the rows."""
    pets = tars.class_folders(tmp_path / 'pets', images=30)
    arguments = ['--config=own_images', f'--config.dataset.folder={pets}']
    code, out, err = fake(tmp_path / 'x', *arguments, '--values=optimizer.batch_size=16,32')
    assert (code, err) == (0, '')
    (note,) = (line for line in out.splitlines() if line.startswith('fitted to the images and'))
    assert 'learning_rate.initial' in note
    assert 'optimizer.batch_size' not in note
    assert out.count('2 classes: cat, dog') == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'name a setting and its values: --values config.SETTING=VALUE,VALUE'),
        (['--values=lr=1,2'], 'unknown setting lr: did you mean learning_rate.initial?'),
        (['--values=optimizer.momentum=0.9,2'], 'optimizer.momentum=2.0 must be'),
        (
            ['--values=optimizer.momentum=0.8,0.9', '--config.optimizer.momentum=0.5'],
            'optimizer.momentum is in --values and has one value, too',
        ),
        (['--values=optimizer.momentum=0.8,0.9', '--workdir=/proc/x'], 'cannot write to /proc'),
        (['--values=optimizer.momentum=0.8,0.9', '--parallel=999'], 'is too many for'),
    ],
)
def test_mistakes_are_one_line_before_any_work(tmp_path, arguments, message):
    code, out, err = runs.run([*PROGRAM, f'--workdir={tmp_path}/new', *arguments])
    assert (code, out, len(err.splitlines())) == (2, '', 1)
    assert message in err
    assert not (tmp_path / 'new').exists()


@pytest.mark.slow
def test_as_a_user_runs_it(tmp_path, data_dir):
    """One of the learning rates is so high that the loss is no number."""
    _, *settings = runs.command(tmp_path, data_dir, optimizer__epochs=0.4)[3:]
    values = '--values=learning_rate.initial=0.01,1e6'
    code, out, err = runs.run([*PROGRAM, *settings, f'--workdir={tmp_path}', values])
    assert code == 0, err
    first, second = json.loads((tmp_path / 'sweep.json').read_text())['rows']
    (workdir,) = first['workdirs']
    last = runs.metrics(Path(workdir))[-1]
    assert first['errors'] == [last['eval_5_views/top1_error']]
    assert (second['errors'], list(second['diverged'])) == ([], ['0'])
    assert 'diverged, the loss is' in out
