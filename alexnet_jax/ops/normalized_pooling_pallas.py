"""ReLU, response normalization (§3.3) and max-pooling (§3.4) as one Pallas kernel for NVIDIA GPUs.

normalized_pooling.py decides when it is used, and alone calls `forward` and `backward`. Threads
share nothing: what several of them need, each computes or loads by itself.

- Forward, a thread has a segment of adjacent maps of DOWN pools, one below the other. It normalizes
  the pixels that they cover and keeps the largest value of each pool, with a mask that has a bit
  for each pixel of the window that holds it. A pixel in several pools is normalized by several
  threads: with windows of 3, two apart, 2.25 times if DOWN is 1, less for more.
- Backward, a thread has a segment of a block of stride x stride pixels, which all lie in the same
  pools. It asks the masks which of them passes its cotangent to which pixel, and goes on as the
  kernel of normalization alone. Nothing is scattered, and no cotangent of a pixel is stored.

Forward reads x once and writes y and the mask; backward reads x, mask and cotangent, and writes dx,
once each but for what the cache holds. Between the two, x and the mask are kept.

It is made of the GPU's parts in response_normalization_pallas.py, where more is said about Triton.
As there, the tests interpret and lower it; it has not run on a GPU yet.
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
from alexnet_jax.ops.max_pooling import pooled_size
from alexnet_jax.ops.response_normalization_pallas import (
    Segments,
    expect_int32_indices,
    launch,
    normalized,
    pulled_back,
    reach,
)

# Pools of a thread in `forward`: with more, fewer pixels are normalized by two threads, and there
# are fewer threads. Not yet timed on a GPU.
DOWN = 2


class Pools(NamedTuple):
    """Where the pools are: `rows` x `columns` of them, on `height` x `width` pixels an image."""

    window: int
    stride: int
    height: int
    width: int
    rows: int
    columns: int

    @classmethod
    def of(cls, x_BHWC: Array, window: int, stride: int) -> 'Pools':
        """Those of an array; a ValueError if it or the window is too large."""
        expect_int32_indices(x_BHWC)
        if window > LARGEST_WINDOW:
            raise ValueError(f'a window of {window} pixels: the kernel takes {LARGEST_WINDOW}')
        height, width = x_BHWC.shape[1:3]
        pooled = (pooled_size(n, window, stride) for n in (height, width))
        return cls(window, stride, height, width, *pooled)

    @property
    def mask_dtype(self) -> Any:
        """An integer with a bit for each pixel of a window, beside its sign."""
        return jnp.int16 if self.window**2 <= 15 else jnp.int32

    @property
    def overhang(self) -> bool:
        """Whether a pool reaches beyond the last row or column."""
        down, across = ((n - 1) * self.stride + self.window for n in (self.rows, self.columns))
        return down > self.height or across > self.width

    @property
    def strips(self) -> int:
        """How many times DOWN pools there are, one below the other; the last may lack some."""
        return pl.cdiv(self.rows, DOWN)

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of stride x stride pixels, down and across; the last may lack pixels."""
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
    """The largest normalized value of each pool, and where it is.

    Args:
      x_BHWC: (images, rows, columns, maps), float32 or bfloat16; not empty.
      formula: with k > 0.
      window, stride: of the pools, in pixels.
      with_mask: whether `backward` will need the mask.
      interpret: run it on the CPU, slowly; inside a shard_map this needs check_vma=False.

    Returns:
      y, (images, rows', columns', maps) of the dtype of x, NaN where a value of the pool is; and,
      if asked for, the mask, an array of integers of the same shape: bit i * window + j is set
      where the pixel in row i and column j of the pool has its largest value. No bit is where y is
      NaN.

    Raises:
      ValueError: 2**31 elements or more, or a window of more than LARGEST_WINDOW pixels across.
    """
    pools = Pools.of(x_BHWC, window, stride)
    images, _, _, maps = x_BHWC.shape
    shape = (images, pools.rows, pools.columns, maps)
    dtypes = [x_BHWC.dtype, pools.mask_dtype][: 1 + with_mask]
    results = launch(
        functools.partial(_forward, formula=formula, pools=pools),
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
    """The derivative of `forward` at `x`, times the cotangent; an array like `x`.

    Arguments and errors are those of `forward`, whose mask this is; the cotangent is like its y.
    """
    pools = Pools.of(x_BHWC, window, stride)
    (flat,) = launch(
        functools.partial(_backward, formula=formula, pools=pools),
        'normalized_pooling_backward',
        [x_BHWC, mask_BhwC, cotangent_BhwC],
        [(x_BHWC.size, x_BHWC.dtype)],
        pixels=x_BHWC.shape[0] * pools.blocks[0] * pools.blocks[1],
        maps=x_BHWC.shape[-1],
        interpret=interpret,
    )
    return flat.reshape(x_BHWC.shape)


class Places(NamedTuple):
    """A segment of maps for each thread, in an image, a row and a column of it."""

    segments: Segments
    image: Array  # (block,) int32, as are row and column
    row: Array
    column: Array

    @classmethod
    def of(cls, segments: Segments, rows: int, columns: int) -> 'Places':
        """Those of the segments of an array with so many rows and columns."""
        line, column = _divided(_divided(segments.start, segments.maps)[0], columns)
        return cls(segments, *_divided(line, rows), column)

    def at(self, row: Array, column: Array, rows: int, columns: int) -> Segments:
        """The same maps in another row and column, in an array with so many."""
        own = self.segments
        pixel = (self.image * rows + row) * columns + column
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return own._replace(start=pixel * own.maps + own.first, exist=own.exist & inside)


def _divided(a: Array, b: int) -> tuple[Array, Array]:
    """Quotient and remainder of numbers that are not negative."""
    return jax.lax.div(a, np.int32(b)), jax.lax.rem(a, np.int32(b))


class Largest(NamedTuple):
    """Of one map, the largest of some values, and a bit for each pixel that has it."""

    value: Array
    bits: Any

    def shifted(self, by: int) -> 'Largest':
        """The same, other bits."""
        return self._replace(bits=self.bits << np.int32(by))


def _larger(a: Largest, b: Largest) -> Largest:
    """The largest of both: a NaN if one is, and both one's bits if they are equal."""
    larger = a.value > b.value
    rest = jnp.where(a.value == b.value, a.bits | b.bits, b.bits)
    return Largest(
        jnp.where(larger | jnp.isnan(a.value), a.value, b.value), jnp.where(larger, a.bits, rest)
    )


def _forward(
    x_ref: Any,
    y_ref: Any,
    mask_ref: Any = None,
    *,
    formula: Formula,
    pools: Pools,
    segments: Callable[[], Segments],
) -> None:
    here = Places.of(segments(), pools.strips, pools.columns)
    first = here.row * DOWN
    lines = [
        _line(x_ref, here, first * pools.stride + i, formula, pools)
        for i in range((DOWN - 1) * pools.stride + pools.window)
    ]
    for n in range(DOWN):
        place = here.at(first + n, here.column, pools.rows, pools.columns)
        own = lines[n * pools.stride :][: pools.window]
        for offset, of_map in enumerate(zip(*own, strict=True)):
            shifted = (line.shifted(i * pools.window) for i, line in enumerate(of_map))
            largest = functools.reduce(_larger, shifted)
            place.store(y_ref, offset, largest.value)
            if mask_ref is not None:
                bits = jnp.where(jnp.isnan(largest.value), np.int32(0), largest.bits)
                place.store(mask_ref, offset, bits)


def _line(x_ref: Any, here: Places, row: Array, formula: Formula, pools: Pools) -> list[Largest]:
    """The largest values of one row of a pool, for each map of the segment."""
    pixels = []
    for j in range(pools.window):
        column = here.column * pools.stride + j
        pixel = here.at(row, column, pools.height, pools.width)
        values = normalized(functools.partial(pixel.load, x_ref), pixel.length, formula)
        # Compared in the digits that are stored.
        values = [v.astype(x_ref.dtype).astype(jnp.float32) for v in values]
        if pools.overhang:
            values = [jnp.where(pixel.exist, v, -jnp.inf) for v in values]
        pixels.append([Largest(v, np.int32(1 << j)) for v in values])
    return [functools.reduce(_larger, of_map) for of_map in zip(*pixels, strict=True)]


def _backward(
    x_ref: Any,
    mask_ref: Any,
    g_ref: Any,
    dx_ref: Any,
    *,
    formula: Formula,
    pools: Pools,
    segments: Callable[[], Segments],
) -> None:
    here = Places.of(segments(), *pools.blocks)
    maps = reach(here.segments.length, formula)
    given = _given(mask_ref, g_ref, here, maps, pools)
    for i, j in itertools.product(range(pools.stride), repeat=2):
        row, column = here.row * pools.stride + i, here.column * pools.stride + j
        pixel = here.at(row, column, pools.height, pools.width)
        g = {m: _passed(given, i, j, m, pools.window) for m in maps}
        load = functools.partial(pixel.load, x_ref)
        for offset, dx in enumerate(pulled_back(load, g, pixel.length, formula)):
            pixel.store(dx_ref, offset, dx)


class Given(NamedTuple):
    """A pool, seen from a block of pixels that it may cover.

    Attributes:
      above, left: how many pixels before the block's first one it begins.
      bits, g: its mask and its cotangent, for each map.
    """

    above: int
    left: int
    bits: dict[int, Array]
    g: dict[int, Array]


def _given(mask_ref: Any, g_ref: Any, here: Places, maps: range, pools: Pools) -> list[Given]:
    """The pools that cover a pixel of the block: the one that begins there, and some before it."""
    found = []
    for up, left in itertools.product(range((pools.window - 1) // pools.stride + 1), repeat=2):
        pool = here.at(here.row - up, here.column - left, pools.rows, pools.columns)
        bits = {m: pool.load(mask_ref, m).astype(jnp.int32) for m in maps}
        g = {m: pool.load(g_ref, m).astype(jnp.float32) for m in maps}
        found.append(Given(up * pools.stride, left * pools.stride, bits, g))
    return found


def _passed(given: Sequence[Given], i: int, j: int, of_map: int, window: int) -> Array | float:
    """The cotangent of pixel (i, j) of the block: of the pools whose largest value it holds."""
    parts = []
    for pool in given:
        y, x = i + pool.above, j + pool.left
        if max(y, x) < window:
            bit = np.int32(1 << (y * window + x))
            parts.append(jnp.where(pool.bits[of_map] & bit != 0, pool.g[of_map], 0.0))
    return functools.reduce(operator.add, parts) if parts else 0.0
