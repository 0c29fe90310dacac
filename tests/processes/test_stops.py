"""Groups of processes that are killed or stopped at a moment: how they end, and what they lose.

Faults are injected at turns of the training loop, see `faults`. The run of `runs.SHORT` has 23
steps with a turn each; its evaluations and saves have turns of their own.
"""

import pytest

import groups
import runs
from alexnet_jax.processes.monitor import SUSPECT_SECONDS
from groups import LOST_SECONDS, SLACK, seconds_from_fault
from runs import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.groups]

TOWERS = {'mesh__tower': 2, 'mesh__data': 1}


def test_kills_in_training_evaluation_and_saving_end_all_and_lose_nothing(
    tmp_path, data_dir, trained_run
):
    """The other process ends soon, with a code that launchers try again; then the run resumes."""
    kills = [
        (1, {'kind': 'kill', 'turn': 8}, SUSPECT_SECONDS + 2),  # in training
        (0, {'kind': 'kill', 'evaluation': 2}, 0),  # process 0 has the coordination service
        (1, {'kind': 'kill', 'save': 2}, LOST_SECONDS),
    ]
    for process, fault, limit in kills:
        group = groups.run(2, tmp_path, data_dir, faults={process: fault}, **TOWERS)
        assert group.codes[process] == -9, group.err
        assert group.codes[1 - process] in (69, -6), group.err
        assert seconds_from_fault(group) < limit + SLACK
        if process:
            assert 'process 1: it was killed or cannot be reached' in group.lines(0)[-1]
    group = groups.run(2, tmp_path, data_dir, **TOWERS)
    assert group.codes == [0, 0], group.err
    assert_same_run(tmp_path, trained_run)


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path, data_dir, trained_run):
    """Each start makes some steps, and all processes end with 75 after one common checkpoint."""
    for process, fault in ((1, {'turn': 3}), (0, {'save': 2})):
        faults = {process: {'kind': 'term', **fault}}
        group = groups.run(2, tmp_path, data_dir, faults=faults, **TOWERS)
        assert group.codes == [75, 75], group.err
        (line,) = (x for x in group.out[0].splitlines() if x.startswith('stopped by'))
        assert line.startswith(f'stopped by SIGTERM after step {runs.final(tmp_path)[0]} of 23')
    group = groups.run(2, tmp_path, data_dir, **TOWERS)
    assert group.codes == [0, 0], group.err
    assert_same_run(tmp_path, trained_run)
