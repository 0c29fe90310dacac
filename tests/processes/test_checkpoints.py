"""Checkpoints that several processes write together, and that any other number of them restores.

Two groups of processes each go through a list of scenes, so that few processes are started.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import groups
import nets
from alexnet_jax.model import towers
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.processes import joining, monitor
from alexnet_jax.processes.errors import EXIT_LOST_PROCESS, LostProcess
from alexnet_jax.processes.launch import Launch
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Checkpoints, Position, manager
from alexnet_jax.training.run_files import shared_storage
from alexnet_jax.training.state import state_shapes

pytestmark = [pytest.mark.slow, pytest.mark.groups]

LIMIT = 5  # seconds, in place of SAVE_SECONDS
ERRORS = {2: 0.5, 4: 0.25, 6: 0.75, 8: None}
SAVED = [[4, 6, 8], 8, 4, 0.25]  # what `listed` returns after them, with keep=2


def state_on(tower, data, step, seed=None):
    """Returns a state of the small net on a mesh; its values depend on the step and the seed."""
    rng = np.random.default_rng([step, seed or 0])

    def place(shape):
        values = np.asarray(rng.standard_normal(shape.shape), shape.dtype)
        return jax.make_array_from_callback(shape.shape, shape.sharding, values.__getitem__)

    shapes = shapes_on(tower, data)
    state = jax.tree.map(place, shapes)
    number = np.asarray(step, np.int32)
    placed = jax.make_array_from_callback((), shapes.step.sharding, number.__getitem__)
    return state._replace(step=placed)


def shapes_on(tower, data):
    config = nets.small(mesh__tower=tower, mesh__data=data)
    return state_shapes(config, towers.choose_mesh(config))


def has_same_bits(actual, expected):
    """Returns whether the shards in this process are equal, and are placed alike."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return all(
        x.sharding == y.sharding
        and all(
            np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes()
            for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True)
        )
        for x, y in pairs
    )


def listed(checkpoints):
    return [checkpoints.steps, checkpoints.newest, checkpoints.best, checkpoints.best_error]


def outcome(function):
    """Returns the error that a function raises, with its type, and the seconds that it takes."""
    start = time.monotonic()
    try:
        function()
    except (UserError, LostProcess) as error:
        return [type(error).__name__, str(error), time.monotonic() - start]
    return ['', '', time.monotonic() - start]


# The scenes; they run in each process of a group.


def save_several(group, folder):
    """Saves four steps; returns the list before, before the last one is complete, and after."""
    with Checkpoints(folder / 'towers', keep=2) as checkpoints:
        before = listed(checkpoints)
        for step, error in ERRORS.items():
            checkpoints.save(state_on(2, 1, step), Position(step=step), error)
            during = listed(checkpoints)
        checkpoints.wait()
        return before, during, listed(checkpoints)


def restore_on_another_mesh(group, folder):
    with Checkpoints(folder / 'towers', keep=2) as checkpoints:
        state, position = checkpoints.restore(shapes_on(1, 2))
        best, _ = checkpoints.restore(shapes_on(1, 2), checkpoints.best)
        params = checkpoints.restore_params()
    with Checkpoints(folder / 'nothing', None, group) as checkpoints:
        nothing = checkpoints.restore(shapes_on(1, 2))
    expected = state_on(1, 2, 8)
    return [
        position == Position(step=8),
        has_same_bits(state, expected),
        has_same_bits(best, state_on(1, 2, 4)),
        params['fc8']['bias'].tobytes() == np.asarray(expected.params['fc8']['bias']).tobytes(),
        nothing is None,
    ]


def save_the_same_step(group, folder):
    """Saves other arrays at the same step, and then the same arrays with another position."""
    with Checkpoints(folder / 'again', keep=2) as checkpoints:
        for seed in (1, 2):
            checkpoints.save(state_on(2, 1, 4, seed), Position(step=4))
            checkpoints.wait()
        checkpoints.save(state_on(2, 1, 4, 2), Position(step=4, evaluated=4), 0.5)
        checkpoints.wait()
        state, position = checkpoints.restore(shapes_on(2, 1))
        return [
            has_same_bits(state, state_on(2, 1, 4, 2)),
            position.evaluated,
            listed(checkpoints),
        ]


def use_a_folder_of_its_own(group, folder):
    """Opens a folder that is not on shared storage, though all give it the same name."""
    shared_storage.SECONDS_TO_APPEAR = 1.0
    place = folder / f'host{group.index}' / 'checkpoints'
    return outcome(lambda: Checkpoints(place, keep=2))


def read_what_differs(group, folder):
    """Restores from storage that is damaged as process 1 sees it, and from none there."""
    texts = []
    for name in ('damaged', 'missing'):
        with Checkpoints(folder / f'{name}{group.index}', None, group) as checkpoints:
            texts.append(outcome(lambda c=checkpoints: c.restore(shapes_on(2, 1)))[:2])
    return texts


def read_alone(group, folder):
    """Restores in process 1, without the other."""
    if group.is_first:
        return None
    with Checkpoints(folder / 'towers', keep=None) as checkpoints:
        state, _ = checkpoints.restore(shapes_on(2, 1))
        return [has_same_bits(state, state_on(2, 1, 8)), listed(checkpoints)]


