"""gpu.sh: its commands are understood by the programs that they start."""

import os
import stat
import subprocess
import sys

import pytest

import nets

SCRIPT = nets.ROOT / 'benchmarks' / 'gpu.sh'

# In place of Python: keeps its arguments, one command a line.
RECORDER = """#!/usr/bin/env bash
printf '%s\\t' "$@" >>"$RECORD"
printf '\\n' >>"$RECORD"
exit "${RECORDER_EXIT:-0}"
"""

# Parses one command line after another, with the flags of the program that is named first.
PARSER = """
import importlib, sys
sys.path.insert(0, 'benchmarks')
from absl import flags
importlib.import_module(sys.argv[1])
for line in sys.stdin.read().splitlines():
    flags.FLAGS.unparse_flags()
    rest = flags.FLAGS(line.split('\\t'))
    assert len(rest) == 1, rest
"""


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def script(tmp_path):
    """Runs the script with stand-ins for Python and nvidia-smi."""
    executable(tmp_path / 'nvidia-smi', '#!/bin/sh\necho "NVIDIA Test GPU"\n')
    python = executable(tmp_path / 'recorder', RECORDER)
    record = tmp_path / 'record'

    def run(**environment):
        path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
        environment = os.environ | environment | {'PATH': path, 'PYTHON': str(python)}
        result = subprocess.run(
            [SCRIPT, tmp_path / 'results'],
            env=environment | {'RECORD': str(record)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return result, [line.split('\t')[:-1] for line in record.read_text().splitlines()]

    return run


def test_the_script_is_valid_bash():
    subprocess.run(['bash', '-n', SCRIPT], check=True)


def test_each_program_accepts_its_command_lines(script):
    result, commands = script()
    assert result.returncode == 0, result.stdout + result.stderr
    programs = {}
    for file, *arguments in commands:
        name = file.removeprefix('benchmarks/').removesuffix('.py')
        programs.setdefault(name, []).append('\t'.join([file, *arguments]))
    assert {name: len(lines) for name, lines in programs.items()} == {
        'normalization': 3,
        'step': 2,
        'tune_normalization': 1,
    }
    for name, lines in programs.items():
        parsed = subprocess.run(
            [sys.executable, '-c', PARSER, name],
            input='\n'.join(lines),
            cwd=nets.ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert parsed.returncode == 0, f'{name}: {parsed.stderr}'


def test_a_part_that_fails_is_named_and_the_next_ones_run(script):
    result, commands = script(RECORDER_EXIT='3')
    assert result.returncode == 1
    assert len(commands) == 6
    failed = result.stdout.splitlines()[-1]
    assert 'kernels (3)' in failed
    assert 'tuning (3)' in failed
    assert 'gpu (' not in failed


def test_the_limits_sum_to_less_than_eight_minutes():
    limits = [
        int(line.split()[1])
        for line in SCRIPT.read_text().splitlines()
        if line.split()[:1]
        and line.split()[0] in ('part', 'normalization', 'step', 'tuning')
        and line.split()[1].isdigit()
    ]
    assert len(limits) == 7
    assert sum(limits) < 8 * 60


def test_without_a_gpu_it_says_so(tmp_path):
    executable(tmp_path / 'nvidia-smi', '#!/bin/sh\nexit 9\n')
    environment = os.environ | {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'}
    result = subprocess.run(
        [SCRIPT, tmp_path / 'results'], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.strip() == 'gpu.sh: nvidia-smi reports no GPU'
