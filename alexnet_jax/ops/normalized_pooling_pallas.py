"""ReLU, response normalization (§3.3) and max-pooling (§3.4) as one Pallas kernel for NVIDIA GPUs.

normalized_pooling.py chooses when it is used; only that module calls `forward` and `backward`.
Threads share no data: what several of them need, each computes or loads for itself.

- Forward: a thread handles a segment of adjacent maps of DOWN pools, one below the other. It
  normalizes the pixels that they cover and keeps the largest value of each pool, with a mask that
  has a bit for each pixel of the window that holds that value. A pixel in several pools is
  normalized by several threads: with windows of 3 and a stride of 2, 2.25 times on average if DOWN
  is 1, and less often for a larger DOWN.
- Backward: a thread handles a segment of a block of stride x stride pixels, all of which lie in the
  same pools. It takes from the masks which pool passes its cotangent to which pixel, and then does
  what the kernel of the normalization does. Nothing is scattered, and no pixel's cotangent is
  stored.

Forward reads x once and writes y and the mask; backward reads x, mask and cotangent and writes dx,
once each apart from what the cache holds. Between the two, x and the mask are saved.

The kernel builds on the GPU half of response_normalization_pallas.py, whose docstring says more
about Triton. As there, the tests interpret and lower it; it has not run on a GPU yet.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl

from alexnet_jax.ops.formula import LARGEST_WINDOW, Formula
from alexnet_jax.ops.kernels.arithmetic import Arithmetic, to_float32
from alexnet_jax.ops.kernels.segments import Segments, expect_int32_indices, launch
from alexnet_jax.ops.max_pooling import pooled_size

# Pools per thread in `forward`. With more, fewer pixels are normalized by two threads, but there
# are fewer threads. Not yet timed on a GPU.
DOWN = 2


class Pools(NamedTuple):
    """The grid of pools: `rows` x `columns` pools on `height` x `width` pixels per image."""

    window: int
    stride: int
    height: int
    width: int
    rows: int
    columns: int

    @classmethod
    def of_array(cls, x_BHWC: Array, window: int, stride: int) -> 'Pools':
        """Returns the pools of an array; raises a ValueError if it or the window is too large."""
        expect_int32_indices(x_BHWC)
        if window > LARGEST_WINDOW:
            raise ValueError(
                f'a window of {window} pixels: the kernel takes at most {LARGEST_WINDOW} pixels'
            )
        height, width = x_BHWC.shape[1:3]
        pooled = (pooled_size(n, window, stride) for n in (height, width))
        return cls(window, stride, height, width, *pooled)

    @property
    def mask_dtype(self) -> Any:
        """The integer type with a bit for each pixel of a window, besides the sign."""
        return jnp.int16 if self.window**2 <= 15 else jnp.int32

    @property
    def overhang(self) -> bool:
        """Whether any pool reaches beyond the last row or column."""
        down, across = ((n - 1) * self.stride + self.window for n in (self.rows, self.columns))
        return down > self.height or across > self.width

    @property
    def strips(self) -> int:
        """The number of groups of DOWN pools in a column; the last may be smaller."""
        return pl.cdiv(self.rows, DOWN)

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of stride x stride pixels, down and across; the last may be smaller."""
        return pl.cdiv(self.height, self.stride), pl.cdiv(self.width, self.stride)


