import errno
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

import nets
from alexnet_jax.runtime import user_errors
from alexnet_jax.runtime.signals import Stopped
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors


def report(capsys, error):
    """Returns the exit code and what is printed when a program raises an error."""
    with pytest.raises(SystemExit) as ended, report_user_errors():
        raise error
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ('error', 'code', 'message'),
    [
        (UserError('wrong:\n  do this'), 2, 'alexnet_jax: wrong: do this\n'),
        (Stopped('SIGTERM'), 75, 'alexnet_jax: stopped by SIGTERM: the same command resumes\n'),
        (KeyboardInterrupt(), 130, '\nalexnet_jax: interrupted\n'),
    ],
)
def test_mistakes_of_the_user_are_one_line(capsys, error, code, message):
    assert report(capsys, error) == (code, message)


def test_an_interrupt_that_a_library_reports_as_a_failed_import_is_an_interrupt(capsys):
    """Modules in C++ do so, such as TensorStore's, where Ctrl-C arrives during their import."""
    error = ImportError('initialization failed')
    error.__cause__ = KeyboardInterrupt()
    assert report(capsys, error) == (130, '\nalexnet_jax: interrupted\n')


@pytest.mark.parametrize(
    'error',
    [
        ValueError('a bug'),
        FileNotFoundError(errno.ENOENT, 'a bug'),
        BrokenPipeError(errno.EPIPE, 'of a worker process'),
        RuntimeError('a bug'),
    ],
)
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)), report_user_errors():
        raise error


@pytest.mark.parametrize(
    ('name', 'remedy'),
    [
        *((name, 'make room there') for name in ('ENOSPC', 'EDQUOT')),
        *((name, 'choose another folder') for name in ('EROFS', 'EACCES', 'EPERM')),
        *((name, 'another path') for name in ('ENAMETOOLONG', 'ENOTDIR', 'EISDIR', 'ELOOP')),
        *((name, 'the disk or the network failed') for name in ('EIO', 'ESTALE', 'ETIMEDOUT')),
        *((name, 'ulimit -n') for name in ('EMFILE', 'ENFILE')),
        ('EFBIG', 'ulimit -f'),
        ('EAGAIN', 'ulimit -u'),
    ],
)
def test_trouble_of_the_system_is_one_line_with_the_path(capsys, name, remedy):
    number = getattr(errno, name)
    code, err = report(capsys, OSError(number, os.strerror(number), '/data/x'))
    assert code == 2
    assert err.startswith(f'alexnet_jax: /data/x: {os.strerror(number)}; ')
    assert remedy in err
    assert err.count('\n') == 1
    _, err = report(capsys, OSError(number, os.strerror(number)))
    assert err.startswith(f'alexnet_jax: {os.strerror(number)}; ')


def test_a_current_folder_that_was_deleted_is_one_line(capsys, tmp_path, monkeypatch):
    def getcwd():
        raise FileNotFoundError(errno.ENOENT, 'No such file or directory')

    monkeypatch.setattr(user_errors.os, 'getcwd', getcwd)
    code, err = report(capsys, FileNotFoundError(errno.ENOENT, 'No such file or directory'))
    assert (code, err.count('\n')) == (2, 1)
    assert 'the current folder no longer exists' in err


@pytest.mark.parametrize(
    'allocate',
    [
        lambda: jnp.zeros((10**7, 10**7)).block_until_ready(),  # on a device
        lambda: np.zeros((10**7, 10**7)),
    ],
    ids=['device', 'host'],
)
def test_too_little_memory_is_one_line_that_names_what_to_lower(capsys, allocate):
    with pytest.raises(SystemExit) as ended, report_user_errors():
        allocate()
    err = capsys.readouterr().err
    assert (ended.value.code, err.count('\n')) == (2, 1)
    assert err.lower().startswith('alexnet_jax: out of memory (')
    for name in ('optimizer.batch_size', 'evaluation.batch_size', 'model.width'):
        assert name in err


def test_other_errors_of_jax_keep_their_traceback():
    with pytest.raises(jax.errors.JaxRuntimeError), report_user_errors():
        raise jax.errors.JaxRuntimeError('INTERNAL: a fault')


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (RuntimeError('Could not determine home directory.'), 'the home directory is unknown'),
        (RuntimeError("can't start new thread"), 'too many threads'),
        (
            ValueError('Invalid value "x" for JAX flag jax_num_cpu_devices'),
            'JAX_NUM_CPU_DEVICES="x" is not a value that JAX knows',
        ),
        (
            ValueError("invalid truth value 'x' for environment 'JAX_ENABLE_X64'"),
            "JAX_ENABLE_X64='x' is not a value that JAX knows",
        ),
    ],
)
def test_trouble_of_the_environment_is_one_line(capsys, error, message):
    code, err = report(capsys, error)
    assert (code, err.count('\n')) == (2, 1)
    assert message in err


