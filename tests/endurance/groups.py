"""Kills and stops groups of two processes at chosen moments, and lets them finish.

    PYTHONPATH=.:tests:tests/processes JAX_PLATFORMS=cpu python -m endurance.groups --folder=DIR

After each fault the program checks that all processes have ended, with the expected exit codes;
that a stop has added at most one checkpoint; and that the same command, started again, ends with
the parameters, velocity, metrics and curves of an undisturbed run. It prints a line for each fault,
with the seconds to the end of the last process, and exits with 1 if a check has failed.
--only=SIGTERM selects the faults whose description contains this text.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import groups
from alexnet_jax.processes.monitor import LOST_SECONDS
from alexnet_jax.training.workdir import Workdir
from endurance.comparison import differences

TOWERS = {'mesh__tower': 2, 'mesh__data': 1, 'checkpoint__keep': 99}
SECONDS_TO_STOP = 30  # after a signal, on a machine that does other work, too
CODES_OF_SURVIVORS = (69, -6)  # by this program, and by XLA without process 0

KILLS = {
    'at turn 4': {'turn': 4},
    'at turn 21': {'turn': 21},
    'in an evaluation': {'evaluation': 2},
    'before a save': {'save': 2},
    'within the writing of a checkpoint': {'write': 1},
    'before a checkpoint is verified': {'verify': 2},
    'between joining and the first step': {'loop': 1},
    'at the end': {'end': 1},
}
STOPS = {
    'SIGTERM right after joining': {1: {'compare': 2}},
    'SIGTERM while the data set is opened': {1: {'open': 1}},
    'SIGTERM while the first step compiles': {1: {'compile': 1}},
    'SIGTERM at turn 4': {0: {'turn': 4}},
    'SIGTERM in an evaluation': {1: {'evaluation': 2}},
    'SIGTERM before a save': {1: {'save': 2}},
    'SIGTERM within the writing of a checkpoint': {1: {'write': 2}},
    'SIGTERM before a checkpoint is verified': {0: {'verify': 2}},
    'SIGTERM in the last evaluation': {1: {'evaluation': 5}},
    'SIGTERM at the end': {1: {'end': 1}},
    'SIGTERM to both at once': {0: {'turn': 9}, 1: {'turn': 9}},
    'SIGTERM twice': {1: {'turn': 9, 'kind': 'term twice'}},
    'SIGTERM and SIGINT': {0: {'turn': 9}, 1: {'turn': 9, 'kind': 'interrupt'}},
}


class Fault(NamedTuple):
    """What goes wrong in a group.

    Attributes:
      name: a description.
      faults: by process, see `faults`.
      is_kill: whether the process is killed; otherwise it gets a signal that asks it to stop.
    """

    name: str
    faults: dict
    is_kill: bool


def all_faults():
    for process in (0, 1):
        for name, moment in KILLS.items():
            fault = {'kind': 'kill'} | moment
            yield Fault(f'kill -9 of process {process} {name}', {process: fault}, True)
    for name, moments in STOPS.items():
        yield Fault(name, {p: {'kind': 'term'} | moment for p, moment in moments.items()}, False)


def steps(workdir):
    with Workdir(workdir).open_checkpoints() as checkpoints:
        return set(checkpoints.steps)


def problems_of_stop(group, workdir, regular):
    """Lists what is wrong with the end of a group after a signal."""
    if group.codes == [0, 0]:
        return []
    if group.codes != [75, 75]:
        return [f'exit codes {group.codes}: {group.err}']
    lines = re.findall(r'stopped by \w+ after step (\d+)', group.out[0])
    new = steps(workdir) - regular
    if new and new != {int(line) for line in lines}:
        return [f'new checkpoints {new} after {lines}']
    return []


def try_fault(fault, workdir, data_dir, undisturbed):
    """Starts a group with a fault, and then one without.

    Returns:
      The seconds from the fault to the end of the group, its exit codes, and a list of problems.
    """
    group = groups.run(
        2, workdir, data_dir, lost_seconds=LOST_SECONDS, faults=fault.faults, **TOWERS
    )
    moments = [float(x) for err in group.err for x in re.findall(r'^fault at (\S+)', err, re.M)]
    if not moments:
        return 0.0, group.codes, [f'the fault did not happen: {group.err}']
    seconds, problems = group.ended - min(moments), []
    if fault.is_kill:
        (process,) = fault.faults
        if group.codes[process] != -9 or group.codes[1 - process] not in CODES_OF_SURVIVORS:
            problems.append(f'exit codes {group.codes}: {group.err}')
    else:
        problems += problems_of_stop(group, workdir, steps(undisturbed))
    if seconds > (LOST_SECONDS + 5 if fault.is_kill else SECONDS_TO_STOP):
        problems.append('it has taken long')
    second = groups.run(2, workdir, data_dir, lost_seconds=LOST_SECONDS, **TOWERS)
    if second.codes != [0, 0]:
        problems.append(f'then exit codes {second.codes}: {second.err}')
    else:
        problems += differences(workdir, undisturbed)
    return seconds, group.codes, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--folder', type=Path, required=True, help='receives data and workdirs')
    parser.add_argument('--only', default='', help='a part of the descriptions of the faults')
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    data_dir, undisturbed = flags.folder / 'data', flags.folder / 'undisturbed'
    group = groups.run(2, undisturbed, data_dir, lost_seconds=LOST_SECONDS, **TOWERS)
    if group.codes != [0, 0]:
        sys.exit(f'the undisturbed run has failed: {group.err}')
    wrong = number = 0
    for fault in all_faults():
        if flags.only not in fault.name:
            continue
        number += 1
        workdir = flags.folder / re.sub(r'\W+', '_', fault.name)
        seconds, codes, problems = try_fault(fault, workdir, data_dir, undisturbed)
        wrong += bool(problems)
        ends = f'all have ended after {seconds:.1f} s with {codes}'
        print(f'{fault.name}: {ends}; {"; ".join(problems) or "then equal"}', flush=True)
    print(f'{number} faults, {wrong} of them with problems')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