def forward(
    x_BHWC: Array,
    formula: Formula,
    window: int,
    stride: int,
    *,
    with_mask: bool = False,
    interpret: bool = False,
) -> list[Array]:
    """Computes the largest normalized value of each pool, and where it is.

    Args:
      x_BHWC: (images, rows, columns, maps), float32 or bfloat16; not empty.
      formula: the constants, with k > 0.
      window, stride: the pools' window and stride, in pixels.
      with_mask: whether `backward` will need the mask.
      interpret: whether the CPU interprets the kernel, which is slow; inside a shard_map this needs
        check_vma=False.

    Returns:
      y, (images, rows', columns', maps) with the dtype of x, NaN where a value of the pool is NaN;
      and with `with_mask` the mask, an array of integers of the same shape: bit i * window + j is
      set where the pixel in row i and column j of the pool has its largest value. Where y is NaN no
      bit is set.

    Raises:
      ValueError: the array has 2**31 elements or more, or the window is more than LARGEST_WINDOW
        pixels across.
    """
    pools = Pools.of_array(x_BHWC, window, stride)
    images, _, _, maps = x_BHWC.shape
    shape = (images, pools.rows, pools.columns, maps)
    dtypes = [x_BHWC.dtype, pools.mask_dtype][: 1 + with_mask]
    results = launch(
        functools.partial(_forward, arithmetic=Arithmetic(formula, interpret), pools=pools),
        'normalized_pooling_forward',
        [x_BHWC],
        [(images * pools.rows * pools.columns * maps, dtype) for dtype in dtypes],
        pixels=images * pools.strips * pools.columns,
        maps=maps,
        interpret=interpret,
    )
    return [a.reshape(shape) for a in results]


def backward(
    x_BHWC: Array,
    mask_BhwC: Array,
    cotangent_BhwC: Array,
    formula: Formula,
    window: int,
    stride: int,
    *,
    interpret: bool = False,
) -> Array:
    """Computes the derivative of `forward` at `x`, times the cotangent.

    Args:
      x_BHWC: the argument of `forward`.
      mask_BhwC: the mask that `forward` returned.
      cotangent_BhwC: an array like the y that `forward` returned.
      formula, window, stride, interpret: as in `forward`.

    Returns:
      An array like `x_BHWC`.

    Raises:
      ValueError: as in `forward`.
    """
    pools = Pools.of_array(x_BHWC, window, stride)
    (flat,) = launch(
        functools.partial(_backward, arithmetic=Arithmetic(formula, interpret), pools=pools),
        'normalized_pooling_backward',
        [x_BHWC, mask_BhwC, cotangent_BhwC],
        [(x_BHWC.size, x_BHWC.dtype)],
        pixels=x_BHWC.shape[0] * pools.blocks[0] * pools.blocks[1],
        maps=x_BHWC.shape[-1],
        interpret=interpret,
    )
    return flat.reshape(x_BHWC.shape)


class Places(NamedTuple):
    """A segment of maps for each thread, with the image, row and column that it lies in."""

    segments: Segments
    image: Array  # (block,) int32, as are row and column
    row: Array
    column: Array

    @classmethod
    def of_segments(cls, segments: Segments, rows: int, columns: int) -> 'Places':
        """Returns the places of segments in an array with so many rows and columns."""
        line, column = _divide(_divide(segments.start, segments.maps)[0], columns)
        return cls(segments, *_divide(line, rows), column)

    def at(self, row: Array, column: Array, rows: int, columns: int) -> Segments:
        """Returns the segments of the same maps in another row and column of an array."""
        segments = self.segments
        pixel = (self.image * rows + row) * columns + column
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return segments._replace(
            start=pixel * segments.maps + segments.first, exist=segments.exist & inside
        )


def _divide(a: Array, b: int) -> tuple[Array, Array]:
    """Computes quotient and remainder of numbers that are not negative."""
    return jax.lax.div(a, np.int32(b)), jax.lax.rem(a, np.int32(b))


def _forward(
    x_ref: Any,
    y_ref: Any,
    mask_ref: Any = None,
    *,
    arithmetic: Arithmetic,
    pools: Pools,
    segments: Callable[[], Segments],
) -> None:
    places = Places.of_segments(segments(), pools.strips, pools.columns)
    first = places.row * DOWN
    lines = [
        _line(x_ref, places, first * pools.stride + i, arithmetic, pools)
        for i in range((DOWN - 1) * pools.stride + pools.window)
    ]
    for n in range(DOWN):
        place = places.at(first + n, places.column, pools.rows, pools.columns)
        own = lines[n * pools.stride :][: pools.window]
        values = [functools.reduce(arithmetic.maximum, of_map) for of_map in zip(*(line.largest for line in own), strict=True)]
        place.store(y_ref, values)
        if mask_ref is not None:
            pixels = [pixel for line in own for pixel in line.pixels]
            place.store(mask_ref, [_bits([p[m] for p in pixels], y) for m, y in enumerate(values)])


