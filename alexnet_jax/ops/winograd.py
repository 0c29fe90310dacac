"""Convolution with fewer multiplications: minimal filtering, F(2x2, k x k).

The algorithm of Toom, Cook and Winograd in two dimensions (Lavin and Gray, CVPR 2016): a tile of 2
x 2 outputs is a product of polynomials, which its values at k + 1 points determine. A small matrix
evaluates the (k + 1)^2 pixels that the tile depends on, another the k^2 weights; the values are
multiplied point by point and summed over the maps, and a third matrix recovers the outputs:

    y = A^T [(G w) (B x)]

This takes (k + 1)^2 multiplications for four outputs in place of 4 k^2: 16 in place of 36 for k =
3, 36 in place of 100 for k = 5. At each point, all tiles and maps form one matrix product, which
CPU libraries compute fastest. The result equals the convolution up to rounding, whose error is no
larger than the definition's for k = 3 and about twice as large for k = 5
(tests/ops/test_winograd.py).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# The points at which the polynomials are evaluated: the first k of these, and infinity.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
KERNELS = (3, 5)


@jax.custom_vjp
def convolution(x_BHWI: Array, kernel_HWIO: Array) -> Array:
    """Computes a convolution with stride 1 and no padding.

    Args:
      x_BHWI: (images, rows, columns, maps in) float32, rows and columns even.
      kernel_HWIO: (k, k, maps in, maps out) float32, with k one of KERNELS.

    Returns:
      (images, rows - k + 1, columns - k + 1, maps out) float32. The derivative saves the arguments.
    """
    return _forward(x_BHWI, kernel_HWIO)[0]


def multiplications(rows: int, columns: int, kernel: int) -> int:
    """Counts the multiplications per input map for so many outputs.

    The definition takes one per output and weight.
    """
    return -(-rows // 2) * -(-columns // 2) * (kernel + 1) ** 2


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    output_matrix, _, _ = _matrices(len(kernel))
    images, height, width, _ = x.shape
    down, across = ((n - len(kernel) + 1) // 2 for n in (height, width))
    products = jnp.einsum('pni,pio->pno', _evaluate(x, len(kernel)), _evaluate_kernel(kernel))
    y = jnp.einsum('pa,pm->am', output_matrix, products.reshape(len(products), -1))
    return _interleave(y.reshape(4, images, down, across, -1)), (x, kernel)


def _backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Applies the transposed matrices."""
    x, kernel = residuals
    size, maps_out = len(kernel), g.shape[-1]
    output_matrix, kernel_matrix, pixel_matrix = _matrices(size)
    down, across = (n // 2 for n in g.shape[1:3])

    g_AM = jnp.stack([g[:, i::2, j::2].reshape(-1) for i, j in _pairs(2)])
    g_PNO = jnp.einsum('pa,am->pm', output_matrix, g_AM).reshape(len(output_matrix), -1, maps_out)

    d_kernel = jnp.einsum('pni,pno->pio', _evaluate(x, size), g_PNO)
    d_kernel = jnp.einsum('pk,pio->kio', kernel_matrix, d_kernel).reshape(kernel.shape)

    d_PNI = jnp.einsum('pno,pio->pni', g_PNO, _evaluate_kernel(kernel))
    d_tiles = jnp.einsum('pa,pm->am', pixel_matrix, d_PNI.reshape(len(d_PNI), -1))
    d_tiles = d_tiles.reshape(size + 1, size + 1, len(x), down, across, -1)
    return _add_overlapping(d_tiles), d_kernel


convolution.defvjp(_forward, _backward)


def _evaluate(x: Array, size: int) -> Array:
    """Evaluates tiles of (k + 1)^2 pixels, two pixels apart: (points, tiles, maps)."""
    rows, columns = (n - size for n in x.shape[1:3])
    tiles = [x[:, i : i + rows : 2, j : j + columns : 2].reshape(-1) for i, j in _pairs(size + 1)]
    points = jnp.einsum('pa,am->pm', _matrices(size)[2], jnp.stack(tiles))
    return points.reshape(len(tiles), -1, x.shape[-1])


def _evaluate_kernel(kernel: Array) -> Array:
    """Evaluates a kernel at each point: (points, maps in, maps out)."""
    size, _, maps_in, maps_out = kernel.shape
    return jnp.einsum(
        'pk,kio->pio', _matrices(size)[1], kernel.reshape(size * size, maps_in, maps_out)
    )


def _add_overlapping(tiles: Array) -> Array:
    """Sums, for each pixel, the (k + 1, k + 1, images, down, across, maps) tiles that cover it."""
    reach = len(tiles) // 2

    def total(i: int, j: int) -> Array:
        parts = [
            jnp.pad(
                tiles[2 * s + i, 2 * t + j],
                ((0, 0), (s, reach - 1 - s), (t, reach - 1 - t), (0, 0)),
            )
            for s, t in _pairs(reach)
        ]
        return functools.reduce(jnp.add, parts)

    return _interleave(jnp.stack([total(i, j) for i, j in _pairs(2)]))


def _interleave(phases: Array) -> Array:
    """Arranges (4, images, rows, columns, maps) as blocks of 2 x 2 pixels."""
    _, images, rows, columns, maps = phases.shape
    x = phases.reshape(2, 2, images, rows, columns, maps).transpose(2, 3, 0, 4, 1, 5)
    return x.reshape(images, 2 * rows, 2 * columns, maps)


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(n) for j in range(n)]


@functools.cache
def _matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the matrices of Toom and Cook in two dimensions.

    Returns:
      Matrices with a row for each point: for the four outputs (A), the k^2 weights (G), and the
      (k + 1)^2 pixels of a tile (B).
    """
    points = np.array(_POINTS[:size])
    others = [np.delete(points, i) for i in range(size)]
    scale = np.array([np.prod(p - o) for p, o in zip(points, others, strict=True)])
    outputs = np.vstack([np.vander(points, 2, increasing=True), np.eye(2)[1]])
    weights = np.vstack(
        [np.vander(points, size, increasing=True) / scale[:, None], np.eye(size)[-1]]
    )
    pixels = np.array([[*np.poly(o)[::-1], 0.0] for o in others] + [np.poly(points)[::-1]])
    a, g, b = (np.kron(m, m).astype(np.float32) for m in (outputs, weights, pixels))
    return a, g, b
