"""Several processes with one device each: the images that each reads, and the same steps."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.data import loader
from alexnet_jax.data.synthetic import Synthetic
from alexnet_jax.model import towers
from alexnet_jax.training.optimizer import Rates
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.step import make_train_step

# Where a process of the test finds this module and those that it imports.
PYTHON_PATH = (nets.ROOT, nets.ROOT / 'tests', Path(__file__).parent)
FIRST, STEPS = 3, 3  # starts in the middle of an epoch


def run_process(port, process, tower, data):
    """Trains in a process of its own, and prints the labels and the losses."""
    import jax

    jax.config.update('jax_num_cpu_devices', 1)
    jax.distributed.initialize(f'localhost:{port}', num_processes=2, process_id=process)
    print(json.dumps(train(nets.small(mesh__tower=tower, mesh__data=data))))


def train(config):
    """Returns the labels of this process's rows and the losses, for STEPS steps from FIRST on."""
    mesh = towers.choose_mesh(config)
    rows = towers.rows_of_process(mesh, 8)
    batches = loader.training_batches(
        Synthetic(30, 72, 10), loader.Reading(72), 0, 8, FIRST, rows=rows
    )
    step = make_train_step(config, mesh)
    state, labels, losses = place_initial_state(config, mesh), [], []
    for _ in range(STEPS):
        batch = next(batches)
        labels.append(batch['label'].tolist())
        state, metrics = step(
            state,
            towers.put_batch(mesh, batch),
            nets.constants(),
            Rates.equal(0.01),
            jnp.float32(0),
        )
        losses.append(float(metrics['loss']))
    return {'labels': labels, 'losses': losses}


@pytest.mark.slow
@pytest.mark.parametrize(('tower', 'data'), [(2, 1), (1, 2)])
def test_processes_read_their_rows_of_the_batch_whatever_their_tower(tower, data):
    """With one tower each they read the same images; with half of the batch each, their half.

    In both cases the steps are those of a single process.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    call = 'import sys, test_processes as t; t.run_process(*map(int, sys.argv[1:]))'
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', call, *map(str, (port, process, tower, data))],
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, PYTHON_PATH))),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for process in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, ends, strict=True):
        assert process.returncode == 0, err[-2000:]
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in ends)
    alone = train(nets.small(mesh__tower=1, mesh__data=1))
    if data == 1:
        assert first['labels'] == second['labels'] == alone['labels']
    else:
        pairs = zip(first['labels'], second['labels'], strict=True)
        assert [a + b for a, b in pairs] == alone['labels']
    for output in (first, second):
        np.testing.assert_allclose(output['losses'], alone['losses'], rtol=1e-5)
