"""Whole runs, as a user starts them."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np

import nets
from alexnet_jax.config.validation import resolve
from alexnet_jax.data import sources
from alexnet_jax.training.checkpoint import Checkpoints, Position
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.workdir import Workdir

# Small and short: 22 steps, evaluated every 11 or so, saved every 5.
SHORT = {
    'model.width': 0.0625,
    'optimizer.batch_size': 128,
    'optimizer.epochs': 2.0,
    'evaluation.every_epochs': 1.0,
    'checkpoint.every_epochs': 0.5,
    'checkpoint.keep': 3,
    'log.every_steps': 4,
    'learning_rate.schedule': 'plateau',
}


def command(workdir, data_dir, *arguments, **settings):
    """The command line; `settings` have __ for the dot."""
    values = SHORT | {'dataset.data_dir': data_dir}
    values |= {name.replace('__', '.'): value for name, value in settings.items()}
    return [
        *(sys.executable, '-m', 'alexnet_jax.main', f'--workdir={workdir}'),
        *(f'--config.{name}={value}' for name, value in values.items()),
        *arguments,
    ]


def start(arguments):
    environment = {
        k: v for k, v in os.environ.items() if k not in ('JAX_NUM_CPU_DEVICES', 'XLA_FLAGS')
    }
    return subprocess.Popen(
        arguments,
        cwd=nets.ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a signal to the group is for it alone
    )


def run(arguments):
    process = start(arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_step(workdir, step, process):
    """Until the log has reached a step."""
    file = workdir / 'metrics.jsonl'
    while process.poll() is None:
        if file.exists() and any(
            f'"step": {s},' in file.read_text() for s in range(step, step + 4)
        ):
            return
        time.sleep(0.01)


def final(workdir):
    """The step and all arrays of the newest checkpoint, by name."""
    config = resolve(json.loads((workdir / 'config.json').read_text())['config'])
    checkpoints = Checkpoints(workdir / 'checkpoints', keep=config.checkpoint.keep)
    state, position = checkpoints.restore(state_shapes(config, nets.mesh_of(1)))
    checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return position.step, {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def metrics(workdir):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != 'images_per_second'} for line in lines]


def spoil(data_dir, split, index):
    """Flips a bit of an image of the digits in this folder; gives the name of the record."""
    builder = sources.find_builder('digits', str(data_dir))
    if not builder.is_prepared():
        sources.prepare(builder)
    shard = next(data_dir.glob(f'digits/*/*{split}.array_record*'))
    source = sources.Records(builder, split)
    data = bytearray(shard.read_bytes())
    data[data.index(source[index]['image']) + 200] ^= 1
    shard.write_bytes(data)
    return source.where(index)


def untrained(workdir, config, step=3):
    """A workdir as a run leaves it, with a checkpoint of the initial state at this step."""
    mesh = nets.mesh_of(1)
    with Workdir(workdir, config, mesh):
        checkpoints = Checkpoints(workdir / 'checkpoints', keep=9)
        checkpoints.save(place_initial_state(config, mesh), Position(step=step))
        checkpoints.wait()
        checkpoints.close()
    return workdir
