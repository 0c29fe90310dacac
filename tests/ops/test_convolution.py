import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
import reference
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.ops import convolution as implementation
from alexnet_jax.ops import winograd
from alexnet_jax.ops.convolution import (
    convolution,
    convolution_at_test_time,
    convolved_size,
    padding_after,
    relu_with_convolution,
    unshared_convolution,
)
from devices import run

# (pixels across, kernel, stride, padding): kernels like those of the paper's layers, and sizes that
# the stride does not divide.
CASES = [(64, 11, 4, 0), (7, 5, 1, 2), (3, 3, 1, 1), (13, 3, 2, 1), (12, 5, 3, 0), (9, 2, 2, 0)]
INCOMPLETE = [(64, 11, 4, 0), (12, 5, 3, 0), (9, 2, 2, 0), (8, 3, 4, 2)]


def arrays(across, kernel, seed=0):
    """Returns two random images and a kernel."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, across, across, 3)).astype(np.float32)
    return x, rng.normal(size=(kernel, kernel, 3, 4)).astype(np.float32)


def pads(across, kernel, stride, padding):
    """Returns the zeros before and after the rows, and before and after the columns."""
    out = convolved_size(across, kernel, stride, padding)
    return ((padding, (out - 1) * stride + kernel - across - padding),) * 2


@pytest.mark.parametrize(('across', 'kernel', 'stride', 'padding'), CASES)
def test_agrees_with_the_definition(across, kernel, stride, padding):
    x, w = arrays(across, kernel)
    expected = reference.convolution(
        x, w, np.zeros(4), stride, pads(across, kernel, stride, padding), groups=1
    )
    np.testing.assert_allclose(convolution(x, w, stride, padding), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('across', 'kernel', 'stride', 'padding'), CASES)
def test_gradients_are_those_of_a_linear_map(across, kernel, stride, padding):
    """A convolution is linear in each argument: <conv(x, w), g> = <x, dx> = <w, dw>."""
    x, w = arrays(across, kernel)
    y, vjp = jax.vjp(lambda x, w: convolution(x, w, stride, padding), x, w)
    g = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    dx, dw = vjp(g)
    product = np.vdot(y, g)
    np.testing.assert_allclose([np.vdot(x, dx), np.vdot(w, dw)], product, rtol=1e-3, atol=1e-3)
    # The same holds in another random direction, to which each element contributes separately.
    x2, w2 = arrays(across, kernel, seed=2)
    np.testing.assert_allclose(
        np.vdot(w2, dw), np.vdot(convolution(x, w2, stride, padding), g), rtol=1e-3, atol=1e-2
    )
    np.testing.assert_allclose(
        np.vdot(x2, dx), np.vdot(convolution(x2, w, stride, padding), g), rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize(('across', 'kernel', 'stride', 'padding'), INCOMPLETE)
def test_without_extra_padding_the_incomplete_window_is_left_out(across, kernel, stride, padding):
    """What is left is the same: values, and gradients where the last windows get none."""
    x, w = arrays(across, kernel)
    sizes = dict(stride=stride, padding=padding)
    padded, padded_vjp = jax.vjp(lambda x, w: convolution(x, w, **sizes), x, w)
    y, vjp = jax.vjp(lambda x, w: convolution(x, w, **sizes, extra_padding=False), x, w)
    out = padded.shape[1] - 1
    assert out == (across + 2 * padding - kernel) // stride + 1  # as PyTorch and Caffe have it
    np.testing.assert_allclose(y, padded[:, :out, :out], rtol=1e-4, atol=1e-4)
    g = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    expected = padded_vjp(jnp.pad(g, ((0, 0), (0, 1), (0, 1), (0, 0))))
    for a, b in zip(vjp(g), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('extra_padding', [True, False])
@pytest.mark.parametrize(('across', 'kernel', 'stride', 'padding'), [*CASES, *INCOMPLETE])
def test_with_its_padding_written_out_a_size_is_rounded_down(
    across, kernel, stride, padding, extra_padding
):
    """As ONNX and PyTorch do: both get the same number of windows, and no more padding."""
    steps = (stride, padding, extra_padding)
    after = padding_after(across, kernel, *steps)
    windows, rest = divmod(padding + across + after - kernel, stride)
    assert windows + 1 == convolved_size(across, kernel, *steps)
    assert after >= padding
    assert not rest or after == padding


def test_torchvisions_first_layer_has_55_pixels():
    """Two pixels of padding and no more: rounded up, it would have 56."""
    assert convolved_size(224, 11, 4, 2, extra_padding=False) == 55
    assert convolved_size(224, 11, 4, 2) == 56


def test_224_pixels_give_55():
    """The paper's 224 is not a misprint of 227: the last window extends 3 zeros past the edge."""
    assert convolved_size(224, 11, 4, 0) == 55
    x = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    w = arrays(8, 11)[1]
    padded = np.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0)))
    np.testing.assert_allclose(
        convolution(x, w, 4, 0), convolution(padded, w, 4, 0), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize(
    ('across', 'kernel', *implementation.Steps._fields),
    [*((*case, True) for case in CASES), *((*case, False) for case in INCOMPLETE)],
)
def test_is_the_same_on_other_platforms(across, kernel, stride, padding, extra_padding):
    """Other platforms than the CPU use XLA's convolution; here the CPU runs all the forms."""
    steps = implementation.Steps(stride, padding, extra_padding)
    x, w = arrays(across, kernel)
    out = convolved_size(across, kernel, *steps)
    g = np.random.default_rng(1).normal(size=(2, out, out, 4)).astype(np.float32)

    def convolve_all(x, w, g):
        """Computes the result and the derivative with XLA's convolution, and with our forms."""
        forms = [implementation._convolve, implementation._convolve_folded]
        derivative = implementation._derivative
        if -(-kernel // stride) in winograd.KERNELS:
            forms.append(implementation._convolve_tiles)
        by_image = implementation._derivative_by_image(x, w, g, steps)
        values = [form(x, w, steps) for form in forms]
        return values, [*(derivative(form)(x, w, g, steps) for form in forms), by_image]

    (value, *values), (gradients, *others) = run(convolve_all, x, w, g)
    for other in values:
        np.testing.assert_allclose(other, value, rtol=1e-3, atol=1e-3)
    for other in others:
        for actual, expected in zip(other, gradients, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_on_gpus_blocks_of_an_images_pixels_become_maps():
    """Its matrix units read 8 maps or more at once: conv1 in both passes, and no other layer."""

    def maps_read(maps_in, kernel, stride):
        x = jax.ShapeDtypeStruct((2, 63, 63, maps_in), jnp.bfloat16)
        weights = jax.ShapeDtypeStruct((kernel, kernel, maps_in, 8), jnp.bfloat16)

        def loss(weights, x):
            return convolution(x, weights, stride, 0).astype(jnp.float32).sum()

        traced = jax.jit(jax.value_and_grad(loss)).trace(weights, x)
        text = traced.lower(lowering_platforms=('cuda',)).as_text()
        operands = re.findall(r'stablehlo.convolution.*?: \(tensor<([\dx]+)xbf16>', text)
        return sorted(int(operand.rpartition('x')[2]) for operand in operands)

    assert maps_read(3, 11, 4) == [48, 48]
    assert maps_read(16, 11, 4) == [16, 16]
    assert maps_read(3, 3, 1) == [3, 3]


def test_the_papers_layers_are_computed_by_tiles():
    """On the CPU, all five take less than 70 % of the definition's multiplications."""
    config = nets.full()
    size, maps_in = config.augmentation.crop, 3
    for row, layer in zip(layer_table(config), config.model.convolutions().values(), strict=False):
        kernel = jax.ShapeDtypeStruct((layer.kernel, layer.kernel, maps_in, row.maps), np.float32)
        x = jax.ShapeDtypeStruct((1, size, size, maps_in), np.float32)
        steps = implementation.Steps(layer.stride, layer.padding)
        assert implementation._suits_tiles(x, kernel, steps)
        size, maps_in = row.pooled, row.maps


def test_equal_weights_at_all_places_are_a_convolution():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 9, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)
    for steps in ((1, 1), (2, 0), (2, 1), (4, 0, True), (4, 0, False)):
        expected = convolution(x, kernel, *steps)
        kernels = jnp.broadcast_to(kernel, (*expected.shape[1:3], *kernel.shape))
        actual = unshared_convolution(x, kernels, *steps)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_place_depends_on_its_own_weights_only():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 4, 4, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 4, 3, 3, 2, 5)), jnp.float32)
    gradient = jax.grad(lambda k: unshared_convolution(x, k, 1, 1)[0, 1, 2].sum())(kernel)
    elsewhere = np.ones((4, 4), bool)
    elsewhere[1, 2] = False
    assert np.any(np.asarray(gradient)[1, 2])
    assert not np.any(np.asarray(gradient)[elsewhere])


