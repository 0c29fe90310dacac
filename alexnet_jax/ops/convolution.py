"""Convolution with the sizes of the 2012 code (§3.5), in the fastest form for the platform."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax.ops import winograd

# With fewer maps, transforming the tiles costs more than it saves.
FEWEST_MAPS = 16
# With fewer images, transforming the kernels costs about what large tiles save, and the program for
# a single image is compiled and loaded sooner without them.
FEWEST_IMAGES = 4
# On GPUs, blocks of pixels become maps where there are no more maps than these: conv1.
FEW_MAPS = 4
LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def convolved_size(
    size: int, kernel: int, stride: int, padding: int, extra_padding: bool = True
) -> int:
    """Returns the pixels across after a convolution.

    1 + ceil((2 padding + size - kernel) / stride): the 2012 code rounds up (layer.py:1004), so that
    224 pixels under an 11x11 kernel with stride 4 give 55, and the last window extends 3 zero
    pixels beyond the edge. The paper's 224 is not a misprint. Without `extra_padding` it is rounded
    down, as PyTorch and Caffe do: 54, and the last pixels are not used.
    """
    free = 2 * padding + size - kernel
    return 1 + (-(-free // stride) if extra_padding else free // stride)


def padding_after(
    size: int, kernel: int, stride: int, padding: int, extra_padding: bool = True
) -> int:
    """Returns the zero pixels at the right and the bottom of an image: `padding` and the extra."""
    last = (convolved_size(size, kernel, stride, padding, extra_padding) - 1) * stride
    return max(padding, last + kernel - size - padding)


class Steps(NamedTuple):
    """The steps of a kernel over an image: see `convolution`."""

    stride: int
    padding: int
    extra_padding: bool = True


def convolution(
    x_BHWI: Array, kernel_HWIO: Array, stride: int, padding: int, extra_padding: bool = True
) -> Array:
    """Convolves zero-padded images.

    Args:
      x_BHWI: (images, rows, columns, maps in).
      kernel_HWIO: (kernel, kernel, maps in, maps out).
      stride: pixels from one application of the kernel to the next.
      padding: zero pixels on every side.
      extra_padding: whether as many more zero pixels as the last stride needs are added at the
        right and the bottom; if not, the last, incomplete window is left out.

    Returns:
      (images, rows', columns', maps out), with the sizes of `convolved_size`.
    """
    return _convolution(x_BHWI, kernel_HWIO, Steps(stride, padding, extra_padding))


def convolution_at_test_time(
    x_BHWI: Array, kernel_HWIO: Array, stride: int, padding: int, extra_padding: bool = True
) -> Array:
    """Computes `convolution`, on CPUs in larger tiles where these save multiplications.

    The paper's layers take about half of the time, and the rounding error is about ten times as
    large (winograd.py). Its derivative would be slow.
    """
    steps = Steps(stride, padding, extra_padding)
    if not _suits_large_tiles(x_BHWI, kernel_HWIO, steps):
        return _convolution(x_BHWI, kernel_HWIO, steps)
    cpu, cuda = _convolve_large_tiles, _on_gpu(kernel_HWIO, steps)
    return _choose(x_BHWI, kernel_HWIO, steps=steps, cpu=cpu, cuda=cuda, default=_convolve)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: Array, kernel: Array, steps: Steps) -> Array:
    cpu = _convolve_tiles if _suits_tiles(x, kernel, steps) else _convolve
    cuda = _on_gpu(kernel, steps)
    return _choose(x, kernel, steps=steps, cpu=cpu, cuda=cuda, default=_convolve)


def _forward(x: Array, kernel: Array, steps: Steps) -> tuple[Array, tuple]:
    return _convolution(x, kernel, steps), (x, kernel)


def _backward(steps: Steps, residuals: tuple[Array, Array], g: Array) -> tuple:
    suits_tiles = _suits_tiles(*residuals, steps)
    cpu = _derivative(_convolve_tiles) if suits_tiles else _derivative_by_image
    cuda, default = _derivative(_on_gpu(residuals[1], steps)), _derivative(_convolve)
    return _choose(*residuals, g, steps=steps, cpu=cpu, cuda=cuda, default=default)


_convolution.defvjp(_forward, _backward)


def _choose(*arrays: Array, steps: Steps, cpu: Any, cuda: Any, default: Any) -> Any:
    """Runs the function for the platform of the program: CPUs, NVIDIA GPUs, and all others."""
    cpu, cuda, default = (functools.partial(f, steps=steps) for f in (cpu, cuda, default))
    return lax.platform_dependent(*arrays, cpu=cpu, cuda=cuda, default=default)


def _on_gpu(kernel: Array, steps: Steps) -> Callable[..., Array]:
    """Returns the form of a convolution for NVIDIA GPUs."""
    suits_folding = steps.stride > 1 and kernel.shape[2] <= FEW_MAPS
    return _convolve_folded if suits_folding else _convolve


def _derivative(convolve: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
    """Returns the function from x, kernel and cotangent to the cotangents of x and kernel."""

    def derivative(x: Array, kernel: Array, g: Array, steps: Steps) -> tuple[Array, Array]:
        return jax.vjp(functools.partial(convolve, steps=steps), x, kernel)[1](g)

    return derivative


def _convolve(x: Array, kernel: Array, steps: Steps) -> Array:
    """Convolves with XLA's own operation."""
    pads = _pads(x, kernel, steps)
    return lax.conv_general_dilated(
        x, kernel, (steps.stride, steps.stride), pads, dimension_numbers=LAYOUT
    )


