"""The division of work in the kernels for NVIDIA GPUs, and what a thread loads and stores.

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

from alexnet_jax.ops import kernel_arrays

ACCESS_BYTES = 16  # a thread's widest access
# A segment has the largest power of two of maps that divides the number of maps per pixel, and at
# most this many. With longer segments fewer S are computed by two threads, and there are fewer,
# wider accesses; but a thread needs more registers.
LONGEST = 8
BLOCK = 256  # threads, and segments, per program
NUM_WARPS = 8  # 32 threads each: a thread per segment
# Programs that add up take several steps, so that few sums are written, but leave every
# multiprocessor several programs.
PROGRAMS, MOST_STEPS = 1024, 16
# A part of the threads of such a program has at least so many: Triton (JAX 0.10.2) crashes where it
# has to compile an array of one value.
FEWEST_THREADS = 16


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
      sums: whether the kernel gets one more array to write, and as `segments` a `Steps`, whose
        `store_sums` writes to it.

    Returns:
      The flat results; with `sums` the last one is (maps,) float32, the sums over all pixels.
    """
    silence_deprecation()
    length = segment_length(maps)
    groups = maps // length
    count = pixels * groups
    block = min(kernel_arrays.INTERPRETED_BLOCK, pl.next_power_of_2(count)) if interpret else BLOCK
    if sums:
        segments: Any = Steps.of_pixels(pixels, groups, length, block)
        grid = pl.cdiv(pixels, segments.count * segments.pixels_per_step)
        results = [*results, (grid * segments.pixels_per_sum * maps, jnp.float32)]
    else:
        segments = functools.partial(Segments.of_program, groups, length, pixels, block)
        grid = pl.cdiv(count, block)
    values = pl.pallas_call(
        functools.partial(kernel, segments=segments),
        out_shape=[kernel_arrays.result_type(arrays, (size,), dtype) for size, dtype in results],
        grid=(grid,),
        compiler_params=plgpu.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=interpret,
        name=name,
    )(*(a.reshape(-1) for a in arrays))
    if not sums:
        return values
    return [*values[:-1], values[-1].reshape(-1, maps).sum(0)]


def silence_deprecation() -> None:
    """Silences the warning that Pallas will drop Triton; see docs/decisions.md."""
    # JAX 0.12 warns each time a kernel is lowered, which happens after the caller of pallas_call
    # has returned, so warnings.catch_warnings has no effect.
    message = 'The Pallas Triton backend is deprecated'
    warnings.filterwarnings('ignore', message, DeprecationWarning)


class Segments(NamedTuple):
    """The segments handled by one program: `length` adjacent maps of one pixel each.

    Attributes:
      groups: segments per pixel.
      length: maps per segment.
      index: (block,) int32, the number of each segment in the array.
      group: (block,) int32, the number of each segment in its pixel.
      exist: (block,) bool, whether the array has such a segment.
    """

    groups: int
    length: int
    index: Array
    group: Array
    exist: Array

    @classmethod
    def of_program(cls, groups: int, length: int, pixels: int, block: int) -> 'Segments':
        """Returns the segments handled by this program: `block` adjacent ones."""
        # No index overflows: block * length is a power of two, so 2**31 is a multiple of it.
        index = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)
        group = jax.lax.rem(index, np.int32(groups))
        return cls(groups, length, index, group, index < pixels * groups)

    def load(self, ref: Any, offsets: range) -> dict[int, Array]:
        """Loads maps at some offsets from the first ones, as wide as their addresses allow.

        Args:
          ref: a flat array.
          offsets: the offsets of the maps.

        Returns:
          (block,) values by their offset; 0 beyond the pixel.
        """
        values = {}
        for offset, width in self._pieces(offsets, np.dtype(ref.dtype).itemsize):
            inside, beyond = self.exist, offset // self.length
            if beyond < 0:
                inside &= self.group >= -beyond
            elif beyond > 0:
                inside &= self.group < self.groups - beyond
            index, mask = _adjacent(self.index * self.length + offset, inside, width)
            zero = np.zeros((), ref.dtype)
            piece = plgpu.load(ref.at[index], mask=mask, other=zero)
            values |= zip(range(offset, offset + width), _split(piece, width), strict=True)
        return values

    def store(self, ref: Any, values: Sequence[Array]) -> None:
        """Stores (block,) values for each map of the segment, rounded to the array's dtype."""
        for offset, width in self._pieces(range(self.length), np.dtype(ref.dtype).itemsize):
            index, mask = _adjacent(self.index * self.length + offset, self.exist, width)
            piece = join(values[offset : offset + width]).astype(ref.dtype)
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


