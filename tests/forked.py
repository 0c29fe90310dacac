"""Runs Python programs, each in its own process, without importing JAX anew for each.

The import takes more than a second, which is most of what `--help` takes. This file is a module
that tests import, and also the program that imports the libraries once and forks a process for each
command. It forks before it uses a device.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path


def run(commands, folder):
    """Runs commands from a folder: each is a module's name or a script's path, and arguments.

    Args:
      commands: lists of strings; the first one ends in `.py` where it is a path.

    Returns:
      For each command its exit code, output and errors.
    """
    result = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def fork(program, *arguments):
    """Runs one command in a fork of this process; returns its exit code, output and errors."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = os.fork()
        if process == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(execute(program, arguments))
        _, status = os.waitpid(process, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return os.waitstatus_to_exitcode(status), *texts


def execute(program, arguments):
    """Runs a program as Python itself does, and returns its exit code."""
    is_script = program.endswith('.py')
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent.resolve()) if is_script else ''
    code = 0
    try:
        if is_script:
            runpy.run_path(program, run_name='__main__')
        else:
            runpy.run_module(program, run_name='__main__', alter_sys=True)
    except SystemExit as exit:
        code = exit.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
        code = 0 if code is None else code if isinstance(code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main():
    for library in ('jax', 'flax.nnx', 'optax', 'orbax.checkpoint'):
        importlib.import_module(library)
    # JAX warns of forks, which its threads do not survive; it has none before it uses a device.
    warnings.filterwarnings('ignore', message=r'os\.fork\(\) was called')
    print(json.dumps([fork(*command) for command in json.load(sys.stdin)]))


if __name__ == '__main__':
    main()
