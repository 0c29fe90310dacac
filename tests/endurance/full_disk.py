"""Fills the disk of runs at many moments, makes room again, and compares the results.

    PYTHONPATH=tests:. python -m endurance.full_disk --folder=DIR

DIR must lie on a file system that can be filled: a small one of its own, such as a tmpfs of 64 MB
(`mount -t tmpfs -o size=64m tmpfs DIR`, as root). Prints a line for each moment, and exits with 1
if a run hung, showed a traceback, or ended differently once there was room.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import runs
from alexnet_jax.training.workdir import Workdir
from endurance.comparison import differences

MOST_SECONDS = 240  # a run that takes longer hangs
MOMENTS = ('start', 'data', 'config', 'save 1', 'save 2', 'save 4', 'evaluation')
STEPS = (1, 4, 6, 8, 12, 16, 20)  # of the log


def is_reached(moment, workdir, data_dir, saves):
    """Checks whether a run has come to a moment, from the files that it has written."""
    lines = Workdir(workdir).read_metrics() if workdir.exists() else []
    match moment:
        case int():
            return any(line['step'] >= moment for line in lines)
        case 'start':
            return True
        case 'data':
            return any(data_dir.glob('digits/*'))
        case 'config':
            return (workdir / 'config.json').exists()
        case 'evaluation':
            return any('eval/loss' in line for line in lines)
        case _:
            saves |= {path.name for path in workdir.glob('checkpoints/*tmp*')}
            return len(saves) >= int(moment.split()[1])


def fill(folder):
    """Writes until the file system of the folder is full; returns the file."""
    file = folder / 'filler'
    for size in (1 << 20, 1 << 12, 1):
        with contextlib.suppress(OSError), file.open('ab', buffering=0) as stream:
            while stream.write(b'\0' * size) == size:
                pass
    return file


def run_on_full_disk(folder, moment, undisturbed, data_dir):
    """Starts a run, fills the disk at the moment, makes room, and finishes the run.

    Returns:
      The exit code on the full disk (None if it was still running after ten seconds, and was let
      go on), and a list of problems.
    """
    workdir, saves = folder / 'run', set()
    shutil.rmtree(workdir, ignore_errors=True)
    command = runs.command(workdir, data_dir)
    process = runs.start(command)
    while process.poll() is None and not is_reached(moment, workdir, data_dir, saves):
        time.sleep(0.005)
    filler, problems, code = fill(folder), [], None
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(timeout=10)
    filler.unlink()
    try:
        _, err = process.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return code, ['it hung']
    if 'Traceback' in err:
        problems.append(f'a traceback: {err}')
    if process.returncode:
        if not all(line.startswith('alexnet_jax: ') for line in err.strip().splitlines()):
            problems.append(f'other lines than those for the user: {err}')
        second_code, _, second_err = runs.run(command)
        if second_code:
            problems.append(f'the second start ended with {second_code}: {second_err}')
    return code, problems or differences(workdir, undisturbed)


def fill_disks(folder, moments, report=print):
    """Fills the disk at each of the moments; returns how many runs went wrong."""
    undisturbed, wrong = folder / 'undisturbed', 0
    code, _, err = runs.run(runs.command(undisturbed, folder / 'data'))
    if code:
        raise RuntimeError(err)
    for moment in moments:
        data_dir = folder / 'data'
        if moment in ('start', 'data'):
            data_dir = folder / 'other_data'
            shutil.rmtree(data_dir, ignore_errors=True)
        code, problems = run_on_full_disk(folder, moment, undisturbed, data_dir)
        wrong += bool(problems)
        where = f'step {moment}' if isinstance(moment, int) else moment
        ended = 'went on' if code is None else f'ended with {code}'
        report(f'full at {where}: the run {ended}; {"; ".join(problems) or "equal in the end"}')
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--folder', type=Path, required=True)
    flags = parser.parse_args()
    wrong = fill_disks(flags.folder, [*MOMENTS, *STEPS])
    print(f'{len(MOMENTS) + len(STEPS)} moments, {wrong} runs that went wrong')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
