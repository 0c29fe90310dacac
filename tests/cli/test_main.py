"""Complete runs and mistakes, as a user makes them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import nets
import runs
import tars
from alexnet_jax.__main__ import programs
from alexnet_jax.config.durations import durations
from alexnet_jax.config.loading import load_config
from alexnet_jax.data import sources, synthetic
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import divergence
from alexnet_jax.training.workdir import Workdir


@pytest.mark.slow
def test_the_main_job(tmp_path, data_dir):
    """configs/digits.py as it is: at most 2.5 % top-1 error, and the files of a run."""
    workdir = tmp_path / 'digits'
    code, out, err = runs.run(
        [
            sys.executable,
            '-m',
            'alexnet_jax.main',
            f'--workdir={workdir}',
            f'--config.dataset.data_dir={data_dir}',
        ],
        optimized=True,
    )
    assert code == 0, err
    assert '2 towers, 1 on each of 2 devices (cpu); float32\n' in out
    table = re.search(
        r'centre crop +([\d.]+)% +([\d.]+)%\nmean of 5 views +([\d.]+)% +([\d.]+)%', out
    )
    assert table, out
    top1, top5, views1, views5 = map(float, table.groups())
    assert top1 <= 2.5
    assert views1 <= 2.5
    assert top5 <= 0.6
    assert views5 <= 0.6
    assert '355 test images' in out
    assert '1,279,082 parameters' in out
    assert f'tensorboard --logdir={workdir}' in out
    assert re.search(r'epoch .*step .*loss .*error .*rate .*images/s .*left', out)
    events = EventAccumulator(str(workdir)).Reload()
    assert {'train/loss', 'eval/top1_error', 'eval/top5_error'} <= set(events.Tags()['scalars'])
    assert set(events.Tags()['images']) == {'conv1', 'training_images'}
    record = json.loads((workdir / 'config.json').read_text())
    assert record['config']['optimizer']['momentum'] == 0.9
    assert record['starts'][0]['mesh'] == {'data': 1, 'tower': 2}
    assert {'jax', 'flax', 'optax'} <= record['starts'][0]['versions'].keys()
    last = json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])
    assert last['eval_5_views/top1_error'] * 100 == pytest.approx(views1, abs=0.01)


def test_dry_run(tmp_path):
    """Settings and net are shown without data or compilation, and nothing is written."""
    code, out, err = runs.run(
        runs.command(
            tmp_path / 'w',
            '/nowhere',
            '--dry_run',
            '--deterministic',
            '--config=ilsvrc2012',
            model__width=1.0,
        )
    )
    assert code == 0, err
    assert out.startswith('2 towers, 1 on each of 2 devices (cpu); float32\n')
    assert 'optimizer.momentum = 0.9' in out
    assert 'deterministic = true' in out
    assert re.search(r'conv3 +13 +192 +885,120 +86,528', out)
    assert re.search(r'all +60,965,224', out)
    assert re.search(r'tower 0: .*0\ntower 1: .*1', out)
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--config.optimizer.momentun=0.9'], 'did you mean optimizer.momentum?'),
        (['--wrokdir=x', '--skip_bad=1'], 'Did you mean: workdir'),
        (['--skip_bad=-1'], '-1 is not a non-negative integer'),
        (['--workdir='], '--workdir'),
        (['--workdir=gs://bucket/run'], '--workdir=gs://bucket/run'),
        (['--workdir=~nobody-has-this-name/x'], '--workdir=~nobody-has-this-name/x'),
        (['--config.dataset.data_dir=hdfs://host'], 'dataset.data_dir=hdfs://host'),
    ],
)
def test_mistakes_are_one_line(tmp_path, data_dir, arguments, message):
    """Mistakes in flags and settings are in tests/config, those in the data below."""
    command = [
        a
        for a in runs.command(tmp_path / 'w', data_dir)
        if not a.startswith(tuple(x.split('=')[0] + '=' for x in arguments))
    ]
    code, _out, err = runs.run([*command, *arguments])
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / 'w' / 'config.json').exists()


@pytest.mark.parametrize(
    ('name', 'overrides', 'message'),
    [
        ('ilsvrc2012', {}, r'ILSVRC2012_img_train\.tar'),
        ('digits', {'dataset.train_split': 'train[:1%]'}, r'fewer than optimizer\.batch_size'),
        ('digits', {'dataset.folder': '/no/such'}, r'dataset\.folder=/no/such is not a folder'),
    ],
)
def test_mistakes_about_the_data(data_dir, name, overrides, message):
    config = load_config(name, {'dataset.data_dir': data_dir} | overrides)
    with pytest.raises(UserError, match=message):
        durations(config, len(sources.open_splits(config.dataset).train))


def test_a_workdir_that_cannot_be_written_to():
    config = load_config('digits')
    with pytest.raises(UserError, match='cannot write to /proc/run'):
        Workdir(Path('/proc/run')).claim(config, nets.mesh_of(1)).__enter__()


@pytest.mark.parametrize('program', programs())
def test_help_shows_the_flags_and_succeeds(program):
    code, out, err = runs.run([sys.executable, '-m', f'alexnet_jax.{program}', '--help'])
    assert (code, err) == (0, '')
    assert f'python -m alexnet_jax.{program}' in out
    takes_config = program in ('main', 'ablations', 'sweep', 'import_weights')
    for flag in ('  --config:', '  --config.NAME:', '  --settings:'):
        assert (flag in out) == takes_config


def test_the_programs_are_listed():
    for arguments in ([], ['--help']):
        code, out, _ = runs.run([sys.executable, '-m', 'alexnet_jax', *arguments])
        assert code == 0
        assert re.search(r'^  main +Trains AlexNet, two towers on two devices', out, re.MULTILINE)
        assert set(re.findall(r'^  (\w+)', out, re.MULTILINE)) == programs().keys()
    assert {'main', 'ablations', 'sweep', 'evaluate', 'prepare', 'report'} <= programs().keys()
    assert all(line.endswith('.') for line in programs().values())


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no /dev/full')
def test_a_list_of_the_programs_that_cannot_be_printed_is_one_line():
    with open('/dev/full', 'w') as full:
        command = [sys.executable, '-m', 'alexnet_jax']
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert 'No space left on device' in result.stderr


def test_a_program_is_run_by_its_name():
    command = [sys.executable, '-m', 'alexnet_jax']
    code, out, _ = runs.run([*command, 'main', '--settings=seed', '--config.seed=3'])
    assert (code, out.splitlines()[0]) == (0, '  seed = 3')
    code, _, err = runs.run([*command, 'man'])
    assert (code, err) == (2, "alexnet_jax: there is no program 'man': did you mean main?\n")


@pytest.mark.slow
def test_a_workdir_keeps_to_its_config(tmp_path, data_dir, trained_run):
    """Other settings are refused and nothing is lost; the same command ends at once."""
    workdir = tmp_path / 'w'
    shutil.copytree(trained_run, workdir)
    before = runs.final(workdir)
    code, _, err = runs.run(runs.command(workdir, data_dir, seed=1))
    assert code == 2
    assert 'belongs to a run with seed=0 (now 1)' in err
    code, out, _ = runs.run(runs.command(workdir, data_dir, log__every_steps=2))
    assert code == 0
    assert 'after step 23 of 23' in out
    assert 'centre crop' in out
    assert before[0] == runs.final(workdir)[0]


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, data_dir):
    code, _, err = runs.run(runs.command(tmp_path, data_dir, learning_rate__initial=1e6))
    assert code == 2
    assert re.search(r'the loss is (nan|inf) at step \d+, .*--config\.learning_rate\.initial=', err)
    assert len(err.strip().splitlines()) == 1
    assert divergence.read(tmp_path) in err


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'pretrained__workdir': '/no/such'}, r'pretrained\.workdir=/no/such: .*not the workdir'),
        ({'mesh__data': 4096, 'optimizer__batch_size': 4096}, r'needs 8192 devices and there are'),
        ({'dataset__image_size': 4096, 'optimizer__batch_size': 65_536}, 'out of memory: .*width'),
    ],
)
def test_what_cannot_run_is_refused_by_a_dry_run(tmp_path, settings, message):
    """So it is before any data are prepared."""
    settings = {'evaluation__batch_size': 4096} | settings
    code, _, err = runs.run(runs.command(tmp_path / 'w', '/no/such', '--dry_run', **settings))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert re.search(message, err)
    assert not (tmp_path / 'w').exists()


def test_synthetic_images_are_called_so(tmp_path):
    code, out, err = runs.run(
        runs.command(
            tmp_path,
            '',
            dataset__name='synthetic',
            optimizer__epochs=0.02,
            augmentation__mean='colour',
            augmentation__constants='2012',
        )
    )
    assert code == 0, err
    assert synthetic.NOTICE in out


@pytest.mark.slow
def test_four_devices(tmp_path, data_dir):
    """The data x tower mesh is the requested one; the result equals that of one device."""
    results = []
    for number, mesh in enumerate(({'mesh__data': 2, 'mesh__tower': 2}, {'mesh__tower': 1})):
        workdir = tmp_path / str(number)
        code, out, err = runs.run(runs.command(workdir, data_dir, optimizer__epochs=0.4, **mesh))
        assert code == 0, err
        results.append(runs.final(workdir)[1])
        if number == 0:
            assert '1 on each of 2 devices (cpu), 2 replicas that share each batch' in out
    for name, x in results[0].items():
        assert abs(x - results[1][name]).max() < 1e-4, name


@pytest.mark.slow
def test_training_on_ones_own_images(tmp_path):
    """One folder per class; two classes that differ in colour are soon separated."""
    pets = tars.class_folders(tmp_path / 'pets', images=60)
    code, out, err = runs.run(
        runs.command(
            tmp_path / 'run',
            str(tmp_path),
            dataset__folder=str(pets),
            dataset__classes=2,
            dataset__eval_split='validation',
            optimizer__batch_size=16,
            optimizer__epochs=6.0,
            evaluation__batch_size=16,
            evaluation__every_epochs=6.0,
            augmentation__mean='colour',
            augmentation__images_per_draw=4,
            dataset__reshuffle=False,
            loader__workers=1,
        )
    )
    assert code == 0, err
    assert ' to write in ' in out
    last = runs.metrics(tmp_path / 'run')[-1]
    assert last['eval/top1_error'] < 0.2


@pytest.mark.slow
def test_a_bad_record_stops_the_run_unless_it_may_be_skipped(tmp_path, data_dir):
    """The record is named; if it may be skipped, the run resumes and counts it at the end."""
    shutil.copytree(data_dir, tmp_path / 'data')
    where = runs.spoil(tmp_path / 'data', 'train', 700)
    shutil.copytree(tmp_path / 'data', tmp_path / 'other')
    command = runs.command(
        tmp_path / 'run', str(tmp_path / 'data'), loader__prefetch=1, optimizer__epochs=1.0
    )
    code, _, err = runs.run(command)
    assert code == 2
    assert f'{where} is damaged' in err
    assert len(err.strip().splitlines()) == 1, err
    code, out, err = runs.run([*command, '--skip_bad=1'])
    assert code == 0, err
    assert f'replaced     1 unreadable images: {where}' in out
