"""Signals as a user, a terminal and a scheduler send them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import nets
from alexnet_jax.runtime.signals import (
    STOP_SIGNALS,
    Stopped,
    StopSignal,
    forward_to,
    raise_if_stopped,
)

NAMES = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1']


@pytest.fixture(autouse=True)
def _not_ignored():
    """A shell may have started the tests in the background, where it lets them ignore Ctrl-C."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('name', NAMES)
def test_a_signal_is_recorded_and_acknowledged_once(capfd, name):
    handler = signal.getsignal(signal.Signals[name])
    with StopSignal() as stop:
        raise_if_stopped()
        assert stop.signal == ''
        signal.raise_signal(signal.Signals[name])
        assert stop.signal == name
        with pytest.raises(Stopped, match=name):
            raise_if_stopped()
    raise_if_stopped()
    assert signal.getsignal(signal.Signals[name]) is handler
    err = capfd.readouterr().err
    assert err.count('\n') == 1
    assert f'stopping ({name}) after saving; a second Ctrl-C ends at once, without saving' in err
    assert len(err) <= 80  # columns of a terminal


def test_a_program_that_saves_nothing_does_not_say_that_it_saves(capfd):
    with StopSignal(saves=False):
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == 'stopping (SIGTERM); a second Ctrl-C ends at once\n'


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'SIGINT'])
def test_a_scheduler_may_repeat_its_signal(name):
    """The program saves all the same, also where one or the other was a Ctrl-C."""
    with StopSignal() as stop:
        for number in (name, name, 'SIGINT', name, name):
            signal.raise_signal(signal.Signals[number])
        assert stop.signal == name


def test_a_second_ctrl_c_ends_the_program():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == 'SIGTERM'
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_was_ignored_stays_ignored():
    """As nohup wants it, and a shell for the jobs that it starts in the background."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == ''
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_blocks_may_be_nested():
    with StopSignal() as outer:
        with StopSignal() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.signal == 'SIGTERM'
        assert outer.signal == 'SIGTERM'
        with pytest.raises(Stopped):
            raise_if_stopped()


def test_an_inner_block_begins_with_the_signal_of_the_outer_one():
    """A group of processes records signals from its start on, before training does."""
    with StopSignal():
        signal.raise_signal(signal.SIGTERM)
        with StopSignal() as inner:
            assert inner.signal == 'SIGTERM'
            with pytest.raises(Stopped):
                raise_if_stopped()


def test_another_thread_may_enter_the_block():
    """Python handles signals in the main thread alone: the block changes nothing there."""
    failures, handlers = [], [signal.getsignal(number) for number in STOP_SIGNALS]

    def enter():
        try:
            with StopSignal() as stop:
                assert stop.signal == ''
                assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
        except BaseException as error:
            failures.append(error)

    with StopSignal() as stop:
        handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            raise_if_stopped()
        assert stop.signal == 'SIGTERM'
    assert failures == []


def test_nothing_remains_of_a_block():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    descriptors, threads = os.listdir('/proc/self/fd'), threading.active_count()
    for _ in range(3):
        with StopSignal():
            signal.raise_signal(signal.SIGUSR1)
    assert threading.active_count() == threads
    assert os.listdir('/proc/self/fd') == descriptors
    assert signal.set_wakeup_fd(before) == before


def program(body, **streams):
    """Starts a program that enters the block, prints 'ready' and goes on with `body`."""
    source = (
        'import os, signal, sys, time\n'
        'from alexnet_jax.runtime.signals import StopSignal\n'
        'from alexnet_jax.runtime.user_errors import report_user_errors\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'with report_user_errors(), StopSignal() as stop:\n'
        '    print("ready", flush=True)\n' + ''.join(f'    {line}\n' for line in body.splitlines())
    )
    process = subprocess.Popen(
        [sys.executable, '-W', 'ignore::DeprecationWarning', '-c', source],
        cwd=nets.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        **{'stderr': subprocess.PIPE} | streams,
    )
    assert process.stdout.readline() == 'ready\n'
    return process


def test_a_signal_is_acknowledged_while_the_main_thread_is_in_c():
    process = program(_busy(30))
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert 'stopping (SIGTERM)' in process.stderr.readline()
    assert time.monotonic() - start < 10
    process.kill()
    process.communicate()


def _busy(seconds):
    """Returns source that stays in one call of C for so long, whatever signals come."""
    return f'import hashlib\nhashlib.pbkdf2_hmac("sha256", b"", b"", {seconds} * 1_000_000)'


def test_a_second_ctrl_c_ends_a_program_that_is_in_c():
    process = program(_busy(60))
    process.send_signal(signal.SIGINT)
    assert 'stopping (SIGINT)' in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert 'Traceback' not in err


def test_a_closed_stderr_does_not_matter():
    reader, writer = os.pipe()
    os.close(reader)
    process = program('while not stop.signal: time.sleep(0.01)\nprint(stop.signal)', stderr=writer)
    os.close(writer)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, 'SIGHUP\n')


def test_a_forked_process_handles_signals_as_before_the_block():
    """Otherwise its signals would be taken for those of its parent."""
    process = program(
        'reader, writer = os.pipe()\n'
        'child = os.fork()\n'
        'if not child: os.write(writer, b"x"); time.sleep(60)\n'
        'os.read(reader, 1)\n'
        'os.kill(child, signal.SIGTERM)\n'
        'print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), repr(stop.signal))'
    )
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("-15 ''\n", '')


@pytest.mark.parametrize('name', NAMES)
def test_signals_are_forwarded_to_a_process_and_acknowledged(capfd, name):
    number = signal.Signals[name]
    handler = signal.getsignal(number)
    source = f'import signal; print("ready", flush=True); signal.sigwait([{int(number)}])'
    block = f'import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}]); {source}'
    process = subprocess.Popen([sys.executable, '-c', block], text=True, stdout=subprocess.PIPE)
    with process, forward_to([process]) as names:
        assert process.stdout.readline() == 'ready\n'
        signal.raise_signal(number)
        assert process.wait(timeout=30) == 0
        signal.raise_signal(number)  # it has ended: nothing happens
    assert names == [name, name]
    assert signal.getsignal(number) is handler
    assert capfd.readouterr().err.count(f'stopping ({name}) when the present run has saved') == 1


def test_signals_are_forwarded_to_all_processes_that_run(capfd):
    """One that has ended gets none; one that was added within the block gets the later ones."""
    running = [subprocess.Popen(['sleep', '60']), subprocess.Popen(['true'])]
    running[1].wait()
    with forward_to(running) as names:
        running.append(subprocess.Popen(['sleep', '60']))
        signal.raise_signal(signal.SIGTERM)
        assert [process.wait(timeout=30) for process in running] == [-15, 0, -15]
        del running[:]
        signal.raise_signal(signal.SIGHUP)  # none is left: it is recorded
    assert names == ['SIGTERM', 'SIGHUP']
    lines = capfd.readouterr().err.splitlines()
    assert lines == ['stopping (SIGTERM) when all runs in progress have saved', 'stopping (SIGHUP)']


def test_signals_that_are_ignored_are_not_forwarded():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with subprocess.Popen(['sleep', '60']) as process:
        with forward_to([process]) as names:
            signal.raise_signal(signal.SIGHUP)
        process.kill()
    assert names == []
