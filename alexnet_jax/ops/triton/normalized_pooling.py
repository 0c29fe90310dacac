"""ReLU, response normalization (§3.3) and max-pooling (§3.4) as one Pallas kernel for NVIDIA GPUs.

../normalized_pooling.py chooses when it is used; only that module calls `forward` and `backward`.
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
once each apart from what the cache holds. Between the two, x and the mask are saved. Backward also
adds up dx over the pixels, which is the gradient of a bias that was added to x.

The kernel is made of the parts in this folder; response_normalization.py beside it says more about
Triton. As there, the tests interpret and compile it; docs/log.md has its time on an H100.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl

from alexnet_jax.ops.formula import LARGEST_WINDOW, Formula
from alexnet_jax.ops.kernel_arrays import expect_int32_indices
from alexnet_jax.ops.max_pooling import pooled_size
from alexnet_jax.ops.triton.arithmetic import Arithmetic
from alexnet_jax.ops.triton.masks import Largest, maps_per_word, position
from alexnet_jax.ops.triton.segments import (
    Segments,
    divide,
    launch,
)

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
    mask_shape = (*shape[:-1], maps // maps_per_word(window, maps))
    types = [(shape, x_BHWC.dtype), (mask_shape, jnp.int32)][: 1 + with_mask]
    results = launch(
        functools.partial(_forward, arithmetic=Arithmetic(formula, interpret), pools=pools),
        'normalized_pooling_forward',
        [x_BHWC],
        [(math.prod(shape), dtype) for shape, dtype in types],
        pixels=images * pools.strips * pools.columns,
        maps=maps,
        interpret=interpret,
    )
    return [a.reshape(shape) for a, (shape, _) in zip(results, types, strict=True)]


def backward(
    x_BHWC: Array,
    mask_BhwC: Array,
    cotangent_BhwC: Array,
    formula: Formula,
    window: int,
    stride: int,
    *,
    with_sums: bool = False,
    interpret: bool = False,
) -> list[Array]:
    """Computes the derivative of `forward` at `x`, times the cotangent.

    Args:
      x_BHWC: the argument of `forward`.
      mask_BhwC: the mask that `forward` returned.
      cotangent_BhwC: an array like the y that `forward` returned.
      formula, window, stride, interpret: as in `forward`.
      with_sums: whether to return sums too.

    Returns:
      dx, an array like `x_BHWC`; and with `with_sums` its sums over images, rows and columns before
      it is rounded, (maps,) float32.

    Raises:
      ValueError: as in `forward`.
    """
    pools = Pools.of_array(x_BHWC, window, stride)
    flat, *sums = launch(
        functools.partial(_backward, arithmetic=Arithmetic(formula, interpret), pools=pools),
        'normalized_pooling_backward',
        [x_BHWC, mask_BhwC, cotangent_BhwC],
        [(x_BHWC.size, x_BHWC.dtype)],
        pixels=x_BHWC.shape[0] * pools.blocks[0] * pools.blocks[1],
        maps=x_BHWC.shape[-1],
        interpret=interpret,
        sums=with_sums,
    )
    return [flat.reshape(x_BHWC.shape), *sums]


class Places(NamedTuple):
    """A segment of maps for each thread, with the image, row and column that it lies in."""

    segments: Segments
    image: Array  # (block,) int32, as are row and column
    row: Array
    column: Array

    @classmethod
    def of_segments(cls, segments: Segments, rows: int, columns: int) -> 'Places':
        """Returns the places of segments in an array with so many rows and columns."""
        line, column = divide(divide(segments.index, segments.groups)[0], columns)
        return cls(segments, *divide(line, rows), column)

    def at(self, row: Array, column: Array, rows: int, columns: int) -> Segments:
        """Returns the segments of the same maps in another row and column of an array."""
        segments = self.segments
        pixel = (self.image * rows + row) * columns + column
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return segments._replace(
            index=pixel * segments.groups + segments.group, exist=segments.exist & inside
        )


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
    per_word = maps_per_word(pools.window, places.segments.groups * places.segments.length)
    first = places.row * DOWN
    strip: dict[int, Largest] = {}  # the pools that the rows have reached
    for i in range((DOWN - 1) * pools.stride + pools.window):
        line = _line(x_ref, places, first * pools.stride + i, arithmetic, pools, per_word)
        for n in range(DOWN):
            row = i - n * pools.stride
            if row == 0:
                strip[n] = line
            elif 0 < row < pools.window:
                strip[n] = strip[n].merge(line.shift(row * pools.window), arithmetic)
            if row == pools.window - 1:
                largest = strip.pop(n)
                place = places.at(first + n, places.column, pools.rows, pools.columns)
                place.store(y_ref, largest.values)
                if mask_ref is not None:
                    words = place._replace(length=place.length // per_word)
                    words.store(mask_ref, largest.words)


def _line(
    x_ref: Any, places: Places, row: Array, arithmetic: Arithmetic, pools: Pools, per_word: int
) -> Largest:
    """Computes the largest values in one row of a pool."""
    pixels = []
    for j in range(pools.window):
        column = places.column * pools.stride + j
        pixel = places.at(row, column, pools.height, pools.width)
        values = arithmetic.normalize(functools.partial(pixel.load, x_ref), pixel.length)
        # The comparison uses the digits that are stored.
        values = [v.astype(x_ref.dtype).astype(jnp.float32) for v in values]
        if pools.overhang:
            values = [jnp.where(pixel.exist, v, -jnp.inf) for v in values]
        pixels.append(values)
    return Largest.of_pixels(pixels, arithmetic, per_word)


def _backward(
    x_ref: Any,
    mask_ref: Any,
    g_ref: Any,
    dx_ref: Any,
    sums_ref: Any = None,
    *,
    arithmetic: Arithmetic,
    pools: Pools,
    segments: Any,
) -> None:
    def of_block(own: Segments) -> list[Array]:
        places = Places.of_segments(own, *pools.blocks)
        maps = arithmetic.reach(own.length)
        covering = _covering_pools(mask_ref, g_ref, places, maps, pools)
        sums: list[Array] = []
        for i, j in itertools.product(range(pools.stride), repeat=2):
            row, column = places.row * pools.stride + i, places.column * pools.stride + j
            pixel = places.at(row, column, pools.height, pools.width)
            g = functools.cache(functools.partial(_cotangent, covering, i, j))
            dx = [*arithmetic.pull_back(functools.partial(pixel.load, x_ref), g, own.length)]
            pixel.store(dx_ref, dx)
            # Where the array has no such pixel, x is 0 and no pool's largest value, so dx is 0.
            sums = [a + b for a, b in zip(sums, dx, strict=True)] if sums else dx
        return sums

    if sums_ref is None:
        of_block(segments())
    else:
        segments.store_sums(sums_ref, of_block)


class CoveringPool(NamedTuple):
    """A pool that may cover pixels of a block.

    Attributes:
      above, left: the number of pixels by which the pool begins before the block.
      window: pixels across the pool.
      words: the pool's mask, for each number of a word.
      per_word: the number of maps whose bits a word has.
      g: the pool's cotangent, for each map.
    """

    above: int
    left: int
    window: int
    words: dict[int, Array]
    per_word: int
    g: dict[int, Array]


def _covering_pools(
    mask_ref: Any, g_ref: Any, places: Places, maps: range, pools: Pools
) -> list[CoveringPool]:
    """Loads the pools that cover pixels of the block: those that begin in it or just before."""
    segments = places.segments
    per_word = maps_per_word(pools.window, segments.groups * segments.length)
    numbers = range(maps.start // per_word, (maps.stop - 1) // per_word + 1)
    covering = []
    for up, left in itertools.product(range((pools.window - 1) // pools.stride + 1), repeat=2):
        pool = places.at(places.row - up, places.column - left, pools.rows, pools.columns)
        words = pool._replace(length=pool.length // per_word).load(mask_ref, numbers)
        g = pool.load(g_ref, maps)
        above, before = up * pools.stride, left * pools.stride
        covering.append(CoveringPool(above, before, pools.window, words, per_word, g))
    return covering


def _cotangent(covering: Sequence[CoveringPool], i: int, j: int, map_index: int) -> Array | float:
    """Sums the cotangents of the pools whose largest value pixel (i, j) of the block holds."""
    parts = []
    for pool in covering:
        y, x = i + pool.above, j + pool.left
        if max(y, x) < pool.window:
            bit = np.int32(1 << y * pool.window + x + position(map_index, pool.per_word))
            is_largest = pool.words[map_index // pool.per_word] & bit != 0
            parts.append(jnp.where(is_largest, pool.g[map_index].astype(jnp.float32), 0.0))
    return functools.reduce(operator.add, parts) if parts else 0.0
