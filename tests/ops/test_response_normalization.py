import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
from alexnet_jax.ops import response_normalization as module
from alexnet_jax.ops.formula import Formula
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.response_normalization import response_normalization
from alexnet_jax.ops.tpu import response_normalization as tpu_kernels
from alexnet_jax.ops.triton import arithmetic, segments
from alexnet_jax.ops.triton import response_normalization as gpu_kernels
from alexnet_jax.ops.triton.arithmetic import Arithmetic

PAPER = dict(size=5, k=2.0, alpha=1e-4, beta=0.75)
# (shape, constants): as many maps as in the paper's two layers, fewer maps than the window, and
# other windows.
CASES = [
    ((2, 3, 3, 48), PAPER),
    ((2, 3, 3, 128), PAPER),
    ((2, 2, 2, 1), PAPER),
    ((2, 2, 2, 4), PAPER),
    ((2, 2, 2, 5), PAPER),
    ((2, 2, 2, 12), dict(size=4, k=1.0, alpha=2e-5, beta=0.75)),
    ((2, 2, 2, 12), dict(size=1, k=2.0, alpha=1e-4, beta=0.5)),
]


def draw(shape, seed):
    """Draws values as large as in conv1's maps.

    So alpha times the sum of squares is not small compared with k.
    """
    return np.random.default_rng(seed).normal(0, 100, shape).astype(np.float32)


@pytest.mark.parametrize(('shape', 'constants'), CASES)
def test_agrees_with_the_formula(shape, constants):
    x = draw(shape, 0)
    y = response_normalization(x, *constants.values())
    assert y.dtype == jnp.float32
    expected = reference.response_normalization(x, **constants, groups=1)
    np.testing.assert_allclose(y, expected, rtol=2e-6)


@pytest.mark.parametrize(('shape', 'constants'), CASES)
def test_derivative_agrees_with_the_jacobian(shape, constants):
    x, g = draw(shape, 0), draw(shape, 1)
    _, vjp = jax.vjp(lambda x: response_normalization(x, *constants.values()), x)
    expected = reference.response_normalization_vjp(x, g, **constants, groups=1)
    np.testing.assert_allclose(vjp(g)[0], expected, rtol=2e-5, atol=2e-6 * np.abs(expected).max())


def test_derivative_agrees_with_automatic_differentiation():
    """A random cotangent shows whether the gradient is inside the window's sum."""
    x, g = draw((2, 4, 4, 16), 0), draw((2, 4, 4, 16), 1)
    for rectify in (False, True):
        function = functools.partial(response_normalization, rectify=rectify)
        _, by_hand = jax.vjp(function, x)
        formula = Formula(**PAPER, rectify=rectify)
        _, automatic = jax.vjp(functools.partial(module._value, formula=formula), x)
        np.testing.assert_allclose(by_hand(g)[0], automatic(g)[0], rtol=1e-4, atol=1e-3)


def test_rectify_applies_a_relu_first():
    x, g = draw((2, 3, 3, 12), 0), draw((2, 3, 3, 12), 1)
    y, vjp = jax.vjp(lambda x: response_normalization(x, rectify=True), x)
    y2, vjp2 = jax.vjp(lambda x: response_normalization(jax.nn.relu(x)), x)
    np.testing.assert_array_equal(y, y2)
    np.testing.assert_allclose(vjp(g)[0], vjp2(g)[0], rtol=1e-6)


def test_bfloat16_is_rounded_once():
    """The arithmetic is in float32, so only rounding the result loses digits."""
    x, g = (jnp.asarray(draw((2, 3, 3, 48), seed), jnp.bfloat16) for seed in (0, 1))
    y, vjp = jax.vjp(response_normalization, x)
    assert y.dtype == vjp(g)[0].dtype == jnp.bfloat16
    x, g = reference.float64(x), reference.float64(g)
    expected = reference.response_normalization(x, **PAPER, groups=1)
    np.testing.assert_allclose(reference.float64(y), expected, rtol=2**-8)
    expected = reference.response_normalization_vjp(x, g, **PAPER, groups=1)
    np.testing.assert_allclose(
        reference.float64(vjp(g.astype(jnp.bfloat16))[0]), expected, rtol=2**-7, atol=1e-2
    )


def test_all_implementations_compute_the_same_function():
    """The setting `implementation` changes only how the function is computed."""
    x, g = draw((2, 3, 3, 48), 0), draw((2, 3, 3, 48), 1)

    def both(implementation):
        function = functools.partial(
            response_normalization, rectify=True, implementation=implementation
        )
        y, vjp = jax.vjp(function, x)
        return y, vjp(g)[0]

    for actual, expected in zip(both('pallas'), both('jax'), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="implementation='cuda' is not one of"):
        response_normalization(x, implementation='cuda')


def test_kernels_are_tried_before_they_are_used(monkeypatch):
    """A kernel that fails or gives wrong results is not used.

    The trial also works while a step for several devices is traced.
    """
    mesh = jax.make_mesh((2,), ('tower',), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.PartitionSpec('tower')
    results, cpu = [], Platform('cpu')

    def function(x):
        results.append(module._kernel_agrees(cpu, 'interpreted'))
        return response_normalization(x)

    mapped = jax.shard_map(function, mesh=mesh, in_specs=place, out_specs=place)
    jax.jit(mapped).trace(draw((2, 8), 0))
    assert results == [True]
    powers = Arithmetic._powers
    monkeypatch.setattr(Arithmetic, '_powers', lambda self, squares: powers(self, 2 * squares))
    assert not module._kernel_agrees(cpu, 'interpreted')
    assert not module._kernel_agrees(cpu, 'tpu')  # there is no TPU
    assert not module._kernel_works(cpu)  # a CPU would interpret the kernels, which is slow


def test_without_triton_the_formula_takes_over(monkeypatch, capsys):
    """JAX has announced that it will remove Triton: then there is one warning, and no error.

    TPUs keep their kernels.
    """
    for imported in (gpu_kernels, tpu_kernels, segments, arithmetic):
        package, _, name = imported.__name__.rpartition('.')
        monkeypatch.delitem(sys.modules, imported.__name__)
        monkeypatch.delattr(sys.modules[package], name)
    monkeypatch.setitem(sys.modules, 'jax.experimental.pallas.triton', None)
    monkeypatch.delattr(sys.modules['jax.experimental.pallas'], 'triton')
    assert not module._kernel_agrees(Platform('cpu'), 'gpu')
    (warning,) = capsys.readouterr().err.splitlines()
    assert 'response normalization runs without its gpu kernel: ' in warning
    assert 'triton' in warning
    assert module._kernels('tpu') is not tpu_kernels  # it was imported again


def test_two_towers_are_not_one_wide_layer():
    """The window ends at the edge of a tower, so only the maps beside the edge differ."""
    x = draw((1, 2, 2, 96), 0)
    one_layer = np.asarray(response_normalization(x))
    halves = np.concatenate([response_normalization(h) for h in np.split(x, 2, axis=-1)], axis=-1)
    differences = np.abs(one_layer - halves).max(axis=(0, 1, 2))
    assert np.flatnonzero(differences).tolist() == [46, 47, 48, 49]


def test_is_a_compiled_primitive():
    """A program that calls it contains one jitted function with a derivative of its own."""
    (outer,) = jax.make_jaxpr(response_normalization)(jnp.ones((1, 1, 1, 8))).eqns
    assert outer.primitive.name == 'custom_vjp_call'
    (inner,) = outer.params['call_jaxpr'].eqns
    assert inner.primitive.name == 'jit'
