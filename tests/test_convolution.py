import jax
import numpy as np
import pytest

import reference
from alexnet_jax.convolution import convolution, convolved_size

# (pixels across, kernel, stride, padding): the paper's five layers in small, and odd fits.
CASES = [(64, 11, 4, 0), (7, 5, 1, 2), (3, 3, 1, 1), (13, 3, 2, 1), (12, 5, 3, 0), (9, 2, 2, 0)]


def arrays(across, kernel, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, across, across, 3)).astype(np.float32)
    return x, rng.normal(size=(kernel, kernel, 3, 4)).astype(np.float32)


def pads(across, kernel, stride, padding):
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
    """<conv(x, w), g> = <x, dx> = <w, dw>: convolution is linear in each of its arguments."""
    x, w = arrays(across, kernel)
    y, vjp = jax.vjp(lambda x, w: convolution(x, w, stride, padding), x, w)
    g = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    dx, dw = vjp(g)
    whole = np.vdot(y, g)
    np.testing.assert_allclose([np.vdot(x, dx), np.vdot(w, dw)], whole, rtol=1e-3, atol=1e-3)
    # ... and the same in a direction of its own, where each tap counts by itself.
    x2, w2 = arrays(across, kernel, seed=2)
    np.testing.assert_allclose(
        np.vdot(w2, dw), np.vdot(convolution(x, w2, stride, padding), g), rtol=1e-3, atol=1e-2
    )
    np.testing.assert_allclose(
        np.vdot(x2, dx), np.vdot(convolution(x2, w, stride, padding), g), rtol=1e-3, atol=1e-2
    )


def test_224_pixels_give_55():
    """224 is no misprint for 227: the last window hangs 3 zero pixels over the edge."""
    assert convolved_size(224, 11, 4, 0) == 55
    x = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    w = arrays(8, 11)[1]
    padded = np.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0)))
    np.testing.assert_allclose(
        convolution(x, w, 4, 0), convolution(padded, w, 4, 0), rtol=1e-4, atol=1e-3
    )


def test_weight_gradient_is_the_same_on_other_platforms():
    """Elsewhere than on CPU the library's own form is used; here both run."""
    from alexnet_jax.convolution import _kernel_gradient, _kernel_gradient_by_image

    for across, kernel, stride, padding in CASES:
        x, w = arrays(across, kernel)
        y = convolution(x, w, stride, padding)
        g = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
        a, b = (
            f(x, w, g, stride=stride, padding=padding)
            for f in (_kernel_gradient, _kernel_gradient_by_image)
        )
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
