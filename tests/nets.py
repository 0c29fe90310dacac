"""Small nets with the paper's structure, and ways to run them in tests."""

import collections
import functools
import re
import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, dropout, towers
from alexnet_jax.training.optimizer import Rates
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.step import Hyperparameters, make_train_step

ROOT = Path(__file__).parent.parent
# LLVM's level where none is set; conftest.py sets 0.
OPTIMIZED = {'xla_backend_optimization_level': 3}
COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')


def load(name: str) -> Any:
    """Returns the unresolved settings of a file in configs/."""
    return runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config']()


def full(**overrides: Any) -> schema.Config:
    """Returns configs/ilsvrc2012.py with overrides; in a name, __ stands for the dot."""
    return override(load('ilsvrc2012'), **overrides)


def small(**overrides: Any) -> schema.Config:
    """Returns the paper's net at 1/8 of its width, for crops of 64 of 72 pixels, batches of 8."""
    c = load('digits')
    c.model.width = 0.125
    c.optimizer.batch_size = 8
    c.evaluation.batch_size = 8
    return override(c, **overrides)


def override(raw: Any, **overrides: Any) -> schema.Config:
    """Resolves settings after overrides; in a name, __ stands for the dot."""
    values = raw.to_dict()
    for name, value in overrides.items():
        section = values
        *sections, last = name.split('__')
        for part in sections:
            section = section[part]
        section[last] = value
    return resolve(values)


def mesh_of(tower: int, data: int = 1) -> jax.sharding.Mesh:
    """Returns a mesh of the first devices."""
    return towers.choose_mesh(
        small(model__towers=max(2, tower), mesh__tower=tower, mesh__data=data)
    )


def images(config: schema.Config, number: int, seed: int = 0) -> np.ndarray:
    """Returns random crops as the net takes them, with the mean subtracted."""
    crop = config.augmentation.crop
    return (
        np.random.default_rng(seed).uniform(-128, 128, (number, crop, crop, 3)).astype(np.float32)
    )


def batch(config: schema.Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns a random batch as the loader yields it."""
    rng, n, size = (
        np.random.default_rng(seed),
        config.optimizer.batch_size,
        config.dataset.image_size,
    )
    return {
        'image': rng.integers(0, 256, (n, size, size, 3), np.uint8),
        'label': rng.integers(config.dataset.classes, size=n).astype(np.int32),
    }


def compiled_logits(config: schema.Config, mesh: jax.sharding.Mesh, masks: Any = None) -> Any:
    """Returns the net as a jitted function of (parameters, images) on a mesh.

    Args:
      masks: the key of the dropout masks; None for none.
    """
    graph = alexnet.graph(config)
    specs = alexnet.partitions(config, mesh)
    sharding = towers.spec(mesh, 'images')

    def logits(params: Any, x: Any) -> Any:
        drawn = None if masks is None else dropout.Masks(masks, len(x) * mesh.shape['data'])
        return alexnet.apply(graph, params, x, drawn)

    return jax.jit(jax.shard_map(logits, mesh=mesh, in_specs=(specs, sharding), out_specs=sharding))


@functools.cache
def compiled_step(
    config: schema.Config, mesh: jax.sharding.Mesh, *, optimized: bool = False
) -> jax.stages.Compiled:
    """Compiles a training step, once per process.

    Args:
      optimized: whether LLVM optimizes the program. For the small net this takes 5 of the 10
        seconds, and saves a quarter of 40 ms a step.
    """
    sharding = towers.shardings(mesh, towers.spec(mesh, 'images'))
    arguments = (
        state_shapes(config, mesh),
        {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
            for name, x in batch(config).items()
        },
        constants(),
        hyperparameters(0.0),
    )
    return (
        make_train_step(config, mesh)
        .lower(*arguments)
        .compile(compiler_options=OPTIMIZED if optimized else None)
    )


def run_steps(
    config: schema.Config, mesh: jax.sharding.Mesh, number: int, *, optimized: bool = False
) -> tuple[Any, list[dict[str, float]]]:
    """Trains on random batches, and returns the state and the metrics of each step."""
    step = compiled_step(config, mesh, optimized=optimized)
    state, metrics = place_initial_state(config, mesh), []
    for i in range(number):
        data = towers.put_batch(mesh, batch(config, seed=i))
        state, values = step(state, data, constants(), hyperparameters(0.01))
        metrics.append({name: float(x) for name, x in values.items()})
    return state, metrics


def log(p: Any) -> np.ndarray:
    """Returns the logarithms of probabilities, float32; that of 0 is minus infinity."""
    with np.errstate(divide='ignore'):
        return np.log(np.asarray(p, np.float32))


def constants(value: float = 127.0, size: int = 72) -> augmentation.Constants:
    """Returns the constants of a training set of grey images."""
    mean = np.full((size, size, 3), value, np.float32)
    return augmentation.Constants(mean, np.eye(3, dtype=np.float32))


def hyperparameters(rate: float, deviation: float = 0.0) -> np.ndarray:
    """Returns what a step takes: one learning rate for all parameters, and the colour noise."""
    return Hyperparameters(Rates.equal(rate), deviation).pack()


def collectives(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Counts the collectives of each kind in a compiled program."""
    kinds = re.findall(rf' ({"|".join(COLLECTIVES)})(?:-start)?\(', compiled.as_text() or '')
    return dict(collections.Counter(kinds))


def assert_equal_leaves(actual: Any, expected: Any) -> None:
    """Compares the arrays of two trees, dtypes included, bit by bit."""
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
