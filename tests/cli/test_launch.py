"""The scripts of launch/."""

import os
import re
import signal
import subprocess
import sys

import pytest

import nets
import runs

SCRIPTS = sorted((nets.ROOT / 'launch').iterdir())


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_valid_and_use_flags_that_exist(script):
    subprocess.run(['bash', '-n', script], check=True)
    flags = ('main.py', 'config/command_line.py')
    source = ''.join((nets.ROOT / 'alexnet_jax' / name).read_text() for name in flags)
    commands = re.findall(r'alexnet_jax\.main(.*)', script.read_text())
    assert commands
    for flag in re.findall(r'--(\w+)=', ' '.join(commands)):
        assert f"'{flag}'" in source


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
