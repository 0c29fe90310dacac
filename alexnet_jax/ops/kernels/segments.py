"""How the kernels for NVIDIA GPUs divide their work, and what a thread loads and stores.

The arrays are flat and row-major, maps last. A thread holds a segment of adjacent maps of a pixel
and its neighbours in registers; threads share no data, so what several of them need, each loads and
computes for itself. A segment is as long as the widest access of a thread, 16 bytes, and its
neighbours to the left and right are loaded in pieces that are as wide as their address allows.
Triton sees each piece as an array of (threads, maps) and emits one access for a row of it.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

ACCESS_BYTES = 16  # a thread's widest access
# A segment has the largest power of two of maps that divides the number of maps per pixel, and at
# most this many. With longer segments fewer S are computed by two threads, and there are fewer,
# wider accesses; but a thread needs more registers.
LONGEST = 8
BLOCK = 256  # threads, and segments, per program
NUM_WARPS = 8  # 32 threads each: a thread per segment

# In interpret mode every block is a step of a loop on the CPU, so there should be few, large ones.
INTERPRETED_BLOCK = 2**30


def segment_length(maps: int) -> int:
    """Returns the number of maps in a segment of pixels with so many maps."""
    return min(LONGEST, maps & -maps)


def launch(
    kernel: Callable[..., None],
    name: str,
    arrays: Sequence[Array],
    results: Sequence[tuple[int, Any]],
    *,
    pixels: int,
    maps: int,
    interpret: bool,
    sums: bool = False,
) -> Sequence[Array]:
    """Runs a kernel with one thread for each segment of `pixels` pixels with `maps` maps each.

    Args:
      kernel: is called with the flat arrays and results, and with `segments`, a function without
        arguments that returns the segments handled by the calling program.
      name: the kernel's name in profiles.
      arrays: the arrays that the kernel reads.
      results: size and dtype of each array that the kernel writes.
      pixels, maps: the extent of the work.
      interpret: whether the CPU interprets the kernel.
      sums: whether the kernel also calls `Segments.store_sums`, with one more result.

    Returns:
      The flat results; with `sums` the last one is (maps,) float32, the sum of what the threads
      stored.
    """
    _expect_triton()
    length = segment_length(maps)
    count = pixels * maps // length
    block = min(INTERPRETED_BLOCK, pl.next_power_of_2(count)) if interpret else BLOCK
    if sums:
        lanes = Lanes.of_maps(maps // length, block)
        grid = pl.cdiv(pixels, lanes.pixels)
        make = functools.partial(Segments.of_lanes, maps, length, pixels, lanes)
        results = [*results, (grid * lanes.pixels_across * maps, jnp.float32)]
    else:
        grid = pl.cdiv(count, block)
        make = functools.partial(Segments.of_program, maps, length, count, block)
    values = pl.pallas_call(
        functools.partial(kernel, segments=make),
        out_shape=[result_type(arrays, (size,), dtype) for size, dtype in results],
        grid=(grid,),
        compiler_params=plgpu.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=interpret,
        name=name,
    )(*(a.reshape(-1) for a in arrays))
    if not sums:
        return values
    return [*values[:-1], values[-1].reshape(-1, maps).sum(0)]


def result_type(arrays: Sequence[Array], shape: tuple[int, ...], dtype: Any) -> Any:
    """Returns a result's type, which in a shard_map varies over the axes of all arguments."""
    varying = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))
    manual = jax.sharding.ManualAxisType(varying=varying)
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=manual)


def expect_int32_indices(x: Array) -> None:
    """Raises a ValueError for an array with too many elements for int32 indices."""
    if x.size >= 2**31:
        raise ValueError(f'{x.shape} has 2**31 elements or more: an index is an int32')


def _expect_triton() -> None:
    # JAX 0.12 warns each time such a kernel is lowered, which happens after the caller of
    # pallas_call has returned, so warnings.catch_warnings has no effect. See the docstring of
    # response_normalization_pallas.py.
    message = 'The Pallas Triton backend is deprecated'
    warnings.filterwarnings('ignore', message, DeprecationWarning)


