"""The program that names the classes of pictures, as a user runs it."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import nets
import runs
from alexnet_jax.evaluation import trained_net

# Runs the program on each of several lists of arguments, as many times as a user would start it.
MISTAKES = """
import contextlib, io, json, os, sys
from absl import app
from absl.testing import flagsaver
from alexnet_jax import predict
results = []
os.chdir(sys.argv[2])
for arguments in json.loads(sys.argv[1]):
    err = io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stderr(err):
        try:
            app.run(predict.main, ['predict', *arguments], flags_parser=predict.parse)
        except SystemExit as end:
            results.append([end.code, err.getvalue()])
print(json.dumps([results, 'jax' in sys.modules]))
"""


def predict(*arguments, **options):
    """Returns the exit code, stdout and stderr; data sets are nowhere to be found."""
    environment = os.environ | {'TFDS_DATA_DIR': '/nowhere'}
    environment.pop('JAX_NUM_CPU_DEVICES')
    environment['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
    process = subprocess.run(
        [sys.executable, '-m', 'alexnet_jax.predict', *map(str, arguments)],
        cwd=nets.ROOT,
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )
    return process.returncode, process.stdout.decode(), process.stderr.decode()


@pytest.fixture(scope='module')
def digits(tmp_path_factory, trained_run):
    """Ten test images of the digits as PNG files."""
    folder = tmp_path_factory.mktemp('digits')
    config = trained_net.read_config(trained_run)
    few = dataclasses.replace(config.dataset, eval_split='test[:10]')
    source = trained_net.TrainedNet(trained_run, config=dataclasses.replace(config, dataset=few))
    for number in range(10):
        Image.fromarray(source.image(number)).save(folder / f'{number}.png')
    return folder


@pytest.fixture(scope='module')
def copy(tmp_path_factory, trained_run):
    """A copy of a run in an empty folder, which does not know where its data set is."""
    copy = tmp_path_factory.mktemp('copy') / 'run'
    shutil.copytree(trained_run, copy)
    record = json.loads((copy / 'config.json').read_text())
    record['config']['dataset']['data_dir'] = ''
    record['data']['folder'] = '/nowhere'
    (copy / 'config.json').write_text(json.dumps(record))
    return copy


@pytest.mark.slow
def test_a_copy_of_a_run_predicts_what_evaluate_has_measured(trained_run, copy, digits, tmp_path):
    """Without its data set; the probabilities differ by rounding alone."""
    evaluate = [sys.executable, '-m', 'alexnet_jax.evaluate', '--split=test[:10]']
    code, _, err = runs.run([*evaluate, f'--workdir={trained_run}', f'--out={tmp_path}'])
    assert code == 0, err
    with np.load(tmp_path / 'probabilities.npz') as file:
        p_NK = file['probabilities']
    with (tmp_path / 'predictions.csv').open(newline='') as file:
        expected = [row[3::2] for row in list(csv.reader(file))[1:]]
    code, out, err = predict(f'--workdir={copy}', digits, '--format=csv')
    assert (code, err.startswith('10 pictures in ')) == (0, True)
    header, *rows = csv.reader(out.splitlines())
    assert header[:3] == ['name', 'answer 1', 'probability 1']
    assert [row[0] for row in rows] == [f'{digits}/{number}.png' for number in range(10)]
    assert [row[1::2] for row in rows] == expected
    for row, p_K in zip(rows, p_NK, strict=True):
        np.testing.assert_allclose([float(x) for x in row[2::2]], np.sort(p_K)[::-1][:5], 1e-5)
    code, out, _ = predict(f'--workdir={copy}', digits, '--format=json')
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [
        [x['name'], *(str(y[k]) for y in x['predictions'] for k in ('class', 'probability'))]
        for x in answers
    ] == rows


def test_flags_and_pictures_in_any_order_and_one_of_them_unreadable(copy, digits, tmp_path):
    (tmp_path / '-x').write_text('text')
    for name in ('three', 'odd.name'):
        shutil.copy(digits / '3.png', tmp_path / name)
    data = f'{tmp_path}/three\n{tmp_path}/none.png\n'.encode()
    files = [f'--out={tmp_path}/answers.jsonl', tmp_path / 'odd.name', '-']
    code, out, err = predict(*files, f'--workdir={copy}', '--top=1', input=data)
    assert (code, out) == (1, '')
    assert 'alexnet_jax: ' + str(tmp_path / 'none.png') + ' cannot be read: No such file' in err
    assert '3 pictures in' in err.splitlines()[-1]
    lines = [json.loads(line) for line in (tmp_path / 'answers.jsonl').read_text().splitlines()]
    assert [x['name'] for x in lines] == [str(tmp_path / name) for name in ('odd.name', 'three')]
    assert lines[0]['predictions'] == lines[1]['predictions']


def test_a_pipe_that_is_closed_ends_the_program_in_silence(copy, digits):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, '-m', 'alexnet_jax.predict', f'--workdir={copy}', str(digits)]
    process = subprocess.run(
        command, cwd=nets.ROOT, stdout=write, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b'')


def test_ctrl_c_is_one_line_and_what_was_printed_stays(copy, digits, tmp_path):
    """The second half of the list never comes: the program waits for a pipe."""
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    keep_open = os.open(pipe, os.O_RDWR)
    command = [sys.executable, '-m', 'alexnet_jax.predict', f'--workdir={copy}', '--top=1']
    process = subprocess.Popen(
        [*command, *[str(digits)] * 10, str(pipe)],
        cwd=nets.ROOT,
        bufsize=0,  # a buffer of readline would keep lines from communicate
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(keep_open)
    assert process.returncode == 130
    lines = (first + out).decode().splitlines(keepends=True)
    assert [line.split()[0] for line in lines] == [
        f'{digits}/{number % 10}.png' for number in range(len(lines))
    ]
    assert lines[-1].endswith('\n')
    assert [line for line in err.decode().splitlines() if line] == ['alexnet_jax: interrupted']


def test_mistakes_are_one_line_before_jax_is_imported(trained_run, digits, tmp_path):
    (tmp_path / 'words.txt').write_bytes(b'\xff')
    (tmp_path / '-x').touch()  # as if it were the name of a picture
    workdir, picture = f'--workdir={trained_run}', f'{digits}/0.png'
    cases = [
        ([], 'no picture is named: python -m alexnet_jax.predict --workdir=DIR'),
        ([picture], 'no run is named: --workdir=DIR'),
        ([picture, f'--workdir={tmp_path}'], f'{tmp_path} is not the workdir of a run'),
        ([picture, workdir, '--top=11'], f'--top=11: {trained_run} has 10 classes'),
        ([picture, workdir, '--top=0'], '--top'),
        ([picture, workdir, '--views=3'], 'views'),
        ([picture, workdir, '--format=xml'], 'format'),
        ([picture, workdir, '--checkpoint=last'], '--checkpoint=last must be newest, best'),
        ([picture, workdir, '--tpo=1'], 'Did you mean: top'),
        ([picture, workdir, '-x'], '-x is taken for a flag, because it begins with -: write ./-x'),
        ([picture, workdir, workdir], 'are the same run: name it once'),
        ([picture, workdir, f'--out={tmp_path}'], 'is a folder: give the name of a file'),
        ([picture, workdir, '--out=/no/such/x'], 'there is no folder /no/such'),
        ([picture, workdir, f'--out={picture}'], 'is one of the pictures: choose a new file'),
        ([picture, workdir, f'--out={trained_run}/config.json'], 'is a file that the run needs'),
        ([picture, workdir, '--names=/no/such'], '/no/such cannot be read: No such file'),
        ([picture, workdir, f'--names={tmp_path}/words.txt'], 'is not text in UTF-8'),
        ([workdir, '/no/such.png'], '/no/such.png cannot be read: there is no such file'),
        ([workdir, str(tmp_path)], f'there are no pictures in {tmp_path}'),
    ]
    command = [sys.executable, '-c', MISTAKES, json.dumps([arguments for arguments, _ in cases])]
    command.append(str(tmp_path))
    code, out, err = runs.run(command)
    assert code == 0, err
    results, has_jax = json.loads(out.splitlines()[-1])
    for (code, err), (arguments, message) in zip(results, cases, strict=True):
        assert code == 2, arguments
        assert message in err
        assert len(err.strip().splitlines()) == 1, err
    assert not has_jax
