"""gpu.sh: its commands are understood by the programs that they start."""

import collections
import json
import os
import re
import stat
import subprocess
import sys

import pytest

import nets

SCRIPT = nets.ROOT / 'benchmarks' / 'gpu.sh'

# In place of Python: keeps its arguments, one command a line. With -c the script asks whether JAX
# has Mosaic GPU kernels. Where an argument is $REFUSED, it fails.
RECORDER = r"""#!/usr/bin/env bash
[[ $1 != -c ]] || exit "${WITHOUT_MOSAIC_GPU:-0}"
printf '%s\t' "$@" >>"$RECORD"
printf '\n' >>"$RECORD"
for argument in "$@"; do
  [[ $argument != "${REFUSED:-}" ]] || { echo 'refused'; exit 3; }
done
exit "${RECORDER_EXIT:-0}"
"""

# Parses one command line after another, with the flags of the program that is named first. Prints
# the values of the flags, and what the settings of compile_for.py become.
PARSER = r"""
import importlib, json, sys
sys.path.insert(0, 'benchmarks')
from absl import flags
program = importlib.import_module(sys.argv[1])
for line in sys.stdin.read().splitlines():
    flags.FLAGS.unparse_flags()
    if sys.argv[1] == 'compile_for':
        rest, config = program.command_line.parse(line.split('\t')), program.settings()
        flags.FLAGS['options'].value  # raises where it is not parsed
        settings = config.deterministic, config.model.precision, config.model.dtype
        print(json.dumps([*settings, config.optimizer.batch_size]))
    else:
        rest = flags.FLAGS(line.split('\t'))
    assert len(rest) == 1, rest
"""
PARTS = {
    'normalization': 4,
    'step': 9,
    'device_check': 1,
    'loop': 1,
    'resident': 1,
    'tune_normalization': 1,
}


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

    def run(*options, **environment):
        path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
        environment = os.environ | environment | {'PATH': path, 'PYTHON': str(python)}
        result = subprocess.run(
            [SCRIPT, *options, tmp_path / 'results'],
            env=environment | {'RECORD': str(record)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return result, [line.split('\t')[:-1] for line in record.read_text().splitlines()]

    return run


def parse(name, commands):
    """Parses command lines with the flags of a program; returns what the parser prints."""
    parsed = subprocess.run(
        [sys.executable, '-c', PARSER, name],
        input='\n'.join('\t'.join(command) for command in commands),
        cwd=nets.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert parsed.returncode == 0, f'{name}: {parsed.stderr}'
    return parsed.stdout


def options_in(commands):
    return {a for command in commands for a in command if a.startswith('--options=')}


def test_the_script_is_valid_bash():
    subprocess.run(['bash', '-n', SCRIPT], check=True)


def test_each_program_accepts_its_command_lines(script):
    result, commands = script()
    assert result.returncode == 0, result.stdout + result.stderr
    programs = collections.defaultdict(list)
    for command in commands:
        programs[command[0].removeprefix('benchmarks/').removesuffix('.py')].append(command)
    assert {name: len(lines) for name, lines in programs.items()} == PARTS
    for name, lines in programs.items():
        parse(name, lines)
    outputs = [a for command in commands for a in command if a.startswith('--out=')]
    assert len(set(outputs)) == len(commands)


def test_a_dry_run_needs_no_gpu_and_compile_for_accepts_its_command_lines(script, tmp_path):
    (tmp_path / 'nvidia-smi').unlink()
    result, commands = script('--dry', DEVICE='b200')
    assert result.returncode == 0, result.stdout + result.stderr
    assert {command[0] for command in commands} == {'benchmarks/compile_for.py'}
    assert all('--device=b200' in command for command in commands)
    settings = [tuple(json.loads(line)) for line in parse('compile_for', commands).splitlines()]
    steps = [s for s, c in zip(settings, commands, strict=True) if '--what=kernels' not in c]
    for dtype in ('float32', 'bfloat16'):
        for batch in (1024, 128):
            assert (False, 'default', dtype, batch) in steps
    assert (True, 'default', 'bfloat16', 128) in steps
    assert (False, 'highest', 'float32', 128) in steps
    assert sum('--implementation=mosaic_gpu' in command for command in commands) == 2
    assert len(re.findall(': compiled in ', result.stdout)) == len(commands)


def test_a_dry_run_compiles_with_the_options_that_are_timed(script, tmp_path):
    _, commands = script('--dry')
    compiled = options_in(commands)
    (tmp_path / 'record').unlink()
    _, commands = script()
    assert compiled == options_in(commands)
    assert 4 <= len(compiled) <= 6


def test_a_dry_run_names_what_does_not_compile_and_compiles_the_rest(script):
    result, commands = script('--dry', REFUSED='--config.deterministic=true')
    assert result.returncode == 1
    assert 'step_deterministic does not compile: refused' in result.stdout
    assert result.stdout.splitlines()[-1] == 'failed: step_deterministic (3)'
    assert result.stdout.count('compiled in') == len(commands) - 1


def test_mosaic_gpu_is_left_out_where_jax_does_not_have_it(script):
    result, commands = script(WITHOUT_MOSAIC_GPU='1')
    assert result.returncode == 0
    assert not [a for command in commands for a in command if a == '--kernels=mosaic_gpu']
    assert 'this version of JAX has no Mosaic GPU kernels' in result.stdout


def test_a_part_that_fails_is_named_and_the_next_ones_run(script):
    result, commands = script(RECORDER_EXIT='3')
    assert result.returncode == 1
    assert len(commands) == sum(PARTS.values())
    failed = result.stdout.splitlines()[-1]
    assert 'kernels (3)' in failed
    assert 'tuning (3)' in failed
    assert ' gpu (' not in failed


def test_the_limits_sum_to_less_than_half_an_hour_and_those_of_the_steps_to_five_minutes(script):
    """On an H100 a step is compiled for up to 49 s, beside the timing of PyTorch."""
    result, _ = script()
    limits = [int(s) for s in re.findall(r'for at most (\d+) s', result.stdout)]
    assert len(limits) == 1 + sum(PARTS.values())
    assert sum(limits) <= 1800
    result, _ = script(PARTS='gpu step_*')
    limits = [int(s) for s in re.findall(r'for at most (\d+) s', result.stdout)]
    assert len(limits) == 5
    assert sum(limits) <= 300


def test_only_the_parts_that_are_named_run(script):
    _, commands = script(PARTS='loop norm*_128')
    names = [a for command in commands for a in command if a.startswith('--out=')]
    assert [name.rpartition('/')[2] for name in names] == ['normalization_128.json', 'loop.json']


def test_without_a_gpu_it_says_so(tmp_path):
    executable(tmp_path / 'nvidia-smi', '#!/bin/sh\nexit 9\n')
    environment = os.environ | {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'}
    result = subprocess.run(
        [SCRIPT, tmp_path / 'results'], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.strip() == (
        'gpu.sh: nvidia-smi reports no GPU; --dry compiles all programs without one'
    )
