"""Convolution with fewer multiplications: minimal filtering, F(m x m, k x k).

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

`convolution` has this form and a derivative. `convolution_in_large_tiles` is for test time: with
seven points, tiles of 5 x 5 outputs for k = 3 and 3 x 3 outputs for k = 5. These are 49
multiplications in place of 225, and the layers of the paper's net divide into such tiles with
hardly any remainder: 55 = 11 * 5, 27 = 9 * 3, and 13 rounded up to 15. The rounding error is about
ten times that of the definition.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# The points at which the polynomials are evaluated: the first k of these, and infinity.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
KERNELS = (3, 5)

# The points of large tiles, and infinity. Of all sets of seven that were tried, this one has the
# smallest rounding error.
_POINTS_OF_LARGE_TILES = (0.0, 1.0, -1.0, 0.5, 2.0, -1.5)
_MOST_ROWS = 512  # of a matrix product: with more, the points of the maps do not stay in the cache


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


def outputs_of_large_tile(kernel: int) -> int:
    """Returns m, the pixels across a large tile, for a kernel of k x k weights."""
    return len(_POINTS_OF_LARGE_TILES) + 2 - kernel


def multiplications_in_large_tiles(rows: int, columns: int, kernel: int) -> int:
    """Counts the multiplications per input map for so many outputs."""
    size = outputs_of_large_tile(kernel)
    points = len(_POINTS_OF_LARGE_TILES) + 1
    return -(-rows // size) * -(-columns // size) * points**2


def convolution_in_large_tiles(x_BHWI: Array, kernel_HWIO: Array) -> Array:
    """Computes `convolution` in large tiles, without a derivative of its own.

    Rows and columns are evaluated one after the other, by sums of a few arrays, which takes fewer
    operations than a matrix for both and copies no tiles. Some images at a time are computed
    from their pixels to their outputs, so that what lies between stays in the cache.

    Args:
      x_BHWI: (images, rows, columns, maps in) float32, where rows - k + 1 and columns - k + 1 are
        multiples of `outputs_of_large_tile(k)`.
      kernel_HWIO: (k, k, maps in, maps out) float32, with k one of KERNELS.

    Returns:
      (images, rows - k + 1, columns - k + 1, maps out) float32.
    """
    images, height, width, _ = x_BHWI.shape
    size, maps_out = len(kernel_HWIO), kernel_HWIO.shape[-1]
    output_matrix, kernel_matrix, pixel_matrix = _matrices_of_rows(size)
    points, tile = output_matrix.shape
    down, across = ((n - size + 1) // tile for n in (height, width))
    matrix = np.kron(kernel_matrix, kernel_matrix).astype(np.float32)
    weights = kernel_HWIO.swapaxes(0, 1).reshape(size * size, *kernel_HWIO.shape[2:])
    kernel_PIO = jnp.einsum('pk,kio->pio', matrix, weights)

    def convolve(x: Array) -> Array:
        # Every `tile`-th row from each of the first `points`, then the same of the columns.
        span = slice((down - 1) * tile + 1), slice((across - 1) * tile + 1)
        rows = [x[:, i:][:, span[0]][:, ::tile] for i in range(points)]
        by_row = _combine_all(pixel_matrix, rows)
        columns = [by_row[:, :, :, j:][:, :, :, span[1]][:, :, :, ::tile] for j in range(points)]
        x_PNI = _combine_all(pixel_matrix, columns, barrier=False)
        x_PNI = x_PNI.reshape(points * points, -1, x.shape[-1])
        products = jnp.einsum('pni,pio->pno', x_PNI, kernel_PIO).reshape(points, points, -1)
        by_column = _combine_all(output_matrix.T, [*products])
        y = _combine_all(output_matrix.T, [*by_column.swapaxes(0, 1)], barrier=False)
        y = y.reshape(tile, tile, len(x), down, across, maps_out).transpose(2, 3, 0, 4, 1, 5)
        return y.reshape(len(x), down * tile, across * tile, maps_out)

    together = _divisor(images, _MOST_ROWS // (down * across))
    if together == images:
        return convolve(x_BHWI)
    y = jax.lax.map(convolve, x_BHWI.reshape(-1, together, *x_BHWI.shape[1:]))
    return y.reshape(images, *y.shape[2:])


def _divisor(number: int, most: int) -> int:
    """Returns the largest divisor of a number that is at most `most`, and at least 1."""
    return max(n for n in range(1, max(1, min(number, most)) + 1) if number % n == 0)


def _combine_all(matrix: np.ndarray, arrays: list[Array], barrier: bool = True) -> Array:
    """Computes the product of a matrix and the vector of these arrays, which are stacked.

    Args:
      matrix: a row for each result, with few columns.
      arrays: one for each column.
      barrier: whether the results are stored before they are used; otherwise XLA would compute them
        once for each use.
    """
    y = jnp.stack([_combine(row, arrays) for row in matrix])
    return jax.lax.optimization_barrier(y) if barrier else y


def _combine(coefficients: np.ndarray, arrays: list[Array]) -> Array:
    """Returns the sum of the arrays times these coefficients, without those that are zero."""
    terms = [
        x if c == 1 else np.float32(c) * x
        for c, x in zip(coefficients.tolist(), arrays, strict=True)
        if c
    ]
    return functools.reduce(jnp.add, terms)


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
    """Computes the matrices of Toom and Cook in two dimensions, for tiles of 2 x 2 outputs.

    Returns:
      Matrices with a row for each point: for the four outputs (A), the k^2 weights (G), and the
      (k + 1)^2 pixels of a tile (B).
    """
    a, g, b = (
        np.kron(m, m).astype(np.float32) for m in _toom_cook(np.array(_POINTS[:size]), 2, size)
    )
    return a, g, b


@functools.cache
def _matrices_of_rows(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the matrices of Toom and Cook in one dimension, float64, for large tiles."""
    points = np.array(_POINTS_OF_LARGE_TILES)
    return _toom_cook(points, outputs_of_large_tile(size), size)


def _toom_cook(
    points: np.ndarray, outputs: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the matrices of Toom and Cook in one dimension.

    Args:
      points: where the polynomials are evaluated, without infinity: outputs + size - 2 numbers.
      outputs: of a tile.
      size: the weights of the kernel.

    Returns:
      Matrices with a row for each point: for the outputs (A), the weights (G), and the pixels of a
      tile (B).
    """
    others = [np.delete(points, i) for i in range(len(points))]
    scale = np.array([np.prod(p - o) for p, o in zip(points, others, strict=True)])
    a = np.vstack([np.vander(points, outputs, increasing=True), np.eye(outputs)[-1]])
    g = np.vstack([np.vander(points, size, increasing=True) / scale[:, None], np.eye(size)[-1]])
    b = np.array([[*np.poly(o)[::-1], 0.0] for o in others] + [np.poly(points)[::-1]])
    return a, g, b
