"""A range test as a user makes it."""

import hashlib
import re
import shutil

import pytest

import runs


def contents(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.mark.slow
def test_the_run_is_left_as_it_is(tmp_path, data_dir, trained_run):
    """It begins with the newest checkpoint, writes two files, and prints a command."""
    workdir = tmp_path / 'run'
    shutil.copytree(trained_run, workdir)
    before = contents(workdir)
    command = runs.command(workdir, data_dir, '--find_learning_rate', '--range_steps=60')
    code, out, err = runs.run([*command, '--config.learning_rate.initial=0.5'])
    assert code == 0, err
    assert f'beginning with the checkpoint of step 23 in {workdir}\n' in out
    assert re.search(r'^highest stable rate  0\.\d+; ', out, re.MULTILINE)
    assert f'plot                 {workdir}/learning_rate.html\n' in out
    use = re.search(r'^to use it +python (.*)$', out, re.MULTILINE)
    assert not use or '--extend --config.learning_rate.initial=' in use[1]
    after = contents(workdir)
    assert {str(x) for x in after.keys() - before.keys()} == {
        'learning_rate.html',
        'learning_rate.csv',
    }
    assert before == {name: after[name] for name in before}
    code, _, err = runs.run([*command, '--config.seed=1'])
    assert (code, len(err.splitlines())) == (2, 1)
    assert 'belongs to a run with seed=0 (now 1)' in err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--find_learning_rate', '--dry_run'], 'exclude each other'),
        (['--range=1e-4,1'], 'belong to --find_learning_rate'),
        (['--find_learning_rate', '--range=1'], 'give two positive learning rates'),
        (
            ['--find_learning_rate', '--processes=2', '--process=0', '--coordinator=localhost:1'],
            'in one process',
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, data_dir, arguments, message):
    code, _, err = runs.run(runs.command(tmp_path / 'w', data_dir, *arguments))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert message in err
    assert not (tmp_path / 'w').exists()