def _convolve_folded(x: Array, kernel: Array, steps: Steps) -> Array:
    """Convolves with XLA's own operation, with blocks of pixels as maps, and stride 1.

    The matrix units of a GPU read 8 or more maps of a pixel at once, and an image has only 3.
    """
    folded = fold(x, kernel, steps, _sizes(x, kernel, steps))
    return lax.conv_general_dilated(
        folded, fold_kernel(kernel, steps.stride), (1, 1), 'VALID', dimension_numbers=LAYOUT
    )


def _pads(x: Array, kernel: Array, steps: Steps) -> list[tuple[int, int]]:
    """Returns the zeros around rows and columns; below 0 for pixels that are left out."""
    size, have = kernel.shape[0], x.shape[1:3]
    need = ((out - 1) * steps.stride + size for out in _sizes(x, kernel, steps))
    return [(steps.padding, n - m - steps.padding) for n, m in zip(need, have, strict=True)]


def _convolve_tiles(x: Array, kernel: Array, steps: Steps) -> Array:
    """Convolves with fewer multiplications (winograd.py), in float32."""
    rows, columns = _sizes(x, kernel, steps)
    even = (rows + rows % 2, columns + columns % 2)
    y = winograd.convolution(
        fold(x, kernel, steps, even).astype(jnp.float32),
        fold_kernel(kernel, steps.stride).astype(jnp.float32),
    )
    return y[:, :rows, :columns].astype(x.dtype)


