"""Curves of range tests, made up."""

import numpy as np

from alexnet_jax.range_test.curve import Range

CHANCE = np.log(10)
TEST = Range(1e-4, 1.0, 400)
RATES = np.array([TEST.rate(step) for step in range(TEST.steps)])


def losses(falls_at, rises_at, low=0.5, noise=0.1, seed=0):
    """Returns losses at RATES that fall from chance to `low`, and rise to twice chance."""
    fall = 1 / (1 + (RATES / falls_at) ** -4)
    rise = 1 / (1 + (RATES / rises_at) ** -16)
    clean = CHANCE - (CHANCE - low) * fall + 2 * CHANCE * rise
    return clean + noise * np.random.default_rng(seed).normal(size=len(RATES))
