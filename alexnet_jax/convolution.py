"""Convolution as the 2012 code sizes it (§3.5), with a weight gradient that suits the platform."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def convolved_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Pixels across after a convolution: 1 + ceil((2 padding + size - kernel) / stride).

    The 2012 code rounds up (layer.py:1004), so that 224 pixels under an 11x11 kernel with stride 4
    give 55, the last window hanging 3 zero pixels over the edge; the paper's 224 is no misprint.
    """
    return 1 + -(-(2 * padding + size - kernel) // stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x_BHWI: Array, kernel_HWIO: Array, stride: int, padding: int) -> Array:
    """Convolution with `padding` zero pixels on every side and what the stride lacks right and bottom.

    Args:
      x_BHWI: (images, rows, columns, maps in).
      kernel_HWIO: (kernel, kernel, maps in, maps out), square.

    Returns:
      (images, rows', columns', maps out), sizes by `convolved_size`.
    """
    return _plain(x_BHWI, kernel_HWIO, stride, padding)


def _plain(x_BHWI: Array, kernel_HWIO: Array, stride: int, padding: int) -> Array:
    pads = _pads(x_BHWI, kernel_HWIO, stride, padding)
    return lax.conv_general_dilated(
        x_BHWI, kernel_HWIO, (stride, stride), pads, dimension_numbers=LAYOUT
    )


def _pads(
    x_BHWI: Array, kernel_HWIO: Array, stride: int, padding: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    def pads(size: int) -> tuple[int, int]:
        kernel = kernel_HWIO.shape[0]
        out = convolved_size(size, kernel, stride, padding)
        return padding, (out - 1) * stride + kernel - size - padding

    return pads(x_BHWI.shape[1]), pads(x_BHWI.shape[2])


def _forward(x: Array, kernel: Array, stride: int, padding: int) -> tuple[Array, tuple]:
    return _plain(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, saved: tuple[Array, Array], g: Array) -> tuple:
    x, kernel = saved
    transpose = jax.vjp(lambda x: _plain(x, kernel, stride, padding), x)[1]
    d_kernel = lax.platform_dependent(
        x,
        kernel,
        g,
        cpu=functools.partial(_kernel_gradient_by_position, stride=stride, padding=padding),
        default=functools.partial(_kernel_gradient, stride=stride, padding=padding),
    )
    return *transpose(g), d_kernel


convolution.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, kernel: Array, g: Array, *, stride: int, padding: int) -> Array:
    """The library's own: a convolution whose kernel is as large as the maps."""
    return jax.vjp(lambda kernel: _plain(x, kernel, stride, padding), kernel)[1](g)[0]


def _kernel_gradient_by_position(
    x: Array, kernel: Array, g: Array, *, stride: int, padding: int
) -> Array:
    """One matrix product for each position in the kernel, summed over images and pixels.

    XLA's CPU back end has no fast path for the library's form: for conv2 this is 3.5 times as fast
    (docs/log.md). A kernel with a stride is folded first: blocks of stride x stride pixels
    become maps, so that the stride is one.
    """
    size, _, maps_in, maps_out = kernel.shape
    folded = -(-size // stride)
    images, rows, columns, _ = g.shape
    (top, _), (left, _) = _pads(x, kernel, stride, padding)

    def bottom(out: int, have: int, before: int) -> int:
        return (out - 1 + folded) * stride - have - before

    pads = (top, bottom(rows, x.shape[1], top)), (left, bottom(columns, x.shape[2], left))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    if stride > 1:
        down, across = rows - 1 + folded, columns - 1 + folded
        x = x.reshape(images, down, stride, across, stride, maps_in).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(images, down, across, stride * stride * maps_in)
    g = g.reshape(-1, maps_out)
    products = [
        x[:, i : i + rows, j : j + columns].reshape(-1, x.shape[-1]).T @ g
        for i in range(folded)
        for j in range(folded)
    ]
    d = jnp.stack(products).reshape(folded, folded, stride, stride, maps_in, maps_out)
    d = d.transpose(0, 2, 1, 3, 4, 5).reshape(folded * stride, folded * stride, maps_in, maps_out)
    return d[:size, :size]
