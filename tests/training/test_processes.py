"""Training in two processes with one device each: which images they read, and their losses."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import nets
from alexnet_jax.data import loader
from alexnet_jax.data.synthetic import Synthetic
from alexnet_jax.model import towers
from alexnet_jax.training.state import place_initial_state

pytestmark = pytest.mark.slow

FIRST, STEPS = 3, 3  # starts in the middle of an epoch
MESHES = {
    'by tower': dict(mesh__tower=2, mesh__data=1),
    'by data': dict(mesh__tower=1, mesh__data=2),
}


def run_process(port, process):
    """Trains on each mesh as one of two processes, and prints the results by mesh."""
    import jax

    jax.config.update('jax_num_cpu_devices', 1)
    jax.distributed.initialize(f'localhost:{port}', num_processes=2, process_id=process)
    print(json.dumps({name: train(nets.small(**mesh)) for name, mesh in MESHES.items()}))


def train(config):
    """Takes STEPS steps from step FIRST on, and returns this process's labels and the losses."""
    mesh = towers.choose_mesh(config)
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
    return {'labels': labels, 'losses': losses}


@pytest.fixture(scope='module')
def results():
    """Returns the results of two processes, by process and mesh."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
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