def _suits_tiles(x: Array, kernel: Array, steps: Steps) -> bool:
    """Returns whether tiles save multiplications and the maps suffice for matrix products."""
    size, _, maps_in, maps_out = kernel.shape
    folded, folded_maps = -(-size // steps.stride), maps_in * steps.stride**2
    if folded not in winograd.KERNELS or min(folded_maps, maps_out) < FEWEST_MAPS:
        return False
    sizes = _sizes(x, kernel, steps)
    by_tiles = winograd.multiplications(*sizes, folded) * folded_maps
    return by_tiles < 0.7 * math.prod(sizes) * size**2 * maps_in


def _convolve_large_tiles(x: Array, kernel: Array, steps: Steps) -> Array:
    """Convolves with the fewest multiplications (winograd.py), in float32."""
    rows, columns = _sizes(x, kernel, steps)
    tile = winograd.outputs_of_large_tile(-(-len(kernel) // steps.stride))
    folded = fold(x, kernel, steps, (-(-rows // tile) * tile, -(-columns // tile) * tile))
    # Without the barrier, XLA would fold the image once for each pixel of a tile.
    folded = lax.optimization_barrier(folded.astype(jnp.float32))
    y = winograd.convolution_in_large_tiles(
        folded, fold_kernel(kernel, steps.stride).astype(jnp.float32)
    )
    return y[:, :rows, :columns].astype(x.dtype)


def _suits_large_tiles(x: Array, kernel: Array, steps: Steps) -> bool:
    """Returns whether large tiles save multiplications over small ones, for enough images."""
    if x.shape[0] < FEWEST_IMAGES or not _suits_tiles(x, kernel, steps):
        return False
    sizes, folded = _sizes(x, kernel, steps), -(-len(kernel) // steps.stride)
    by_large_tiles = winograd.multiplications_in_large_tiles(*sizes, folded)
    return by_large_tiles < 0.8 * winograd.multiplications(*sizes, folded)


def _derivative_by_image(x: Array, kernel: Array, g: Array, steps: Steps) -> tuple[Array, Array]:
    """Computes the derivatives; that of the kernel takes one matrix product per image.

    XLA's CPU back end has no fast path for a convolution whose kernel is as large as the maps. One
    image's patches (im2col) stay in the cache, and this takes a third to a half of XLA's time.
    """
    images, rows, columns, maps_out = g.shape
    d_x = jax.vjp(lambda x: _convolve(x, kernel, steps), x)[1](g)[0]
    folded, unfold = jax.vjp(lambda kernel: fold_kernel(kernel, steps.stride), kernel)
    x = fold(x, kernel, steps, (rows, columns))

    def product(image: Array | int) -> Array:
        x_HWC = lax.dynamic_index_in_dim(x, image, keepdims=False)
        g_OP = lax.dynamic_index_in_dim(g, image, keepdims=False).reshape(-1, maps_out).T
        patches = [
            x_HWC[i : i + rows, j : j + columns].reshape(rows * columns, -1)
            for i in range(len(folded))
            for j in range(len(folded))
        ]
        return g_OP @ jnp.concatenate(patches, axis=-1)

    later = jnp.arange(1, images)
    d, _ = lax.scan(lambda total, image: (total + product(image), None), product(0), later)
    return d_x, unfold(d.T.reshape(folded.shape))[0]


def _sizes(x: Array, kernel: Array, steps: Steps) -> tuple[int, int]:
    """Returns the rows and columns of the result."""
    rows, columns = (convolved_size(n, kernel.shape[0], *steps) for n in x.shape[1:3])
    return rows, columns


def fold(x: Array, kernel: Array, steps: Steps, sizes: tuple[int, int]) -> Array:
    """Pads the images, and turns blocks of stride x stride pixels into maps.

    With `fold_kernel`, a convolution with stride 1 and no padding then gives `sizes` pixels.

    Args:
      x: (images, rows, columns, maps in).
      kernel: the kernel before it is folded.
      steps: the steps of that kernel.
      sizes: rows and columns of the result of the convolution.

    Returns:
      (images, rows of blocks, columns of blocks, stride * stride * maps in).
    """
    images, *have, maps = x.shape
    stride, padding, _ = steps
    size = -(-len(kernel) // stride)
    need = [(out - 1 + size) * stride for out in sizes]
    around = [(padding, n - m - padding, 0) for n, m in zip(need, have, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *around, (0, 0, 0)))
    down, across = (n // stride for n in need)
    x = x.reshape(images, down, stride, across, stride, maps).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(images, down, across, stride * stride * maps)


def fold_kernel(kernel: Array, stride: int) -> Array:
    """Pads a kernel at the bottom and the right, and turns its blocks of pixels into maps.

    Args:
      kernel: (kernel, kernel, maps in, maps out).
      stride: the number of pixels along each side of a block.

    Returns:
      (blocks, blocks, stride * stride * maps in, maps out).
    """
    size, _, maps_in, maps_out = kernel.shape
    folded = -(-size // stride)
    more = folded * stride - size
    kernel = jnp.pad(kernel, ((0, more), (0, more), (0, 0), (0, 0)))
    kernel = kernel.reshape(folded, stride, folded, stride, maps_in, maps_out)
    return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(folded, folded, -1, maps_out)


@jax.custom_vjp
def relu_with_convolution(x_BHWO: Array) -> Array:
    """Computes ReLU (§3.1) in a form that XLA can leave to cuDNN's convolution.

    cuDNN adds the bias and applies ReLU before it writes the result of a convolution, which saves
    a pass over the maps. XLA requests that only if nothing else reads the sums. The derivative
    here therefore reads the result: it is 1 where the result is positive, and 0 where it is 0 or
    NaN, as for `jax.nn.relu`.

    Args:
      x_BHWO: the sums of a convolution and its bias, (images, rows, columns, maps) of any float
        dtype.

    Returns:
      An array like `x_BHWO`.
    """
    return jnp.maximum(x_BHWO, jnp.zeros((), x_BHWO.dtype))


def _relu_forward(x: Array) -> tuple[Array, Array]:
    # Without the barrier, XLA rewrites max(x, 0) > 0 as x > 0, which reads the sums.
    y = lax.optimization_barrier(relu_with_convolution(x))
    return y, y


def _relu_backward(y: Array, g: Array) -> tuple[Array]:
    return (jnp.where(y > 0, g, jnp.zeros((), g.dtype)),)


relu_with_convolution.defvjp(_relu_forward, _relu_backward)


def unshared_convolution(
    x_BHWI: Array, kernel_YXHWIO: Array, stride: int, padding: int, extra_padding: bool = True
) -> Array:
    """Convolves with separate weights for each place ('local' layers in the 2012 code).

    Args:
      x_BHWI: (images, rows, columns, maps in).
      kernel_YXHWIO: (rows', columns', kernel, kernel, maps in, maps out).
      stride, padding, extra_padding: as in `convolution`.

    Returns:
      (images, rows', columns', maps out).
    """
    rows, columns, size = kernel_YXHWIO.shape[:3]
    around = _pads(x_BHWI, kernel_YXHWIO[0, 0], Steps(stride, padding, extra_padding))
    x = jnp.pad(x_BHWI, [(0, 0), *((before, max(0, after)) for before, after in around), (0, 0)])
    down, across = (1 + (n - 1) * stride for n in (rows, columns))
    windows = [
        x[:, i : i + down : stride, j : j + across : stride]
        for i in range(size)
        for j in range(size)
    ]
    patches_BYXPI = jnp.stack(windows, axis=3)
    kernel_YXPIO = kernel_YXHWIO.reshape(rows, columns, size * size, *kernel_YXHWIO.shape[4:])
    return jnp.einsum('byxpi,yxpio->byxo', patches_BYXPI, kernel_YXPIO)
