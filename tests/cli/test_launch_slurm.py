"""launch/slurm.sbatch, with programs in place of Slurm's."""

import os
import re
import signal
import subprocess
import sys

import pytest

import nets
from launching import LAUNCH, RUN, wait_for_line

# Starts two tasks on one node as srun does, and returns the highest of their exit codes.
SRUN = """#!/bin/bash
echo srun "$@" >&2
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=${TASKS:-1} SLURM_STEP_NUM_NODES=1
export SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE=${TASKS:-1} SLURM_NODEID=0
children=()
for ((task = 0; task < SLURM_STEP_NUM_TASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  children+=($!)
done
highest=0
for child in "${children[@]}"; do
  wait "$child"
  code=$?
  [ "$code" -le "$highest" ] || highest=$code
done
exit "$highest"
"""


@pytest.fixture
def slurm(tmp_path):
    """Returns the environment of a job."""
    tools = tmp_path / 'bin'
    tools.mkdir()
    (tools / 'srun').write_text(SRUN)
    (tools / 'scontrol').write_text('#!/bin/bash\necho scontrol "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    path = f'{tools}:{os.environ["PATH"]}'
    return {'PATH': path, 'SLURM_JOB_ID': '7', 'SLURM_CPUS_PER_TASK': '16'}


@pytest.fixture
def run(launcher, slurm):
    """Returns a function that runs the script, which is told to stop or not."""

    def run_script(program, is_told=False, job='7'):
        process = launcher.start(
            f'echo ready; sleep 0.3; {program}',
            *('digits', 'a b', '--config.seed=1'),
            script='slurm.sbatch',
            **slurm | {'SLURM_JOB_ID': job},
        )
        wait_for_line(process, 'ready')
        if is_told:
            process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        return process.returncode, f'scontrol requeue {job}' in out.splitlines()

    return run_script


@pytest.mark.parametrize(
    ('code', 'is_told', 'is_requeued'),
    [
        (75, False, True),
        (75, True, False),
        (137, True, False),
        *((code, False, True) for code in (1, 69, 134, 137, 139, 143)),
        *((code, False, False) for code in (0, 2, 126, 127, 130)),
    ],
)
def test_slurm_requeues_what_has_saved_or_crashed(run, code, is_told, is_requeued):
    """But not a job that a user cancels, of which Slurm tells the script, too, nor a mistake."""
    assert run(f'exit {code}', is_told) == (code, is_requeued)


def test_slurm_requeues_a_limited_number_of_crashes_without_a_stop_between(run):
    """The limit is TRIES, here 3; another job begins anew, and time limits do not count."""
    crash, stop = (134, True), (75, True)
    codes = [134, 134, 75, 75, 75, 134, 134, 134]
    results = [crash, crash, stop, stop, stop, crash, crash, (134, False)]
    assert [run(f'exit {code}') for code in codes] == results
    assert run('exit 134', job='8') == crash


def test_slurm_lets_other_tasks_save_after_one_has_ended(launcher, slurm):
    """With --kill-on-bad-exit=1, exit code 75 of one task would kill the others."""
    process = launcher.start(RUN, 'digits', 'w', script='slurm.sbatch', **slurm)
    line = wait_for_line(process, 'srun')
    assert {'--kill-on-bad-exit=0', '--wait=60', '--cpus-per-task=16'} <= set(line.split())


@pytest.mark.slow
@pytest.mark.groups
def test_tasks_of_a_step_find_each_other(tmp_path, slurm):
    """With two real processes, each with a tower."""
    done = subprocess.run(
        ['bash', LAUNCH / 'slurm.sbatch', 'digits', tmp_path / 'w', '--dry_run'],
        cwd=nets.ROOT,
        env=os.environ
        | slurm
        | {'PYTHON': sys.executable, 'TASKS': '2', 'JAX_NUM_CPU_DEVICES': '1'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert 'process 0 of 2 (a Slurm step of 2 tasks on 1 node)' in done.stdout
    assert done.stdout.count('process 0 of 2') == 1  # process 1 prints nothing of this
    rows = re.findall(r'^(\d) +\S+ +cpu:\d+ +0 +(\d)$', done.stdout, re.MULTILINE)
    assert rows == [('0', '0'), ('1', '1')]