def fill_the_disk_of_process_1(group, folder):
    """Saves when process 1 can write no file; nobody tells process 0."""
    manager.SAVE_SECONDS = LIMIT
    checkpoints = Checkpoints(folder / 'full', keep=2)
    if group.index == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    checkpoints.save(state_on(2, 1, 2), Position(step=2))
    saved = outcome(checkpoints.wait)
    if group.index == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    return saved, outcome(checkpoints.close)


def reach_no_save(group, folder):
    """Saves in process 0 alone; the error ends both processes."""
    checkpoints = Checkpoints(folder / 'late', keep=2)
    state = state_on(2, 1, 2)
    if group.index == 1:
        time.sleep(60)
    result = outcome(lambda: checkpoints.save(state, Position(step=2)))
    print(json.dumps({'reach_no_save': [*result, outcome(checkpoints.close)]}), flush=True)
    raise LostProcess(result[1])


def restore_on_four_devices(group, folder):
    with Checkpoints(folder / 'towers', keep=2) as checkpoints:
        state, position = checkpoints.restore(shapes_on(2, 2))
    return [position.step, has_same_bits(state, state_on(2, 2, 8))]


def save_on_four_devices(group, folder):
    with Checkpoints(folder / 'replicas', keep=2) as checkpoints:
        checkpoints.save(state_on(2, 2, 8), Position(step=8))
        checkpoints.wait()


def kill_process_1_during_a_save(group, folder):
    """Kills process 1 when it has written its part, before process 0 has completed the folder."""
    monitor.LOST_SECONDS = 2.0
    get_barrier = manager.multihost.get_barrier_sync_fn

    def get_deadly_barrier(**arguments):
        wait = get_barrier(**arguments)

        def wait_or_die(*, key, timeout_ms):
            if group.index == 1 and 'async_write_complete.10' in key:
                os.kill(os.getpid(), signal.SIGKILL)
            wait(key=key, timeout_ms=timeout_ms)

        return wait_or_die

    manager.multihost.get_barrier_sync_fn = get_deadly_barrier
    with Checkpoints(folder / 'replicas', keep=1) as checkpoints:
        checkpoints.save(state_on(2, 2, 10), Position(step=10))
        checkpoints.wait()


TWO = [
    save_several,
    restore_on_another_mesh,
    save_the_same_step,
    use_a_folder_of_its_own,
    read_what_differs,
    read_alone,
    fill_the_disk_of_process_1,
    reach_no_save,
]
FOUR = [restore_on_four_devices, save_on_four_devices, kill_process_1_during_a_save]


def run_process(port, process, folder, scenes):
    """Runs scenes as one of two processes; prints a line of JSON for each."""
    launch = Launch(2, process, f'localhost:{port}', None, 'a test')
    with joining.join(launch, 60, 0) as group:
        for scene in scenes:
            if scene is read_what_differs:
                group.first_before_others('copies', lambda: copy_with_differences(group, folder))
            print(json.dumps({scene.__name__: scene(group, folder)}), flush=True)


def copy_with_differences(group, folder):
    if group.is_first:
        for name in ('damaged0', 'damaged1', 'missing0'):
            shutil.copytree(folder / 'towers', folder / name)
        files = (folder / 'damaged1' / '8' / 'state').rglob('d/*')
        file = max(files, key=lambda path: path.stat().st_size)
        file.write_bytes(bytes(file.stat().st_size))


def run_group(folder, scenes, devices):
    """Runs scenes in two processes.

    Returns:
      The results of each scene by process, the exit codes, and what was printed to stderr.
    """
    port = groups.free_port()
    call = (
        'import sys, pathlib, test_checkpoints as t; port, process, folder, scenes = sys.argv[1:]; '
        't.run_process(port, int(process), pathlib.Path(folder), getattr(t, scenes))'
    )
    paths = (nets.ROOT, nets.ROOT / 'tests', Path(__file__).parent)
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', call, str(port), str(process), str(folder), scenes],
            env=os.environ
            | {'PYTHONPATH': ':'.join(map(str, paths)), 'JAX_NUM_CPU_DEVICES': str(devices)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for process in range(2)
    ]
    outputs = [process.communicate(timeout=200) for process in processes]
    results = {}
    for out, _ in outputs:
        for line in out.splitlines():
            if line.startswith('{'):
                for name, result in json.loads(line).items():
                    results.setdefault(name, []).append(result)
    return results, [process.returncode for process in processes], [err for _, err in outputs]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('group')


@pytest.fixture(scope='module')
def two(folder):
    """Returns what two processes with a tower each have done."""
    return run_group(folder, 'TWO', devices=1)


@pytest.fixture(scope='module')
def four(folder, two):
    """Returns what two processes with two devices each have done."""
    return run_group(folder, 'FOUR', devices=2)


def result_of(ran, name):
    """Returns the results of a scene in both processes."""
    results, codes, errors = ran
    assert len(results.get(name, [])) == 2, (codes, errors)
    return results[name]