def test_control_characters_do_not_reach_the_terminal(capsys):
    _, err = report(capsys, UserError('no \x1b[31mred\x07 \x9b \udcff name\r\nhere \u202e ä 犬'))
    assert err == 'alexnet_jax: no \\x1b[31mred\\x07 \\x9b \\udcff name\\r here \\u202e ä 犬\n'


def test_ctrl_c_does_not_wait_for_threads(capsys, monkeypatch):
    """Such as one that writes a checkpoint to a slow disk."""
    codes, release = [], threading.Event()
    monkeypatch.setattr(user_errors.os, '_exit', codes.append)
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with report_user_errors():
            raise KeyboardInterrupt
    finally:
        release.set()
        thread.join()
    assert codes == [130]


def run_in_python(source, *redirections, **variables):
    """Runs source between flags and end of a program, by a shell with these redirections."""
    source = (
        'import sys\n'
        'from alexnet_jax.runtime.printing import show\n'
        'from alexnet_jax.runtime.user_errors import *\n'
        'from alexnet_jax.runtime.signals import Stopped\n'
        'parse_flags(sys.argv)\n'
        f'with report_user_errors():\n    {source}\n'
    )
    command = f'"$0" -c "$1" {" ".join(redirections)}; exit "${{PIPESTATUS[0]}}"'
    return subprocess.run(
        ['bash', '-c', command, sys.executable, source],
        cwd=nets.ROOT,
        env=os.environ | {'PYTHONUNBUFFERED': ''} | variables,
        text=True,
        capture_output=True,
        timeout=60,
    )


LONG = 'for i in range(99999): {}(i)'


@pytest.mark.parametrize(
    ('source', 'redirections', 'code'),
    [
        (LONG.format('print'), '| head -n 1', 141),
        (LONG.format('print'), '2>&1 | head -n 1', 141),
        (LONG.format('show'), '| head -n 1', 0),
        (f'{LONG.format("show")}; raise Stopped("SIGHUP")', '2>&1 | head -n 1', 75),
        (f'{LONG.format("show")}; raise UserError("x")', '2>&1 | head -n 1', 2),
        (LONG.format('show'), '>/dev/full', 0),
        (LONG.format('print'), '>/dev/full', 2),
        ('print(1); show(2)', '>&-', 0),
        ('raise UserError("x")', '>&- 2>&-', 2),
        ('raise Stopped("SIGHUP")', '2>/dev/full', 75),
        ('print(1); import time; time.sleep(0.2); raise Stopped("SIGHUP")', '| true', 75),
    ],
)
def test_output_that_cannot_be_printed_does_not_change_how_a_program_ends(
    source, redirections, code
):
    """A long job, which prints by `show`, goes on to its end; other programs end quietly."""
    assert run_in_python(source, redirections).returncode == code


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """Otherwise what C++ libraries print would be written into it."""
    source = f'file = open("{tmp_path}/file", "w"); assert file.fileno() > 2; file.write("whole")'
    assert run_in_python(source, '<&- >&- 2>&-').returncode == 0
    assert (tmp_path / 'file').read_text() == 'whole'


@pytest.mark.parametrize('variables', [{'PYTHONIOENCODING': 'ascii'}, {'LC_ALL': 'C'}])
def test_any_name_can_be_printed_whatever_the_encoding(variables):
    result = run_in_python(
        'print("h\\xf6nd", chr(0x72ac), chr(0xdcff)); show("\\xf6")', **variables
    )
    assert (result.returncode, result.stderr) == (0, '')
    assert '\\udcff' in result.stdout


@pytest.fixture
def flag_values(monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_bool('dry', False, '', flag_values=values)
    flags.DEFINE_integer('count', 1, '', flag_values=values)
    monkeypatch.setattr(user_errors.flags, 'FLAGS', values)


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--dry=may: be', '--dry=may: be must be true or false'),
        ('--count=x', '--count=x must be a whole number'),
        ('--flagfile=FILE', 'the flag file cannot be read'),
        ('word', "unexpected argument 'word'"),
    ],
)
def test_mistakes_in_flags_are_one_line(capsys, tmp_path, flag_values, argument, message):
    (tmp_path / 'flags').write_bytes(b'\xff\xfe')
    with pytest.raises(SystemExit) as ended:
        parse_flags(['program', argument.replace('FILE', str(tmp_path / 'flags'))])
    err = capsys.readouterr().err
    assert (ended.value.code, err.count('\n')) == (2, 1)
    assert err.startswith(f'alexnet_jax: {message}')
