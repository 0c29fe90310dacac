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
    """Convolution, zeros around: `padding` on all sides, what the stride lacks right and bottom.

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
        cpu=functools.partial(_kernel_gradient_by_image, stride=stride, padding=padding),
        default=functools.partial(_kernel_gradient, stride=stride, padding=padding),
    )
    return *transpose(g), d_kernel


convolution.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, kernel: Array, g: Array, *, stride: int, padding: int) -> Array:
    """The library's own: a convolution whose kernel is as large as the maps."""
    return jax.vjp(lambda kernel: _plain(x, kernel, stride, padding), kernel)[1](g)[0]


def _kernel_gradient_by_image(
    x: Array, kernel: Array, g: Array, *, stride: int, padding: int
) -> Array:
    """One matrix product for each image, of its patches (im2col) and its cotangent.

    XLA's CPU back end has no fast path for the library's form; one image's patches stay in the
    cache, and for conv1 to conv5 this takes a third to a half of the time (docs/log.md). A kernel
    with a stride is folded first: blocks of stride x stride pixels become maps, so that the stride
    is one.
    """
    size, _, maps_in, maps_out = kernel.shape
    folded = -(-size // stride)
    images, rows, columns, _ = g.shape
    x = _fold(_pad_to(x, kernel, stride, padding, rows, columns, folded), stride)

    def product(image: Array | int) -> Array:
        x_HWC = lax.dynamic_index_in_dim(x, image, keepdims=False)
        g_OP = lax.dynamic_index_in_dim(g, image, keepdims=False).reshape(-1, maps_out).T
        patches = [
            x_HWC[i : i + rows, j : j + columns].reshape(rows * columns, -1)
            for i in range(folded)
            for j in range(folded)
        ]
        return g_OP @ jnp.concatenate(patches, axis=-1)

    later = jnp.arange(1, images)
    d, _ = lax.scan(lambda total, image: (total + product(image), None), product(0), later)
    d = d.T.reshape(folded, folded, stride, stride, maps_in, maps_out)
    d = d.transpose(0, 2, 1, 3, 4, 5).reshape(folded * stride, folded * stride, maps_in, maps_out)
    return d[:size, :size]


def _pad_to(
    x: Array, kernel: Array, stride: int, padding: int, rows: int, columns: int, folded: int
) -> Array:
    """Zero pixels around the images, so that they hold whole blocks for all windows."""
    (top, _), (left, _) = _pads(x, kernel, stride, padding)
    bottom, right = (
        (out - 1 + folded) * stride - have - before
        for out, have, before in ((rows, x.shape[1], top), (columns, x.shape[2], left))
    )
    return jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def _fold(x: Array, stride: int) -> Array:
    """Blocks of stride x stride pixels as maps."""
    if stride == 1:
        return x
    images, height, width, maps = x.shape
    down, across = height // stride, width // stride
    x = x.reshape(images, down, stride, across, stride, maps).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(images, down, across, stride * stride * maps)
