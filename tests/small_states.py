"""States with few arrays, which are saved and restored in a few milliseconds."""

import json
import shutil
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.training.checkpoint import Checkpoints, Position


class State(NamedTuple):
    """As in alexnet_jax.training.state."""

    step: Any
    params: Any
    velocity: Any


def state_at(step, seed=None, classes=3, dtype=np.float32):
    """Returns a state; it depends on the seed, which is the step where none is given."""
    rng = np.random.default_rng(step if seed is None else seed)
    kernel, velocity = rng.standard_normal((2, 2, 3, 5), np.float32)
    params = {'conv1': {'kernel_THWIO': kernel}, 'fc8': {'bias': np.zeros(classes, dtype)}}
    state = State(np.int32(step), params, {'trace': {'conv1': {'kernel_THWIO': velocity}}})
    return jax.tree.map(jnp.asarray, state)


def shapes_of(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


SHAPES = shapes_of(state_at(0))


def save(folder, *steps, keep=3, **position):
    """Saves states of these steps; returns the folder."""
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), Position(step=step, **position))
        checkpoints.wait()
    return folder


def restore(folder, keep=3, step=None, shapes=SHAPES):
    with Checkpoints(folder, keep) as checkpoints:
        return checkpoints.restore(shapes, step)


def assert_is(restored, step):
    """Asserts that this is what `save` saved at this step."""
    state, position = restored
    assert position.step == step
    jax.tree.map(np.testing.assert_array_equal, state, state_at(step))


def data_files(step_folder):
    """Returns the files with the values of arrays, the largest one first."""
    return sorted((step_folder / 'state').rglob('d/*'), key=lambda path: -path.stat().st_size)


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()
    }


def as_before_digests(step_folder):
    """Makes a checkpoint as versions before digests wrote it."""
    shutil.rmtree(step_folder / 'digests', ignore_errors=True)
    file = step_folder / '_CHECKPOINT_METADATA'
    values = json.loads(file.read_text())
    values['item_handlers'].pop('digests', None)
    file.write_text(json.dumps(values))


def assert_no_thread_is_left(before):
    """Asserts that all threads but these have ended, or do so within seconds."""
    end = time.monotonic() + 10
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < end, left
        time.sleep(0.01)
