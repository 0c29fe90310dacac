"""Runs of training as a user starts them, and what they leave behind."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np

import nets
from alexnet_jax.data import sources
from alexnet_jax.data.preparation import tfds_sets
from alexnet_jax.training.checkpoint import Position
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.workdir import Workdir

# Small and short: 23 steps, an evaluation after about 11, a checkpoint after about 5.
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
    """Returns the command line of a short run; `settings` have __ in place of the dot."""
    values = SHORT | {'dataset.data_dir': data_dir}
    values |= {name.replace('__', '.'): value for name, value in settings.items()}
    return [
        *(sys.executable, '-m', 'alexnet_jax.main', f'--workdir={workdir}'),
        *(f'--config.{name}={value}' for name, value in values.items()),
        *arguments,
    ]


def start(arguments, optimized=False):
    """Starts a program as a user does; unoptimized, its compilation takes half of the time."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ('JAX_NUM_CPU_DEVICES', 'XLA_FLAGS')
    }
    if not optimized:
        environment['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
    return subprocess.Popen(
        arguments,
        cwd=nets.ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that a signal to its process group does not reach the tests
    )


def run(arguments, optimized=False):
    process = start(arguments, optimized)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_step(workdir, step, process):
    """Waits until the log has reached a step, or the process has ended."""
    folder = Workdir(workdir)
    while process.poll() is None:
        if any(line['step'] >= step for line in folder.read_metrics()):
            return
        time.sleep(0.01)


def final(workdir):
    """Returns the step of the newest checkpoint, and all its arrays by name."""
    folder = Workdir(workdir)
    with folder.open_checkpoints() as checkpoints:
        state, position = checkpoints.restore(state_shapes(folder.read_config(), nets.mesh_of(1)))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return position.step, {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def metrics(workdir):
    """Reads the metrics of a run, without the numbers that depend on the clock."""
    lines = Workdir(workdir).read_metrics()
    return [{k: v for k, v in line.items() if k != 'images_per_second'} for line in lines]


def assert_same_run(workdir, other, tolerance=0.0):
    """Compares the final arrays, bit by bit or within a tolerance, and the metrics."""
    (step, arrays), (other_step, other_arrays) = final(workdir), final(other)
    assert (step, arrays.keys()) == (other_step, other_arrays.keys())
    for name, array in arrays.items():
        np.testing.assert_allclose(array, other_arrays[name], rtol=0, atol=tolerance, err_msg=name)
    if not tolerance:
        assert metrics(workdir) == metrics(other)


def spoil(data_dir, split, index):
    """Flips a bit in an image of the digits in this folder; returns the name of the record."""
    builder = tfds_sets.find_builder('digits', str(data_dir))
    if not builder.is_prepared():
        tfds_sets.prepare(builder)
    shard = next(data_dir.glob(f'digits/*/*{split}.array_record*'))
    source = sources.Records(builder, split)
    data = bytearray(shard.read_bytes())
    data[data.index(source[index]['image']) + 200] ^= 1
    shard.write_bytes(data)
    return source.where(index)


def at_step(state, step):
    """Returns a state with another number of steps done."""
    return state._replace(step=jax.device_put(np.int32(step), state.step.sharding))


def untrained(workdir, config, step=3):
    """Writes a workdir like that of a run, with a checkpoint of the initial state at this step."""
    mesh = nets.mesh_of(1)
    with (
        Workdir(workdir).claim(config, mesh) as folder,
        folder.open_checkpoints(keep=9) as checkpoints,
    ):
        checkpoints.save(at_step(place_initial_state(config, mesh), step), Position(step=step))
        checkpoints.wait()
    return workdir


def logged(folder, errors, **settings):
    """Writes a workdir in which an epoch has ended with each of these top-1 training errors.

    The test errors are a half of them, and the one of the views, at the end, a quarter.
    """
    folder.mkdir(parents=True)
    lines = []
    for epoch, error in enumerate(errors, 1):
        values = {'epoch': float(epoch), 'train/top1_error': error, 'train/loss': 3 * error}
        lines += [{'step': 10 * epoch} | values, {'step': 10 * epoch, 'eval/top1_error': error / 2}]
    lines[-1]['eval_5_views/top1_error'] = errors[-1] / 4
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    with Workdir(folder).claim(nets.small(**settings), nets.mesh_of(1)):
        return folder
