"""launch/train.sh, for one machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nets
import runs
from launching import RUN, wait_for_line


def launch(script, workdir, data_dir, *arguments, python=sys.executable):
    flags = [a for a in runs.command(workdir, data_dir) if a.startswith('--config.')]
    environment = os.environ | {'PYTHON': str(python), 'PAUSE': '0', 'TRIES': '3'}
    return subprocess.Popen(
        ['bash', nets.ROOT / 'launch' / script, 'configs/digits.py', workdir, *flags, *arguments],
        cwd=nets.ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_a_run_is_resumed_after_a_crash(tmp_path, data_dir):
    """With a Python that is killed when it is first started."""
    flaky = tmp_path / 'python'
    flaky.write_text(
        f'#!/bin/bash\n[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -9 $$; }}\n'
        f'exec {sys.executable} "$@"\n'
    )
    flaky.chmod(0o755)
    process = launch(
        'train.sh', tmp_path / 'w', data_dir, '--config.optimizer.epochs=0.2', python=flaky
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert 'exit code 137, attempt 1 of 3' in err
    assert 'centre crop' in out
    assert 'centre crop' in (tmp_path / 'w' / 'log.txt').read_text()


@pytest.mark.slow
def test_a_signal_to_stop_reaches_the_run(tmp_path, data_dir):
    process = launch('train.sh', tmp_path / 'w', data_dir, '--config.optimizer.epochs=40')
    runs.wait_for_step(tmp_path / 'w', 4, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert 'stopped by SIGTERM' in out


def test_a_mistake_is_not_retried(tmp_path, data_dir):
    process = launch('train.sh', tmp_path / 'w', data_dir, '--config.sed=1')
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out.count('unknown setting sed') == 1


@pytest.fixture
def start(launcher):
    """Returns a function that starts a script, with this program in place of Python."""

    def start_script(program, *arguments, **options):
        return launcher.start(program, 'digits', *arguments, **options)

    return start_script


def attempts(tmp_path):
    """The processes that stood for Python."""
    return [int(number) for number in (tmp_path / 'starts').read_text().split()]


@pytest.mark.parametrize('name', ['TERM', 'HUP', 'USR1'])
def test_signals_are_forwarded_and_the_run_is_not_retried(tmp_path, start, name):
    process = start(RUN, 'w')
    wait_for_line(process, 'ready')
    process.send_signal(signal.Signals[f'SIG{name}'])
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, f'got SIG{name}\n')
    assert len(attempts(tmp_path)) == 1
    assert (tmp_path / 'w' / 'log.txt').read_text() == f'ready\ngot SIG{name}\n'


def test_a_second_ctrl_c_is_forwarded_too(tmp_path, start):
    process = start(f'trap "" TERM\n{RUN}', 'w')  # which follows a signal soon after the start
    wait_for_line(process, 'ready')
    process.send_signal(signal.SIGINT)
    wait_for_line(process, 'got SIGINT')
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, 'got SIGINT\n')
    assert len(attempts(tmp_path)) == 1


@pytest.mark.parametrize(('name', 'code'), [('TERM', 75), ('HUP', 75), ('USR1', 75), ('INT', 130)])
def test_a_signal_while_python_starts_stops_the_script(tmp_path, start, name, code):
    """The signal ends Python, which cannot save yet: this is no crash."""
    process = start('echo ready; exec sleep 60', 'w')
    wait_for_line(process, 'ready')
    process.send_signal(signal.Signals[f'SIG{name}'])
    process.communicate(timeout=30)
    assert (process.returncode, len(attempts(tmp_path))) == (code, 1)


def test_a_signal_between_two_attempts_stops_the_script(tmp_path, start):
    process = start('exit 1', 'w', PAUSE='60')
    wait_for_line(process, 'exit code 1, attempt 1 of 3')
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (process.returncode, len(attempts(tmp_path))) == (75, 1)


@pytest.mark.parametrize('name', ['TERM', 'INT'])
def test_a_signal_at_any_moment_stops_the_script(tmp_path, start, name):
    """Whatever bash is doing then, the program is started once more at most."""
    for delay in (0, 0.002, 0.004, 0.008, 0.012, 0.016, 0.032):
        process = start('exec sleep 60', 'w')
        while Path(f'/proc/{process.pid}/comm').read_text() != 'bash\n':
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.Signals[f'SIG{name}'])
        process.communicate(timeout=30)
        # Before bash has set its traps, the signal ends it.
        assert process.returncode in (75, 130, -signal.Signals[f'SIG{name}'])
        assert len(attempts(tmp_path)) <= 1


@pytest.mark.parametrize('code', [0, 2, 75, 126, 127, 130])
def test_what_cannot_succeed_is_not_retried(tmp_path, start, code):
    process = start(f'exit {code}', 'w')
    process.communicate(timeout=60)
    assert (process.returncode, len(attempts(tmp_path))) == (code, 1)


@pytest.mark.parametrize(('python', 'code'), [('/no/such/python', 127), ('/dev/null', 126)])
def test_a_missing_python_is_not_retried(start, python, code):
    process = start('', 'w', PYTHON=python)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert 'attempt' not in out


@pytest.mark.parametrize('code', [1, 134, 137, 143])
def test_a_crash_is_retried(tmp_path, start, code):
    """A SIGTERM that the script was not told of is one, too."""
    process = start(f'exit {code}', 'w')
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, len(attempts(tmp_path))) == (code, 3)
    assert f'exit code {code}, attempt 2 of 3' in out


def test_a_crash_that_follows_a_signal_is_not_retried(tmp_path, start):
    process = start(RUN.replace('75', '1'), 'w')
    wait_for_line(process, 'ready')
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (process.returncode, len(attempts(tmp_path))) == (1, 1)


def test_signals_that_nohup_ignores_stay_ignored(start):
    process = start(RUN, 'w', ignored=('SIGHUP', 'SIGINT'))
    wait_for_line(process, 'ready')
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, 'got SIGTERM\n')


def test_names_with_blanks_and_patterns_reach_the_program(tmp_path, start):
    process = start('printf "%s\\n" "$@"', 'a *[1]; $x', '--config.model.conv1.then=a b')
    out, _ = process.communicate(timeout=60)
    assert out.splitlines() == [
        *('-m', 'alexnet_jax.main', '--config=digits', '--workdir=a *[1]; $x'),
        '--config.model.conv1.then=a b',
    ]
    assert (tmp_path / 'a *[1]; $x' / 'log.txt').read_text() == out


def test_the_log_is_complete_when_nobody_reads_the_output(tmp_path, start):
    process = start('echo ready; sleep 0.3; for i in 1 2 3; do echo line $i; done', 'w')
    wait_for_line(process, 'ready')
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    process.stdout = None
    assert (tmp_path / 'w' / 'log.txt').read_text() == 'ready\nline 1\nline 2\nline 3\n'


def test_no_folder_is_made_for_a_bucket(tmp_path, start):
    process = start('exit 2', 'gs://bucket/run')
    process.communicate(timeout=60)
    assert process.returncode == 2
    assert not (tmp_path / 'gs:').exists()
