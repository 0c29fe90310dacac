import json
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

import nets
import runs
from alexnet_jax.config.schema import as_dict, flatten
from alexnet_jax.evaluation.studies.ablation_study import (
    ablation_rows,
    ablation_table,
    ablation_text,
)
from alexnet_jax.evaluation.studies.study import Study, final_errors
from alexnet_jax.evaluation.studies.table import interval
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir


def study(folder, seeds=3, only=(), config='digits'):
    return Study(ablation_rows(nets.load(config), only)[0], seeds, folder)


def rows(ablations):
    return ablation_table(ablations, nets.load('digits'))


def write(study, name, seed, centre, views, seconds=60.0):
    """Writes the workdir of a run that has ended with this result."""
    folder = study.folder(name, seed)
    with Workdir(folder).claim(study.config(name, seed), nets.mesh_of(1)):
        pass
    result = {'centre': centre, 'views': views, 'seconds': seconds}
    (folder / 'result.json').write_text(json.dumps(result))


def test_parts_that_the_config_lacks_are_left_out(tmp_path):
    ablations, left_out = ablation_rows(nets.load('digits'), [])
    assert set(left_out) == {'mirror', 'colour'}
    assert ablations[0].name == 'base'
    assert 'lrn' in [row.name for row in ablations]
    with pytest.raises(UserError, match='nothing to ablate as mirror'):
        study(tmp_path, only=['mirror'])


def test_views_need_no_training(tmp_path):
    """The row without ten views has the runs of the base, evaluated on the centre crop."""
    ablations = study(tmp_path, seeds=2, only=['ten_views', 'lrn'])
    assert ablations.runs() == [('base', 0), ('lrn', 0), ('base', 1), ('lrn', 1)]
    write(ablations, 'base', 0, centre=0.02, views=0.01)
    assert ablations.errors('ten_views') == [0.02]
    assert ablations.errors('base') == [0.01]


def test_runs_differ_only_in_the_ablated_part(tmp_path):
    ablations = study(tmp_path)
    base, lrn = (flatten(as_dict(ablations.config(n, 1))) for n in ('base', 'lrn'))
    assert {name for name in base if base[name] != lrn[name]} == {
        'model.conv1.then',
        'model.conv2.then',
    }
    assert base['seed'] == 1


def test_the_table(tmp_path):
    ablations = study(tmp_path, only=['lrn', 'dropout'])
    base, lrn = [0.010, 0.012, 0.011], [0.030, 0.029, 0.031]
    for seed in range(3):
        write(ablations, 'base', seed, 0.5, base[seed])
        write(ablations, 'lrn', seed, 0.5, lrn[seed])
    first, second = rows(ablations)  # dropout has no runs yet
    assert (first['name'], second['name']) == ('base', 'lrn')
    assert first['difference'] is None
    assert second['difference'] == pytest.approx(0.019)
    # Welch by hand: t(4) = 2.776 where both variances are equal.
    half = 2.776 * np.sqrt((statistics.variance(base) + statistics.variance(lrn)) / 3)
    assert second['low'] == pytest.approx(0.019 - half, rel=1e-3)
    assert second['high'] == pytest.approx(0.019 + half, rel=1e-3)
    assert second['paper'] == '1.4 / 1.2'
    shown = ablation_text([first, second])
    assert '(nothing)' in shown
    assert '+1.90' in shown
    assert 'noise' not in shown


def test_a_difference_within_the_spread_is_called_noise(tmp_path):
    ablations = study(tmp_path, only=['lrn'])
    for seed, (base, lrn) in enumerate([(0.01, 0.012), (0.014, 0.011), (0.012, 0.013)]):
        write(ablations, 'base', seed, 0.5, base)
        write(ablations, 'lrn', seed, 0.5, lrn)
    assert '(noise)' in ablation_text(rows(ablations))


def test_without_spread_there_is_no_interval():
    assert interval([0.1], [0.2]) is None
    assert interval([0.1, 0.1], [0.2, 0.2]) is None
    assert interval([0.1, 0.1], [0.2, 0.21]) is not None


def test_a_run_with_other_settings_is_refused(tmp_path):
    write(study(tmp_path), 'lrn', 0, 0.1, 0.1)
    raw = nets.load('digits')
    raw['optimizer']['epochs'] = 1.0
    other = Study(ablation_rows(raw, ['lrn'])[0], 3, tmp_path)
    with pytest.raises(UserError, match=r'holds a run with optimizer\.epochs=24'):
        other.result('lrn', 0)


@pytest.mark.slow
def test_as_a_user_runs_it(tmp_path, data_dir):
    """A study is stopped, resumed and tabulated; a row that needs no training is added."""

    def command(only):
        _, *settings = runs.command(tmp_path, data_dir, optimizer__epochs=0.1)[3:]
        program = [sys.executable, '-m', 'alexnet_jax.ablations', f'--workdir={tmp_path}']
        return [*program, *settings, '--seeds=1', f'--only={only}']

    process = runs.start(command('lrn'))
    while process.poll() is None and not (tmp_path / 'base-0' / 'config.json').exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert 'stopped and saved: the same command resumes' in out
    assert not (tmp_path / 'base-0' / 'result.json').exists()

    code, out, err = runs.run(command('lrn'))
    assert code == 0, err
    assert '[1/2] base, seed 0' in out
    table = json.loads((tmp_path / 'ablations.json').read_text())
    assert [row['name'] for row in table['rows']] == ['base', 'lrn']
    last = runs.metrics(tmp_path / 'lrn-0')[-1]
    assert table['rows'][1]['errors'] == [last['eval_5_views/top1_error']]

    code, out, err = runs.run(command('lrn,ten_views'))
    assert code == 0, err
    assert '[1/' not in out
    table = json.loads((tmp_path / 'ablations.json').read_text())
    centre = runs.metrics(tmp_path / 'base-0')[-1]['eval/top1_error']
    assert table['rows'][2]['errors'] == [centre]


