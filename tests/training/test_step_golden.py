"""The losses of 100 steps with the whole recipe are those of a file: no number changes unnoticed.

A new version of JAX, NumPy or Pillow, or a change here that is meant to leave the numbers alone,
must give the same losses. If a change is meant, this writes the file anew, and the reason belongs
into the message of the commit:

    WRITE_GOLDEN_LOSSES=1 python -m pytest -n0 tests/training/test_step_golden.py

The losses were the same within TOLERANCE with JAX 0.10.2 on Python 3.11 and JAX 0.12.0 on Python
3.13, with and without LLVM's optimizations, and on one device and two.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

import nets
from alexnet_jax.config.durations import durations
from alexnet_jax.data import augmentation, sources
from alexnet_jax.data.loading import loader
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.model import towers
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import compute_inputs, place_constants, place_initial_state
from alexnet_jax.training.step import Hyperparameters, make_train_step

FILE = Path(__file__).parent / 'golden_losses.json'
STEPS = 100
TOLERANCE = 1e-4  # relative

# In 100 steps, which are 2.2 epochs, conv1's learning rate falls, conv1 is frozen, the noise ends,
# and the learning rate of all layers falls; the loss falls from 3.0 to 2.3.
RECIPE = {
    'dataset__image_size': 56,
    'augmentation__crop': 48,
    'augmentation__mirror': True,
    'augmentation__images_per_draw': 2,
    'augmentation__colour': dict(noise='root', deviation=0.1, divide=True, until_epoch=1.5),
    'model__conv1__then': ('relu', 'response_normalization', 'max_pooling'),
    'model__conv2__then': (
        'relu',
        'response_normalization',
        'spatial_normalization',
        'max_pooling',
    ),
    'model__response_normalization__alpha': 1e-3,
    'model__width': 0.0625,
    'model__fc6__std': 0.05,
    'model__fc8__std': 0.02,
    'optimizer__batch_size': 32,
    'optimizer__bias_rate_factor': 2.0,
    'optimizer__bias_rate_falls': False,
    'optimizer__bias_weight_decay': 0.0,
    'learning_rate__initial': 0.003,
    'learning_rate__steps': dict(divide_by=10.0, epochs=(1.9,)),
    'learning_rate__conv1': dict(lower_at=1.0, divide_by=10.0, freeze_at=1.4),
}


def losses(data_dir, steps=STEPS, tower=2, optimized=False, **changes):
    """Returns the losses of the first steps on the digits."""
    config = nets.small(**RECIPE | {'dataset__data_dir': data_dir} | changes)
    mesh, splits = nets.mesh_of(tower), sources.open_splits(config.dataset)
    plan = durations(config, len(splits.train))
    batches = loader.training_batches(
        splits.train, loader.Reading.from_config(config), config.seed, plan.batch_size, 0
    )
    # The digits are grey: the principal colours are those of ImageNet.
    colours = COLOURS_2012.eigenvectors * np.sqrt(COLOURS_2012.eigenvalues)
    constants = place_constants(config, mesh, compute_inputs(config, splits))
    constants = constants._replace(colours=np.float32(colours))
    state, step, values = place_initial_state(config, mesh), None, []
    rng = np.random.default_rng(0)
    for number, batch in zip(range(steps), batches, strict=False):
        # The digits have areas of one colour, where values tie, and rounding decides which pixels
        # of a pool get its gradient. Noise leaves no ties.
        batch['image'] ^= rng.integers(0, 64, batch['image'].shape, np.uint8)
        arguments = (
            state,
            towers.put_batch(mesh, batch),
            constants,
            Hyperparameters.at(config, plan.epoch(number), Progress()).pack(),
        )
        if step is None:
            options = nets.OPTIMIZED if optimized else None
            step = make_train_step(config, mesh).lower(*arguments).compile(options)
        state, metrics = step(*arguments)
        values.append(metrics['loss'])
    return [float(x) for x in values]


@functools.cache
def expected():
    return json.loads(FILE.read_text())['losses']


def difference(actual):
    """Returns the largest relative difference from the file."""
    return np.abs(np.asarray(actual) / expected()[: len(actual)] - 1).max()


def test_losses_are_those_of_the_file(data_dir):
    actual = losses(data_dir)
    if os.environ.get('WRITE_GOLDEN_LOSSES'):
        FILE.write_text(json.dumps({'losses': actual}, indent=1) + '\n')
        expected.cache_clear()
    assert len(expected()) == STEPS
    assert np.mean(actual[-5:]) < 0.8 * actual[0]  # it learns
    assert difference(actual) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        {'model__fc7__dropout': 0.49},
        {'model__response_normalization__alpha': 1.1e-3},
        {'optimizer__momentum': 0.89},
        {'optimizer__bias_rate_factor': 1.9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_small_change_of_the_recipe_is_seen(change, data_dir):
    assert difference(losses(data_dir, steps=8, **change)) > TOLERANCE


@pytest.mark.slow
def test_another_probability_of_a_flip_is_seen(data_dir, monkeypatch):
    draw_views = augmentation.draw_views

    def draw_with_fewer_flips(*arguments):
        draw = draw_views(*arguments)
        return draw._replace(mirrored=draw.mirrored & (draw.top > 0))  # 4/9 of the images

    monkeypatch.setattr(augmentation, 'draw_views', draw_with_fewer_flips)
    assert difference(losses(data_dir, steps=8)) > TOLERANCE