class Steps(NamedTuple):
    """The pixels of a program, taken in steps; a thread has the same maps in each.

    So a thread can add up what it computes for these maps. The threads are divided into equal
    parts, in which the same maps have the same place; at the end the sums of all parts are added.

    Attributes:
      pixels: the extent of the work.
      groups: segments per pixel.
      length: maps per segment.
      block: threads.
      parts: parts of the threads. The last threads of each have nothing to do if `groups` does not
        divide their number.
      count: steps per program.
    """

    pixels: int
    groups: int
    length: int
    block: int
    parts: int
    count: int

    @classmethod
    def of_pixels(cls, pixels: int, groups: int, length: int, block: int) -> 'Steps':
        """Returns as many steps as leave about PROGRAMS programs, and at most MOST_STEPS."""
        block = max(block, pl.next_power_of_2(groups))
        pixels_per_step, parts = block // groups, 1
        # In more parts, more threads would have nothing to do.
        while (
            2 * parts * (block // (2 * parts) // groups) == pixels_per_step
            and 2 * parts * FEWEST_THREADS <= block
        ):
            parts *= 2
        steps = pl.cdiv(pixels, pixels_per_step)
        count = min(max(round(steps / PROGRAMS), 1), MOST_STEPS)
        return cls(pixels, groups, length, block, parts, count)

    @property
    def pixels_per_sum(self) -> int:
        """The number of sums for each map that a program stores."""
        return self.block // self.parts // self.groups

    @property
    def pixels_per_step(self) -> int:
        """The number of pixels that a program handles at a time."""
        return self.parts * self.pixels_per_sum

    def store_sums(self, ref: Any, of_step: Callable[[Segments], list[Array]]) -> None:
        """Calls a function for the segments of each step, and stores the sums of its results.

        Args:
          ref: a flat array with `pixels_per_sum` pixels for each program.
          of_step: returns (block,) float32 values for each map of a segment, 0 where none exists.
        """
        program = pl.program_id(0)  # in interpret mode it is not known within the loop
        threads = self.block // self.parts
        part, lane = divide(jnp.arange(self.block, dtype=jnp.int32), threads)
        row, group = divide(lane, self.groups)
        active = row < self.pixels_per_sum
        row += part * self.pixels_per_sum

        def segments(step: Array | int) -> Segments:
            pixel = (program * self.count + step) * self.pixels_per_step + row
            exist = active & (pixel < self.pixels)
            return Segments(self.groups, self.length, pixel * self.groups + group, group, exist)

        def add(step: Array, sums: list[Array]) -> list[Array]:
            return [a + b for a, b in zip(sums, of_step(segments(step)), strict=True)]

        if self.count == 1:
            sums = of_step(segments(0))
        else:
            zeros = [jnp.zeros(self.block, jnp.float32) for _ in range(self.length)]
            sums = jax.lax.fori_loop(0, self.count, add, zeros)
        sums = [s.reshape(self.parts, threads).sum(0) for s in sums]
        lane = jnp.arange(threads, dtype=jnp.int32)
        stored = self.pixels_per_sum * self.groups
        own = Segments(self.groups, self.length, program * stored + lane, lane, lane < stored)
        own.store(ref, sums)


def divide(a: Array, b: int) -> tuple[Array, Array]:
    """Computes quotient and remainder of numbers that are not negative."""
    return jax.lax.div(a, np.int32(b)), jax.lax.rem(a, np.int32(b))


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


def join(columns: Sequence[Array]) -> Array:
    """Returns columns side by side, (block, width); Triton joins two arrays at a time."""
    if len(columns) == 1:
        return columns[0]
    halves = [join(columns[::2]), join(columns[1::2])]
    return jnp.stack(halves, axis=-1).reshape(len(columns[0]), -1)
