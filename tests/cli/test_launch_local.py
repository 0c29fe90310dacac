"""launch/local.sh, for several processes on one machine."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from launching import LAUNCH, RUN, wait_for_line

INDEX = 'for flag; do case $flag in --process=*) index=${flag#*=} ;; esac; done\n'


@pytest.fixture
def run(launcher):
    """Returns a function that runs the script to its end with a program that knows its index."""

    def run_script(program, count=2, **options):
        options = {'script': 'local.sh'} | options
        process = launcher.start(INDEX + program, str(count), '--seed=a b', **options)
        out, _ = process.communicate(timeout=30)
        return process.returncode, out.splitlines()

    return run_script


def test_each_process_is_told_its_number_and_all_one_address(run):
    code, lines = run('echo "$*"', count=3)
    assert code == 0
    pattern = r'-m alexnet_jax\.main --processes=3 --process=(\d) --coordinator=(localhost:\d+) '
    pattern += '--seed=a b'
    found = [re.fullmatch(pattern, line).groups() for line in lines]
    assert sorted(index for index, _ in found) == ['0', '1', '2']
    assert len({address for _, address in found}) == 1
    assert 61440 <= int(found[0][1].partition(':')[2]) < 65536


def test_one_process_needs_no_other(run):
    assert run('echo "$*"', count=1) == (0, ['-m alexnet_jax.main --processes=1 --seed=a b'])


@pytest.mark.parametrize('count', ['0', '-1', 'two', ''])
def test_a_wrong_number_of_processes_is_refused_in_one_line(tmp_path, run, launcher, count):
    code, lines = run('', count=count)
    assert (code, len(lines)) == (2, 1)
    assert launcher.starts() == []


def test_only_the_output_of_process_0_is_on_stdout(tmp_path):
    program = tmp_path / 'python'
    program.write_text(f'#!/bin/bash\n{INDEX}echo out $index; echo err $index >&2\n')
    program.chmod(0o755)
    done = subprocess.run(
        ['bash', LAUNCH / 'local.sh', '2'],
        env=os.environ | {'PYTHON': str(program)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == 'out 0\n'
    assert sorted(done.stderr.splitlines()) == ['err 0', 'err 1', 'out 1']


# Ends as soon as process 0 has made the file, as the processes do that agree on a stop.
OTHER = 'trap "echo other; exit 1" TERM HUP USR1 INT; {}; while [ ! -e stop ]; do sleep 0.1; done'


@pytest.mark.parametrize('name', ['TERM', 'HUP', 'USR1', 'INT'])
def test_a_signal_reaches_process_0_alone(launcher, name):
    """The processes agree by themselves on the step at which all stop."""
    own = f'trap "echo got {name}; touch stop; exit 75" {name}; echo ready; '
    own += 'while :; do sleep 0.1; done'
    program = f'{INDEX}[ $index = 0 ] || {{ {OTHER.format("echo ready")}; exit 75; }}\n{own}'
    process = launcher.start(program, '2', script='local.sh')
    wait_for_line(process, 'ready')
    wait_for_line(process, 'ready')
    process.send_signal(signal.Signals[f'SIG{name}'])
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (75, f'got {name}\n')


# Makes its terminal the one whose Ctrl-C it gets, as a login does.
TAKE = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp("bash", ["bash", *sys.argv[1:]])
"""