class Line(NamedTuple):
    """Pixels side by side: of each, and of the largest, the normalized value of each map."""

    pixels: list[list[Array]]
    largest: list[Array]


def _line(x_ref: Any, places: Places, row: Array, arithmetic: Arithmetic, pools: Pools) -> Line:
    """Computes one row of a pool."""
    pixels = []
    for j in range(pools.window):
        column = places.column * pools.stride + j
        pixel = places.at(row, column, pools.height, pools.width)
        load = functools.partial(pixel.load, x_ref, change=arithmetic.rectify)
        values = arithmetic.normalize(load, pixel.length)
        # The comparison uses the digits that are stored.
        values = [v.astype(x_ref.dtype).astype(jnp.float32) for v in values]
        if pools.overhang:
            values = [jnp.where(pixel.exist, v, -jnp.inf) for v in values]
        pixels.append(values)
    largest = [functools.reduce(arithmetic.maximum, of_map) for of_map in zip(*pixels, strict=True)]
    return Line(pixels, largest)


def _bits(values: Sequence[Array], largest: Array) -> Array:
    """Returns a bit for each value that is the largest; none where that is NaN."""
    bits = [jnp.where(v == largest, np.int32(1 << i), np.int32(0)) for i, v in enumerate(values)]
    return functools.reduce(operator.or_, bits)


def _backward(
    x_ref: Any,
    mask_ref: Any,
    g_ref: Any,
    dx_ref: Any,
    *,
    arithmetic: Arithmetic,
    pools: Pools,
    segments: Callable[[], Segments],
) -> None:
    places = Places.of_segments(segments(), *pools.blocks)
    maps = arithmetic.reach(places.segments.length)
    covering = _covering_pools(mask_ref, g_ref, places, maps, pools)
    for i, j in itertools.product(range(pools.stride), repeat=2):
        row, column = places.row * pools.stride + i, places.column * pools.stride + j
        pixel = places.at(row, column, pools.height, pools.width)
        g = functools.partial(_cotangent, covering, i, j, pools.window)
        load = functools.partial(pixel.load, x_ref, change=arithmetic.rectify)
        pixel.store(dx_ref, [*arithmetic.pull_back(load, g, pixel.length)])


class CoveringPool(NamedTuple):
    """A pool that may cover pixels of a block.

    Attributes:
      above, left: the number of pixels by which the pool begins before the block.
      bits, g: the pool's mask and its cotangent, for each map.
    """

    above: int
    left: int
    bits: dict[int, Array]
    g: dict[int, Array]


def _covering_pools(
    mask_ref: Any, g_ref: Any, places: Places, maps: range, pools: Pools
) -> list[CoveringPool]:
    """Loads the pools that cover pixels of the block: those that begin in it or just before."""
    covering = []
    for up, left in itertools.product(range((pools.window - 1) // pools.stride + 1), repeat=2):
        pool = places.at(places.row - up, places.column - left, pools.rows, pools.columns)
        bits = pool.load(mask_ref, maps, lambda bits: bits.astype(jnp.int32))
        g = pool.load(g_ref, maps, to_float32)
        covering.append(CoveringPool(up * pools.stride, left * pools.stride, bits, g))
    return covering


def _cotangent(
    covering: Sequence[CoveringPool], i: int, j: int, window: int, map_index: int
) -> Array | float:
    """Sums the cotangents of the pools whose largest value pixel (i, j) of the block holds."""
    parts = []
    for pool in covering:
        y, x = i + pool.above, j + pool.left
        if max(y, x) < window:
            bit = np.int32(1 << (y * window + x))
            parts.append(jnp.where(pool.bits[map_index] & bit != 0, pool.g[map_index], 0.0))
    return functools.reduce(operator.add, parts) if parts else 0.0
