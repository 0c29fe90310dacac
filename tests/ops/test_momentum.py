"""The kernel of the update rule for one array; tests/training has the rules of a net."""

import sys

import jax.numpy as jnp
import numpy as np

from alexnet_jax.ops import momentum
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.triton import momentum as kernel
from alexnet_jax.ops.triton import segments


def test_the_kernel_agrees_with_the_formula_of_its_check():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 20, 40)), jnp.float32)
    actual = momentum._updated(w, interpret=True)
    np.testing.assert_allclose(actual, momentum._updated_by_formula(w), rtol=1e-5, atol=1e-6)


def test_the_check_of_the_kernel_can_fail(monkeypatch):
    """On an attached device the kernel is tried: a wrong result is noticed."""
    check = momentum.kernel_works.__wrapped__
    monkeypatch.setattr(momentum, '_updated', momentum._updated_by_formula)
    assert check(Platform('cpu'))
    monkeypatch.setattr(momentum, '_updated', lambda w: jnp.stack([w, w]))
    assert not check(Platform('cpu'))


def test_without_triton_the_arrays_are_updated_by_plain_jax(monkeypatch, capsys):
    """JAX has announced that it will remove Triton: then there is one warning, and no error."""
    for module in (kernel, segments):
        package, _, name = module.__name__.rpartition('.')
        monkeypatch.delitem(sys.modules, module.__name__)
        monkeypatch.delattr(sys.modules[package], name)
    monkeypatch.setitem(sys.modules, 'jax.experimental.pallas.triton', None)
    monkeypatch.delattr(sys.modules['jax.experimental.pallas'], 'triton')
    assert not momentum.kernel_works.__wrapped__(Platform('cpu'))
    (warning,) = capsys.readouterr().err.splitlines()
    assert 'convolution kernels and biases are updated without the kernel: ' in warning
    assert 'triton' in warning