# Geometries of the paper's layers, at fewer pixels that are not a multiple of the tile, with the
# number of maps in.
AT_TEST_TIME = [
    ('conv1', 124, 11, 4, 0, True, 3),
    ('torchvision_conv1', 122, 11, 4, 2, False, 3),
    ('conv2', 26, 5, 1, 2, True, 16),
    ('conv3', 13, 3, 1, 1, True, 16),
]


def large_arrays(images, across, kernel, maps):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, across, across, maps)).astype(np.float32)
    return x, rng.normal(size=(kernel, kernel, maps, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ('across', 'kernel', 'stride', 'padding', 'extra_padding', 'maps'),
    [case[1:] for case in AT_TEST_TIME],
    ids=[case[0] for case in AT_TEST_TIME],
)
def test_at_test_time_it_is_the_same_convolution(
    monkeypatch, across, kernel, stride, padding, extra_padding, maps
):
    """Large tiles round about ten times as much as other forms (test_winograd.py)."""
    x, w = large_arrays(4, across, kernel, maps)
    calls, in_large_tiles = [], winograd.convolution_in_large_tiles

    def record(*arguments):
        calls.append(arguments)
        return in_large_tiles(*arguments)

    monkeypatch.setattr(winograd, 'convolution_in_large_tiles', record)
    steps = (stride, padding, extra_padding)
    y = run(lambda x, w: convolution_at_test_time(x, w, *steps), x, w)
    assert len(calls) == 1
    expected = run(lambda x, w: convolution(x, w, *steps), x, w)
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() < 5e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    ('images', 'across', 'maps'),
    [(3, 13, 16), (4, 13, 3), (4, 2, 16)],
    ids=['few images', 'few maps', 'few pixels'],
)
def test_at_test_time_large_tiles_are_left_out_where_they_save_nothing(images, across, maps):
    x, w = large_arrays(images, across, 3, maps)
    y = convolution_at_test_time(x, w, 1, 1)
    np.testing.assert_array_equal(y, convolution(x, w, 1, 1))


