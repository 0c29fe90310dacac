"""The check of the kernel that applies the update rule; tests/training has the rule itself."""

import jax.numpy as jnp

from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.triton import momentum


def test_the_check_of_the_kernel_can_fail(monkeypatch):
    """On an attached device the kernel is tried: a wrong result is noticed."""
    momentum.kernel_works.cache_clear()
    monkeypatch.setattr(momentum, '_updated', momentum._updated_by_formula)
    assert momentum.kernel_works(Platform('cpu'))
    momentum.kernel_works.cache_clear()
    monkeypatch.setattr(momentum, '_updated', lambda w: jnp.stack([w, w]))
    assert not momentum.kernel_works(Platform('cpu'))
    momentum.kernel_works.cache_clear()