class Lanes(NamedTuple):
    """An arrangement of a program's threads in which each map has threads of its own.

    The threads are `down` rows of `across` lanes, both powers of two, because Triton adds up only
    along the axes of such an array. A row holds as many pixels as fit; its last lanes may have
    nothing to do.

    Attributes:
      down, across: the arrangement.
      groups: lanes, and so segments, per pixel.
    """

    down: int
    across: int
    groups: int

    @classmethod
    def of_maps(cls, groups: int, block: int) -> 'Lanes':
        """Returns the shortest rows in which at most a sixteenth of the lanes is idle."""
        across = pl.next_power_of_2(groups)
        while across < block and (across % groups) * 16 > across:
            across *= 2
        return cls(max(1, block // across), across, groups)

    @property
    def pixels_across(self) -> int:
        """The number of pixels in a row of lanes."""
        return self.across // self.groups

    @property
    def pixels(self) -> int:
        """The number of pixels per program."""
        return self.down * self.pixels_across


class Segments(NamedTuple):
    """The segments handled by one program: `length` adjacent maps of one pixel each.

    Attributes:
      maps: maps per pixel.
      length: maps per segment.
      start: (block,) int32, the flat index of each segment's first map.
      first: (block,) int32, the number of that map within its pixel.
      exist: (block,) bool, whether the array has such a segment.
      lanes: how the threads are arranged, where their values are to be added up.
    """

    maps: int
    length: int
    start: Array
    first: Array
    exist: Array
    lanes: Lanes | None = None

    @classmethod
    def of_program(cls, maps: int, length: int, count: int, block: int) -> 'Segments':
        """Returns the segments handled by this program: `block` of `count` adjacent segments."""
        # No index overflows: block * length is a power of two, so 2**31 is a multiple of it.
        index = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)
        start = index * length
        return cls(maps, length, start, jax.lax.rem(start, np.int32(maps)), index < count)

    @classmethod
    def of_lanes(cls, maps: int, length: int, pixels: int, lanes: Lanes) -> 'Segments':
        """Returns the segments of the `lanes.pixels` pixels handled by this program."""
        lane = jnp.arange(lanes.down * lanes.across, dtype=jnp.int32)
        within = jax.lax.rem(lane, np.int32(lanes.across))
        across = jax.lax.div(within, np.int32(lanes.groups))
        first = jax.lax.rem(within, np.int32(lanes.groups)) * length
        row = jax.lax.div(lane, np.int32(lanes.across))
        pixel = pl.program_id(0) * lanes.pixels + row * lanes.pixels_across + across
        exist = (across < lanes.pixels_across) & (pixel < pixels)
        return cls(maps, length, pixel * maps + first, first, exist, lanes)

    def load(self, ref: Any, offsets: range, change: Callable[[Array], Array]) -> dict[int, Array]:
        """Loads maps at some offsets from the first ones, as wide as their addresses allow.

        Args:
          ref: a flat array.
          offsets: the offsets of the maps.
          change: is applied to what is loaded, (block, maps of a piece) or (block,).

        Returns:
          (block,) values by their offset; of 0, changed, beyond the pixel.
        """
        values = {}
        for offset, width in self._pieces(offsets, np.dtype(ref.dtype).itemsize):
            inside = self.exist
            if offset < 0:
                inside &= self.first >= -offset
            elif offset >= self.length:
                inside &= self.first < self.maps - offset
            index, mask = _adjacent(self.start + offset, inside, width)
            zero = np.zeros((), ref.dtype)
            piece = change(plgpu.load(ref.at[index], mask=mask, other=zero))
            values |= zip(range(offset, offset + width), _split(piece, width), strict=True)
        return values

    def store(self, ref: Any, values: Sequence[Array]) -> None:
        """Stores (block,) float32 values for each map of the segment."""
        for offset, width in self._pieces(range(self.length), np.dtype(ref.dtype).itemsize):
            index, mask = _adjacent(self.start + offset, self.exist, width)
            piece = _join(values[offset : offset + width]).astype(ref.dtype)
            plgpu.store(ref.at[index], piece, mask=mask)

    def _pieces(self, offsets: range, itemsize: int) -> Iterator[tuple[int, int]]:
        """Yields the first offset and the number of maps of each access, all aligned."""
        offset = offsets.start
        while offset < offsets.stop:
            width = min(self.length, ACCESS_BYTES // itemsize)
            while offset % width or offset + width > offsets.stop:
                width //= 2
            yield offset, width
            offset += width

    def store_sums(self, ref: Any, values: Sequence[Array]) -> None:
        """Stores sums of (block,) float32 values for each map of the segment over the pixels.

        Args:
          ref: a flat array with `lanes.pixels_across` pixels for each program: the sums over the
            rows of lanes.
          values: are 0 where no segment exists.
        """
        down, across, groups = self.lanes
        table = _join(values).reshape(down, across, self.length).sum(0)
        lane = jnp.arange(across, dtype=jnp.int32)
        active = self.lanes.pixels_across * groups
        start = (pl.program_id(0) * active + lane) * self.length
        index, mask = _adjacent(start, lane < active, self.length)
        plgpu.store(ref.at[index], table.reshape(index.shape), mask=mask)


def _adjacent(start: Array, mask: Array, width: int) -> tuple[Array, Array]:
    """Returns the indices of `width` adjacent values, (block, width), and a mask for them."""
    if width == 1:
        return start, mask
    index = start[:, None] + jnp.arange(width, dtype=jnp.int32)[None]
    return index, jnp.broadcast_to(mask[:, None], index.shape)


def _split(values: Array, width: int) -> list[Array]:
    """Returns the columns of an array of (block, width), in registers of the same thread."""
    if width == 1:
        return [values]
    return [column.reshape(-1) for column in jnp.split(values, width, axis=1)]


def _join(columns: Sequence[Array]) -> Array:
    """Returns columns side by side, (block, width); Triton joins two arrays at a time."""
    if len(columns) == 1:
        return columns[0]
    halves = [_join(columns[::2]), _join(columns[1::2])]
    return jnp.stack(halves, axis=-1).reshape(len(columns[0]), -1)