def test_at_test_time_the_dtype_is_kept():
    x, w = large_arrays(4, 13, 3, 16)
    half = jax.eval_shape(
        lambda x, w: convolution_at_test_time(x, w, 1, 1), jnp.bfloat16(x), jnp.bfloat16(w)
    )
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_relu_with_a_convolution_is_relu(dtype):
    """All values and derivatives are those of `jax.nn.relu`, for special numbers too."""
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-30, -1e-30]
    rng = np.random.default_rng(0)
    x = jnp.asarray([*special, *rng.normal(size=100)], dtype)
    g = jnp.asarray(rng.normal(size=x.shape), dtype)

    def value_and_derivative(function):
        y, vjp = jax.vjp(function, x)
        return y, function(x), vjp(g)[0]

    actual, expected = (value_and_derivative(f) for f in (relu_with_convolution, jax.nn.relu))
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(np.float32(a), np.float32(b))
    assert not actual[-1][np.asarray(actual[0]) == 0].any()


def test_relu_with_a_convolution_keeps_its_result_alone():
    """The sums before it are not needed again, so cuDNN need not write them."""
    x = jnp.arange(-3.0, 3.0)
    _, vjp = jax.vjp(relu_with_convolution, x)
    (kept,) = (a for a in jax.tree.leaves(vjp) if a.shape == x.shape)
    np.testing.assert_array_equal(kept, jnp.maximum(x, 0.0))