def test_ctrl_c_on_a_terminal_reaches_process_0_once(launcher):
    """Process 0 has the terminal itself, for its progress line."""
    other = f'{OTHER.format("touch waits")}; exit 1'
    own = f'trap "" TERM; [ -t 1 ] && [ -t 2 ] && while [ ! -e waits ]; do sleep 0.1; done; {RUN}'
    python = launcher.write(f'{INDEX}[ $index = 0 ] || {{ {other}; }}\n{own}')
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, '-ISc', TAKE, LAUNCH / 'local.sh', '2'],
        cwd=python.parent,
        env=os.environ | {'PYTHON': str(python)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    text = read_until(controller, 'ready')
    os.write(controller, b'\x03')
    text += read_until(controller, 'got SIGINT')
    time.sleep(0.5)
    assert process.poll() is None  # two Ctrl-C would end process 0
    os.write(controller, b'\x03')
    text += read_until(controller, 'got SIGINT')
    (python.parent / 'stop').touch()
    assert process.wait(timeout=30) == 130
    os.close(controller)
    assert 'other' not in text


def read_until(controller, text):
    out = ''
    while text not in out:
        out += os.read(controller, 1024).decode()
    return out


def test_a_signal_before_process_0_can_save_ends_all(launcher):
    """Without process 0 the others would wait for it."""
    process = launcher.start(f'{INDEX}echo ready; exec sleep 60', '3', script='local.sh')
    for _ in range(3):
        wait_for_line(process, 'ready')
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 75


@pytest.mark.parametrize(
    ('program', 'code', 'line'),
    [
        (  # a mistake in one process, of which it tells the other
            '[ $index = 1 ] || { sleep 0.5; echo "alexnet_jax: process 0 ends with process 1: no x"'
            ' >&2; exit 2; }; echo "alexnet_jax: process 1: no x" >&2; exit 2',
            2,
            'launch: exit code 2: process 1: no x',
        ),
        (  # a mistake that process 0 finds while another one has lost it
            '[ $index = 0 ] || exit 69; sleep 0.5; echo "alexnet_jax: no x" >&2; exit 2',
            2,
            'launch: exit code 2: no x',
        ),
        (  # a process that is killed, and one that notices it
            '[ $index = 1 ] || { sleep 0.5; echo "alexnet_jax: process 0 ends with process 1: gone"'
            ' >&2; exit 69; }; kill -9 $$',
            137,
            'launch: exit code 137: process 1 was ended by SIGKILL',
        ),
        (  # process 0 is killed, and XLA aborts the other
            '[ $index = 1 ] || kill -9 $$; sleep 0.5; kill -ABRT $$',
            137,
            'launch: exit code 137: process 0 was ended by SIGKILL',
        ),
        (  # an exception in process 0, which tells a warning before and the error last
            '[ $index = 0 ] || { echo "alexnet_jax: process 1: slow" >&2; sleep 0.5; exit 1; }; '
            'echo "alexnet_jax: slow" >&2; echo "alexnet_jax: ValueError: x" >&2; exit 1',
            1,
            'launch: exit code 1: ValueError: x',
        ),
    ],
)
def test_the_first_error_is_told_last_and_a_mistake_is_not_retried(run, program, code, line):
    found, lines = run(program)
    assert (found, lines[-1]) == (code, line)
    assert not [line for line in lines if 'local.sh' in line]  # bash's own messages


def test_what_does_not_end_by_itself_is_killed(run):
    """With processes of its own, such as readers of images, which would hold the output open."""
    code, lines = run('[ $index = 1 ] || { sleep 60 & wait; }; exit 1', LIMIT='1')
    assert code == 1
    assert 'launch: 1 of 2 processes have not ended within 1 s' in lines[0]


# Process 0 finds another program at its port the first time, and the other one waits for it.
PORT_IN_USE = f"""
[ $index = 0 ] && [ -e first ] && exit 0
[ -e first ] && exit 0
[ $index = 0 ] || exec sleep 60
port=${{5##*:}}
{sys.executable} -ISc "
import socket, time
server = socket.create_server(('', $port))
open('first', 'w').close()
time.sleep(5)
" >/dev/null 2>&1 &
while [ ! -e first ]; do sleep 0.1; done
echo "alexnet_jax: port $port of this host is in use" >&2
exit 2
"""


def test_another_port_is_tried_where_another_program_listens(run):
    code, lines = run(PORT_IN_USE)
    assert code == 0
    assert len(lines) == 2
    assert lines[1].startswith('launch: another program listens at port ')


def test_all_processes_are_started_again_after_a_crash(tmp_path, run, launcher):
    """By train.sh, which writes the output of all to the log."""
    program = 'echo out $index; [ -e $index ] && exit 0; touch $index; exit $((70 - index))'
    process = launcher.start(
        INDEX + program, 'digits', 'w', '--seed=1', script='train.sh', PROCESSES='2'
    )
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(launcher.starts()) == 4
    assert 'launch: exit code 70, attempt 1 of 3' in out
    log = (tmp_path / 'w' / 'log.txt').read_text().splitlines()
    assert sorted(line for line in log if line.startswith('out')) == ['out 0'] * 2 + ['out 1'] * 2


def test_a_signal_stops_all_processes_that_train_sh_has_started(launcher):
    own = f'trap "" TERM; {RUN}'
    program = f'{INDEX}[ $index = 0 ] || {{ {OTHER.format("echo ready")}; exit 75; }}\n{own}'
    process = launcher.start(program, 'digits', 'w', script='train.sh', PROCESSES='2')
    wait_for_line(process, 'ready')
    wait_for_line(process, 'ready')
    process.send_signal(signal.SIGUSR1)
    wait_for_line(process, 'got SIGUSR1')
    (launcher.folder / 'stop').touch()
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert len(launcher.starts()) == 2
