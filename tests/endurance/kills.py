"""Kills runs at random moments, lets them finish, and compares them with an undisturbed run.

    PYTHONPATH=tests:. python -m endurance.kills --count=20 --folder=DIR

Every second kill falls into the writing of a checkpoint. Prints a line for each kill, and exits
with 1 if a run ended with other parameters, another velocity, other metrics or other curves.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import runs
from endurance.comparison import differences


def kill_in_a_save(process, workdir, rng):
    """Kills the process while, or right after, it writes its n-th checkpoint from now on."""
    number, saves = rng.randint(1, 3), set()
    while process.poll() is None:
        saves |= {path.name for path in workdir.glob('checkpoints/*tmp*')}
        if len(saves) >= number:
            time.sleep(rng.choice([0.0, 0.01, 0.05, 0.2]))
            break
        time.sleep(0.001)
    process.kill()


def kill_after(process, seconds):
    """Kills the process after so many seconds, or leaves it to its end if that comes earlier."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()


def kill_runs(folder, data_dir, count, seed=0, report=print):
    """Kills runs of training `count` times.

    Args:
      folder: receives the workdirs.
      data_dir: has the digits.
      count: the number of kills; a run is killed up to twice, and then finished.
      seed: of the moments.
      report: receives a line for each run.

    Returns:
      The number of runs that did not end like the undisturbed one.
    """
    rng, undisturbed = random.Random(seed), folder / 'undisturbed'
    start = time.monotonic()
    code, _, err = runs.run(runs.command(undisturbed, data_dir))
    if code:
        raise RuntimeError(err)
    duration, wrong, kills, number = time.monotonic() - start, 0, 0, 0
    while kills < count:
        number += 1
        workdir, moments = folder / f'killed_{number}', []
        for in_a_save in (number % 2 == 0, number % 2 == 1)[: count - kills]:
            process = runs.start(runs.command(workdir, data_dir))
            begin = time.monotonic()
            if in_a_save:
                kill_in_a_save(process, workdir, rng)
            else:
                kill_after(process, rng.uniform(0.1, 1.0) * duration)
            process.communicate()
            if process.returncode == -9:  # else it had ended before
                kills += 1
                moments.append(f'{time.monotonic() - begin:.2f} s{" (saving)" * in_a_save}')
        code, _, err = runs.run(runs.command(workdir, data_dir))
        problems = [f'exit code {code}: {err}'] if code else differences(workdir, undisturbed)
        wrong += bool(problems)
        report(f'killed at {", ".join(moments) or "its end"}: {"; ".join(problems) or "equal"}')
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, required=True, help='receives data and workdirs')
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    wrong = kill_runs(flags.folder, flags.folder / 'data', flags.count, flags.seed)
    print(f'{flags.count} kills, {wrong} runs with another result')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
