"""Two processes with one device each: the images that they read, their losses and evaluations."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import groups
import nets
from alexnet_jax.data.loading import loader
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.data.synthetic import Synthetic
from alexnet_jax.model import memory, towers
from alexnet_jax.training.run_files.inputs_file import Inputs
from alexnet_jax.training.state import find_nonfinite, place_constants, place_initial_state
from alexnet_jax.training.validation import make_evaluate

pytestmark = [pytest.mark.slow, pytest.mark.groups]

FIRST, STEPS = 3, 3  # starts in the middle of an epoch
MESHES = {
    'by tower': dict(mesh__tower=2, mesh__data=1),
    'by data': dict(mesh__tower=1, mesh__data=2),
}


IMAGES = 11  # of the test set; the last batch of 8 is filled up with five that do not count


def run_process(port, process):
    """Trains on each mesh as one of two processes, and prints the results by mesh."""
    import jax
    from jax.experimental import multihost_utils

    jax.config.update('jax_num_cpu_devices', 1)
    jax.distributed.initialize(f'localhost:{port}', num_processes=2, process_id=process)

    def compare(*_, **__):
        raise AssertionError('JAX compares an array over all processes')

    multihost_utils.assert_equal = compare
    results = {name: train(nets.small(**mesh)) for name, mesh in MESHES.items()}
    print(json.dumps(results | {'default': list(towers.choose_mesh(nets.small()).shape.values())}))


def train(config):
    """Takes STEPS steps from step FIRST on, evaluates, and returns what this process has seen."""
    mesh = towers.choose_mesh(config)
    memory.check(config, mesh)
    rows = towers.rows_of_process(mesh, 8)
    batches = loader.training_batches(
        Synthetic(30, 72, 10), loader.Reading(72), 0, 8, FIRST, rows=rows
    )
    step = nets.compiled_step(config, mesh)
    state, labels, losses = place_initial_state(config, mesh), [], []
    for _ in range(STEPS):
        batch = next(batches)
        labels.append(batch['label'].tolist())
        state, metrics = step(
            state,
            towers.put_batch(mesh, batch),
            nets.constants(),
            nets.hyperparameters(0.01),
        )
        losses.append(float(metrics['loss']))
    kernel_THWIO = towers.fetch(mesh, state.params['conv1']['kernel_THWIO'])
    return {
        'labels': labels,
        'losses': losses,
        'evaluation': evaluate(config, mesh, state.params),
        'kernel': np.abs(kernel_THWIO).sum(axis=(1, 2, 3)).tolist(),
        'nonfinite': find_nonfinite(spoil_last_tower(state)),
    }


def evaluate(config, mesh, params):
    """Evaluates the centre crop of IMAGES images, of which this process reads its rows."""
    constants = place_constants(config, mesh, Inputs(nets.constants().mean_HWC, COLOURS_2012, ()))
    batches = loader.evaluation_batches(
        Synthetic(IMAGES, 72, 10), loader.Reading(72), 8, towers.rows_of_process(mesh, 8)
    )
    return make_evaluate(config, mesh)(params, constants.mean_HWC, batches, 1, IMAGES)


def spoil_last_tower(state):
    """Returns the state with kernels of conv1 that are NaN in the last tower alone."""
    kernel = state.params['conv1']['kernel_THWIO']
    x = np.zeros(kernel.shape, np.float32)
    x[-1] = np.nan
    conv1 = state.params['conv1'] | {'kernel_THWIO': towers.put(x, kernel.sharding)}
    return state._replace(params=state.params | {'conv1': conv1})


@pytest.fixture(scope='module')
def results():
    """Returns the results of two processes, by process and mesh."""
    port = groups.free_port()
    call = 'import sys, test_processes as t; t.run_process(*map(int, sys.argv[1:]))'
    folders = (nets.ROOT, nets.ROOT / 'tests', nets.ROOT / 'tests' / 'training')
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', call, str(port), str(process)],
            env=os.environ | {'PYTHONPATH': ':'.join(map(str, folders))},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for process in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.fixture(scope='module')
def one_process():
    """Returns the results of one process with one device."""
    return train(nets.small(mesh__tower=1, mesh__data=1))


@pytest.mark.parametrize('name', MESHES)
def test_processes_read_the_batch_by_data_shard_never_by_tower(name, results, one_process):
    """Processes with a tower each read the same images; those with a data shard each, their half.

    Together they take the same steps as one process that reads the entire batch.
    """
    first, second = (meshes[name] for meshes in results)
    if name == 'by tower':
        assert first['labels'] == second['labels'] == one_process['labels']
    else:
        pairs = zip(first['labels'], second['labels'], strict=True)
        assert [a + b for a, b in pairs] == one_process['labels']
    for result in (first, second):
        np.testing.assert_allclose(result['losses'], one_process['losses'], rtol=1e-5)


@pytest.mark.parametrize('name', MESHES)
def test_every_image_is_evaluated_once(name, results, one_process):
    """Each process has the results of all images, although it reads only its rows."""
    assert one_process['evaluation']['images'] == IMAGES
    for meshes in results:
        assert meshes[name]['evaluation'] == pytest.approx(one_process['evaluation'], rel=1e-5)


@pytest.mark.parametrize('name', MESHES)
def test_every_process_knows_the_state_of_the_others(name, results, one_process):
    """Each fetches the kernels of both towers, and learns of values that are not finite."""
    assert np.shape(one_process['kernel']) == (2, 6)
    for meshes in results:
        np.testing.assert_allclose(meshes[name]['kernel'], one_process['kernel'], rtol=1e-5)
        assert meshes[name]['nonfinite'] == ['params.conv1.kernel_THWIO']


def test_two_processes_hold_a_tower_each_by_default(results):
    assert [meshes['default'] for meshes in results] == [[1, 2], [1, 2]]