def test_all_processes_see_the_same_list(two):
    for before, during, after in result_of(two, 'save_several'):
        assert before == [[], None, None, None]
        assert during == after == SAVED


def test_two_processes_restore_on_another_mesh(two):
    """Data parallel, where each has written one of the towers; also the best step, and none."""
    assert result_of(two, 'restore_on_another_mesh') == [[True] * 5] * 2


def test_four_devices_restore_what_two_have_saved(four):
    assert result_of(four, 'restore_on_four_devices') == [[8, True]] * 2


def digests(folder, step=8):
    return json.loads((folder / str(step) / 'digests' / 'metadata').read_text())


@pytest.mark.parametrize('name', ['towers', 'replicas'])
def test_one_process_restores_what_several_have_saved(name, two, four, folder, tmp_path):
    """With the same bits on one device and on two; the digests are those of one process."""
    result_of(four, 'save_on_four_devices')
    for tower in (1, 2):
        with Checkpoints(folder / name, keep=None) as checkpoints:
            state, position = checkpoints.restore(shapes_on(tower, 1), 8)
        assert position == Position(step=8)
        assert has_same_bits(state, state_on(tower, 1, 8))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_on(2, 1, 8), Position(step=8))
        checkpoints.wait()
    assert digests(folder / name) == digests(tmp_path)
    assert len(digests(tmp_path)['arrays']) == len(leaves_by_name(shapes_on(1, 1)._asdict()))


def test_each_process_writes_its_part(two, folder):
    """Neither holds both towers: each writes about half of the bytes."""
    result_of(two, 'save_several')
    sizes = [
        sum(
            path.stat().st_size
            for path in (folder / 'towers' / '8' / 'state' / f'ocdbt.process_{process}').rglob('*')
            if path.is_file()
        )
        for process in range(2)
    ]
    assert min(sizes) > 0.4 * sum(sizes), sizes


def test_a_step_is_written_again_or_its_position_replaced(two):
    expected = [True, 4, [[4], 4, 4, 0.5]]
    assert result_of(two, 'save_the_same_step') == [expected] * 2


def test_storage_that_is_not_shared_is_one_line_in_all_processes(two):
    for kind, text, _ in result_of(two, 'use_a_folder_of_its_own'):
        assert kind == 'UserError'
        assert re.fullmatch(
            'process 1 did not see what process 0 wrote to .*/checkpoints: --workdir must be on '
            'storage that all processes share',
            text,
        )


def test_a_process_that_reads_something_else_is_named(two):
    first, second = result_of(two, 'read_what_differs')
    assert first == [['', '']] * 2
    for (kind, text), reason in zip(second, ['.* cannot be read', 'it is gone'], strict=True):
        assert kind == 'UserError'
        assert re.match(rf'process 1 does not read checkpoint 8 in .* \({reason}\): ', text)


def test_one_process_may_read_alone(two):
    assert result_of(two, 'read_alone') == [None, [True, SAVED]]


def test_a_full_disk_of_one_process_holds_no_process_longer_than_the_limit(two, folder):
    (first, first_close), (second, second_close) = result_of(two, 'fill_the_disk_of_process_1')
    assert second[0] == 'UserError'
    assert re.match('cannot write to the checkpoints in .*: File too large', second[1])
    assert second[2] < LIMIT - 1  # it does not wait for process 0
    assert first[0] == 'LostProcess'
    assert 'process 1 did not finish within the time limit' in first[1]
    assert LIMIT - 1 < first[2] < LIMIT + 10
    assert max(first_close[2], second_close[2]) < LIMIT
    assert not (folder / 'full' / '2').exists()


def test_a_process_that_reaches_no_save_holds_the_other_no_longer_than_the_limit(two, folder):
    results, codes, errors = two
    ((kind, text, seconds, close),) = results['reach_no_save']
    assert kind == 'LostProcess'
    assert text.startswith('process 1 has not reached the barrier "a save of a checkpoint" within')
    assert LIMIT - 1 < seconds < LIMIT + 10
    assert close[2] < LIMIT
    assert codes == [EXIT_LOST_PROCESS] * 2, errors
    assert 'process 1 has not reached the barrier' in errors[0]
    assert not list((folder / 'late').iterdir())


def test_a_kill_during_a_save_leaves_the_checkpoint_before_it(four, folder):
    _, codes, errors = four
    assert codes == [EXIT_LOST_PROCESS, -signal.SIGKILL], errors
    names = {path.name for path in (folder / 'replicas').iterdir()}
    assert '8' in names
    assert '10' not in names
    assert len(names) == 2  # process 0 has written its part of step 10, in a temporary folder
    with Checkpoints(folder / 'replicas', keep=2) as checkpoints:
        state, position = checkpoints.restore(shapes_on(2, 1))
        assert position.step == 8
        assert has_same_bits(state, state_on(2, 1, 8))
        checkpoints.save(state_on(2, 1, 10), Position(step=10))
        checkpoints.wait()
    assert {path.name for path in (folder / 'replicas').iterdir()} == {'8', '10'}
