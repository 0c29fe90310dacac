"""Small nets with the paper's structure, and ways to run them in tests."""

import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, dropout, towers

ROOT = Path(__file__).parent.parent


def load(name: str) -> Any:
    """The unresolved settings of a file in configs/."""
    return runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config']()


def full(**overrides: Any) -> schema.Config:
    """configs/ilsvrc2012.py with overrides; in a name, __ stands for the dot."""
    return override(load('ilsvrc2012'), **overrides)


def small(**overrides: Any) -> schema.Config:
    """The paper's net, an eighth as wide, on crops of 64 of 72 pixels, batches of 8."""
    c = load('digits')
    c.model.width = 0.125
    c.optimizer.batch_size = 8
    c.evaluation.batch_size = 8
    return override(c, **overrides)


def override(raw: Any, **overrides: Any) -> schema.Config:
    values = raw.to_dict()
    for name, value in overrides.items():
        section = values
        *sections, last = name.split('__')
        for part in sections:
            section = section[part]
        section[last] = value
    return resolve(values)


def mesh_of(tower: int, data: int = 1) -> jax.sharding.Mesh:
    """A mesh of the first devices."""
    return towers.choose_mesh(
        small(model__towers=max(2, tower), mesh__tower=tower, mesh__data=data)
    )


def images(config: schema.Config, number: int, seed: int = 0) -> np.ndarray:
    """Crops with the mean subtracted, as the net reads them."""
    crop = config.augmentation.crop
    return (
        np.random.default_rng(seed).uniform(-128, 128, (number, crop, crop, 3)).astype(np.float32)
    )


def batch(config: schema.Config, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch as the loader gives it."""
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
    """The net as a function of (parameters, images) on a mesh."""
    graph = alexnet.graph(config)
    specs = alexnet.partitions(config, mesh)
    here = towers.spec(mesh, 'images')

    def logits(params: Any, x: Any) -> Any:
        drawn = None if masks is None else dropout.Masks(masks, len(x) * mesh.shape['data'])
        return alexnet.apply(graph, params, x, drawn)

    return jax.jit(jax.shard_map(logits, mesh=mesh, in_specs=(specs, here), out_specs=here))


def constants(value: float = 127.0, size: int = 72) -> augmentation.Constants:
    """Of a training set of grey images."""
    mean = np.full((size, size, 3), value, np.float32)
    return augmentation.Constants(mean, np.eye(3, dtype=np.float32))