@pytest.mark.slow
@pytest.mark.skipif(cpu_devices.processor_count() < 2, reason='each run needs a core')
def test_two_runs_at_once(tmp_path, data_dir):
    """Each has one half of the cores, and both towers on devices of their own."""
    _, *settings = runs.command(tmp_path, data_dir, optimizer__epochs=0.1)[3:]
    program = [sys.executable, '-m', 'alexnet_jax.ablations', *settings, f'--workdir={tmp_path}']
    code, out, err = runs.run([*program, '--only=lrn', '--seeds=1', '--parallel=2'])
    assert code == 0, err
    first, second, *_ = out.splitlines()
    half = cpu_devices.processor_count() // 2
    assert first.startswith(f'[1/2] base, seed 0: worker 1 ({half} core')
    assert second.startswith(f'[2/2] lrn, seed 0: worker 2 ({half} core')
    table = json.loads((tmp_path / 'ablations.json').read_text())
    assert [row['name'] for row in table['rows']] == ['base', 'lrn']
    for name in ('base-0', 'lrn-0'):
        (start,) = Workdir(tmp_path / name).read_record()['starts']
        assert start['mesh'] == {'data': 1, 'tower': 2}


def test_an_unknown_ablation_is_one_line(tmp_path):
    command = [sys.executable, '-m', 'alexnet_jax.ablations', f'--workdir={tmp_path}']
    code, _, err = runs.run([*command, '--only=lrm'])
    assert (code, 'Traceback' in err) == (2, False)
    assert err.startswith("alexnet_jax: there is no ablation 'lrm'")


def test_a_run_whose_log_has_no_errors_is_one_line(tmp_path):
    write(study(tmp_path), 'base', 0, 0.1, 0.1)
    with pytest.raises(UserError, match='lacks the errors of the run: the same command evaluates'):
        final_errors(Workdir(tmp_path / 'base-0'))


# Each run only writes the files of a run that has ended.
FAKE_STUDY = """
import sys
import jax
from alexnet_jax import ablations
from alexnet_jax.config import command_line
from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.training.workdir import Workdir

def command(study, name, seed):
    folder = study.folder(name, seed)
    with Workdir(folder).claim(study.config(name, seed), MESH):
        pass
    (folder / 'metrics.jsonl').write_text('{"step": 1, "eval/top1_error": 0.1}\\n')
    return [sys.executable, '-c', '']

MESH = jax.sharding.Mesh(jax.devices()[:1], ('data',))
Study.command = command
command_line.parse(sys.argv)
ablations.main([])
"""


def test_a_study_whose_reader_has_gone_trains_all_runs(tmp_path):
    """As in `alexnet_jax.ablations | head -n 2`."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ['--only=lrn', '--seeds=1', f'--workdir={tmp_path}', '--config=digits']
    process = subprocess.run(
        [sys.executable, '-c', FAKE_STUDY, *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=nets.ROOT,
        check=False,
    )
    os.close(writer)
    assert process.stderr == ''
    table = json.loads((tmp_path / 'ablations.json').read_text())
    assert [row['name'] for row in table['rows']] == ['base', 'lrn']


@pytest.mark.parametrize('torn', ['{"centre": 0.1', '[]', '{"centre": NaN, "views": 1}', '\0'])
def test_a_torn_result_counts_as_none(tmp_path, torn):
    """The run is resumed, which ends at once, and writes its result again."""
    ablations = study(tmp_path, only=['lrn'], seeds=1)
    write(ablations, 'base', 0, 0.1, 0.1)
    write(ablations, 'lrn', 0, 0.1, 0.1)
    (ablations.folder('lrn', 0) / 'result.json').write_text(torn)
    assert ablations.result('lrn', 0) is None
    assert ablations.errors('base') == [0.1]
    assert ablations.errors('lrn') == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--workdir=/proc/x'], 'cannot write to /proc'),
        (['--workdir=gs://bucket'], '--workdir=gs://bucket'),
        (['--only='], '--only= is empty'),
        (['--config.seed=-1'], 'seed=-1 must be at least 0'),
        (['--config.model.conv1.maps=0'], 'model.conv1.maps=0 must be at least 1'),
        (['--parallel=999'], '--parallel=999 is too many for'),
        (['--parallel=0'], '0 is not an integer in the range [1, 1000]'),
        (['--seeds=1001'], '1001 is not an integer in the range [1, 1000]'),
    ],
)
def test_mistakes_are_one_line_before_any_work(tmp_path, arguments, message):
    command = [sys.executable, '-m', 'alexnet_jax.ablations', f'--workdir={tmp_path}/new']
    code, out, err = runs.run([*command, *arguments])
    assert (code, out, len(err.splitlines())) == (2, '', 1)
    assert message in err
    assert not (tmp_path / 'new').exists()
