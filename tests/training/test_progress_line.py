"""The progress line on terminals, in log files, and where nobody reads."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

import nets
import runs
from alexnet_jax.config.durations import Durations
from alexnet_jax.training import progress_line

PLAN = Durations(100, 10, 50, evaluate_every=10, save_every=10)
VALUES = {'loss': 1.25, 'top1_error': 0.5}


@pytest.fixture
def clock(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(progress_line.time, 'monotonic', lambda: seconds[0])
    return seconds


def train(line, clock, steps=range(1, 51)):
    """Takes one second for each step, and evaluates after each tenth."""
    for step in steps:
        clock[0] += 1
        line.step(step, VALUES, 0.01)
        if step % 10 == 0:
            line.evaluated({'top1_error': 1 - step / 100})
    line.close()


def test_log_files_get_a_line_every_ten_seconds(clock, capsys):
    train(progress_line.ProgressLine(PLAN), clock)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('  ')[1] for line in lines] == [
        f'step {step}/50' for step in (2, 12, 22, 32, 42, 50)
    ]
    assert 'error 50.0% (test 80.0%)' in lines[2]


def test_the_error_is_named_by_the_split_that_is_evaluated(clock, capsys):
    train(progress_line.ProgressLine(PLAN, 'validation'), clock)
    assert '(validation 80.0%)' in capsys.readouterr().out


def test_the_last_line_does_not_show_the_test_error_of_an_earlier_evaluation(clock, capsys):
    train(progress_line.ProgressLine(PLAN), clock)
    last = capsys.readouterr().out.splitlines()[-1]
    assert 'step 50/50' in last
    assert 'error 50.0%  ' in last
    assert 'test' not in last


def test_a_terminal_shows_the_test_error_at_once(clock, capsys, monkeypatch):
    """At the end, too, where no step follows."""
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    monkeypatch.setenv('COLUMNS', '120')
    train(progress_line.ProgressLine(PLAN), clock)
    out = capsys.readouterr().out
    assert out.endswith('\n')
    states = out.rstrip('\n').split('\r\x1b[K')
    assert 'step 50/50' in states[-2]
    assert 'test' not in states[-2]
    assert 'step 50/50' in states[-1]
    assert 'error 50.0% (test 50.0%)' in states[-1]
    assert 'step 10/50' in states[10]
    assert '(test 90.0%)' in states[10]


def test_nothing_is_ended_where_no_line_was_begun(capsys, monkeypatch):
    """As where a run has a mistake in its data."""
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    progress_line.ProgressLine(PLAN).close()
    assert capsys.readouterr().out == ''


def test_training_goes_on_when_nobody_reads(clock, monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, 'w') as stream:
        monkeypatch.setattr(sys, 'stdout', stream)
        line = progress_line.ProgressLine(PLAN)
        line.begin()
        os.close(reader)
        train(line, clock)
        assert line.speed == pytest.approx(10)


# Makes its stdin the terminal of this session, as a login does, and becomes the program.
IN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
def test_a_run_in_a_terminal_that_is_closed_is_saved(tmp_path, data_dir):
    """Until then, no line of progress is as wide as the terminal, where it would wrap."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    command = runs.command(tmp_path / 'w', data_dir, optimizer__epochs=100.0)
    variables = {name: value for name, value in os.environ.items() if name != 'COLUMNS'}
    process = subprocess.Popen(
        [sys.executable, '-ISc', IN_TERMINAL, *command],
        cwd=nets.ROOT,
        env=variables | {'XLA_FLAGS': '--xla_backend_optimization_level=0'},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    screen = ''
    while '(test ' not in screen:
        screen += os.read(main, 4096).decode()
    os.close(main)
    assert process.wait(timeout=120) == 75
    assert runs.final(tmp_path / 'w')[0] > 0
    states = [state.removeprefix('\x1b[K') for state in screen.replace('\n', '\r').split('\r')]
    assert any('step 2/' in state for state in states)
    assert max(len(state) for state in states if 'step ' in state) < 80
