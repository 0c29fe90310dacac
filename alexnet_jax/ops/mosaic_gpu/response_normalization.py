"""Response normalization (§3.3) as Mosaic GPU kernels, for NVIDIA GPUs from Ampere on.

They compute the same as the kernels in ../triton/response_normalization.py, whose compiler, Triton,
Pallas will drop for Mosaic GPU. Only ../response_normalization.py calls them, for
implementation='mosaic_gpu'. ../implementations.py first refuses the devices for which the compiler
would end the process.

A program is one warpgroup, 128 threads, and handles a block of entire pixels. Each thread holds a
few values of the block in registers. Neighbouring threads hold adjacent maps, so that a warp
accesses adjacent addresses. A warpgroup's arrays cannot be shifted. Therefore the values that the
windows sum are written to a buffer in shared memory, where each pixel lies between zeros, and are
read again from shifted addresses. The zeros clip the windows at the first and the last map. Every S
is computed once.

The tests run the kernels in interpret mode, which reports addresses outside an array and races
between programs. The kernels compile for all these GPUs, but have not run on one.
"""

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu
from jax.experimental.pallas import mosaic_gpu

from alexnet_jax.ops.formula import Formula, activations, derivative, powers
from alexnet_jax.ops.kernel_arrays import expect_int32_indices, expect_like

plgpu: Any = mosaic_gpu  # types are checked with JAX 0.10.2, whose interface is another one

THREADS = 128  # a warpgroup's

# A thread holds up to 8 values of each array where the number of maps allows it, and at most 16.
# With 48 or 128 maps, forward then takes 37 to 44 registers and backward 54 to 60, without spills,
# so that at least half of a multiprocessor's warps fit (JAX 0.12.0.1, sm_80 to sm_120). With twice
# as many values, backward takes 80 to 90. Not yet timed on a GPU.
ELEMENTS, MOST_ELEMENTS = 8, 16

# To interpret mode, a warpgroup is one thread, for which there is no barrier to wait at.
INTERPRETED = dict(inline_mgpu='ignore')


def forward(x: Array, formula: Formula, *, interpret: bool = False) -> Array:
    """Computes y = r / S^beta, where r is x or max(x, 0).

    Args:
      x: (..., maps), float32 or bfloat16.
      formula: the constants, with k > 0.
      interpret: whether the CPU interprets the kernel, which is slow.

    Returns:
      An array like `x`. It has NaN in the windows of activations whose squares overflow float32.

    Raises:
      ValueError: the number of maps is not an odd number up to 15 times a power of two, or is more
        than 2,048; or the array has 2**31 elements or more.
    """
    return _call('forward', formula, interpret, x)


def backward(x: Array, cotangent: Array, formula: Formula, *, interpret: bool = False) -> Array:
    """Computes the derivative of `forward` at `x`, times the cotangent.

    The derivative of max(x, 0) at 0 is 0, as in jax.nn.relu.

    Args:
      x: (..., maps), float32 or bfloat16.
      cotangent: an array like `x`.
      formula, interpret: as in `forward`.

    Returns:
      An array like `x`.

    Raises:
      ValueError: as in `forward`, or the cotangent has another shape or dtype than `x`.
    """
    expect_like(cotangent, x)
    return _call('backward', formula, interpret, x, cotangent)


def _call(direction: str, formula: Formula, interpret: bool, *arrays: Array) -> Array:
    x = arrays[0]
    maps = x.shape[-1]
    rows = _rows(maps)
    expect_int32_indices(x)
    if not x.size:
        return x  # no blocks: a grid must not be empty
    pixels = x.size // maps
    flat = [a.reshape(pixels, maps) for a in arrays]
    if pixels < rows:  # a block must lie in the array
        flat = [jnp.pad(a, [(0, rows - pixels), (0, 0)]) for a in flat]
    return _run(direction, formula, interpret, rows, *flat)[:pixels].reshape(x.shape)


def _rows(maps: int) -> int:
    """Returns the pixels in a block, a power of two."""
    rows = THREADS // math.gcd(maps, THREADS)  # each thread then has the same number of values
    if rows * maps > MOST_ELEMENTS * THREADS:
        raise ValueError(
            f'{maps} maps: the Mosaic GPU kernel takes an odd number up to {MOST_ELEMENTS - 1} '
            f'times a power of two, at most {MOST_ELEMENTS * THREADS:,}'
        )
    while 2 * rows * maps <= ELEMENTS * THREADS:
        rows *= 2
    return rows


def _run(direction: str, formula: Formula, interpret: bool, rows: int, *arrays: Array) -> Array:
    """Runs a kernel on arrays of (pixels, maps), with at least `rows` pixels."""
    x = arrays[0]
    pixels, maps = x.shape
    # On either side of a pixel there are at least as many zeros as a window reaches beyond it, and
    # a number that lets each thread write the same number of them.
    step = max(1, THREADS // rows)
    zeros = pl.cdiv(max(1, min(max(formula.before, formula.after), maps)), step) * step
    buffer = plgpu.SMEM((rows, maps + 2 * zeros), jnp.float32)
    kernel = {'forward': _forward, 'backward': _backward}[direction]
    run = plgpu.kernel(
        functools.partial(kernel, formula=formula, block=_Block(rows, pixels, maps, zeros)),
        out_type=jax.ShapeDtypeStruct(x.shape, x.dtype),
        scratch_types=[buffer] * len(arrays),
        grid=(pl.cdiv(pixels, rows),),
        grid_names=('block',),
        # The barriers in `_Block.window` suffice: no buffer is written again after it was read. JAX
        # would add 8 in forward and 14 in backward.
        compiler_params=plgpu.CompilerParams(unsafe_no_auto_barriers=True),
        interpret=plgpu.InterpretGPUParams(**INTERPRETED) if interpret else None,
        kernel_name=f'response_normalization_{direction}',
    )
    # In a shard_map the result varies over the axes of all arguments, which plgpu.kernel does not
    # declare (JAX 0.12.0.1).
    result = run(*arrays)
    varying = frozenset().union(*(_varying(a) for a in arrays)) - _varying(result)
    return jax.lax.pcast(result, tuple(sorted(varying)), to='varying') if varying else result


def _varying(x: Array) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying


class _Block(NamedTuple):
    """The blocks of an array, of which each program handles one.

    Attributes:
      rows: pixels in a block.
      pixels: pixels in the array.
      maps: maps per pixel.
      zeros: zeros on either side of a pixel in a buffer.
    """

    rows: int
    pixels: int
    maps: int
    zeros: int

    def of(self, ref: Any) -> Any:
        """Returns the (rows, maps) of an array that this program handles."""
        # The last block begins earlier where it would otherwise reach beyond the array. Then two
        # programs write the same values to the same addresses.
        start = jnp.minimum(jax.lax.axis_index('block') * self.rows, self.pixels - self.rows)
        return ref.at[pl.ds(start, self.rows)]

    def load(self, ref: Any) -> Array:
        """Loads (rows, maps) values."""
        # Single values, since shifted addresses are not aligned for longer vectors.
        layout = plgpu.Layout.WG_STRIDED((self.rows, self.maps), 1)
        return plgpu.load(ref, layout=layout, optimized=False)

    def clear(self, buffer: Any) -> None:
        """Writes the zeros on either side of each pixel."""
        shape = (self.rows, self.zeros)
        zeros = jnp.zeros(shape, jnp.float32)
        zeros = plgpu.layout_cast(zeros, plgpu.Layout.WG_STRIDED(shape, 1))
        for first in (0, self.zeros + self.maps):
            _store(buffer.at[:, pl.ds(first, self.zeros)], zeros)

    def window(self, buffer: Any, values: Array, before: int, after: int) -> Array:
        """Computes, for each map i, the sum of maps i - before to i + after of the same pixel.

        Args:
          buffer: shared memory that `clear` has prepared, and that nothing else writes to.
          values: (rows, maps).
          before, after: the extent of the window.
        """

        def shifted(offset: int) -> Array:
            if offset == 0:
                return values
            return self.load(buffer.at[:, pl.ds(self.zeros + offset, self.maps)])

        _store(buffer.at[:, pl.ds(self.zeros, self.maps)], values)
        _wait_for_all_threads()
        # Windows that reach further would add only zeros.
        before, after = min(before, self.zeros), min(after, self.zeros)
        return functools.reduce(operator.add, map(shifted, range(-before, after + 1)))


def _store(ref: Any, values: Array) -> None:
    plgpu.store(ref, values, optimized=False)


@plgpu.inline_mgpu()
def _wait_for_all_threads(_: Any) -> None:
    # plgpu.commit_smem would add a fence that Ampere does not have.
    gpu.warpgroup_barrier()


def _forward(x_ref: Any, y_ref: Any, buffer: Any, *, formula: Formula, block: _Block) -> None:
    x = block.load(block.of(x_ref))
    block.clear(buffer)
    r = activations(x, formula)
    power, _ = powers(block.window(buffer, r * r, formula.before, formula.after), formula)
    _store(block.of(y_ref), (r * power).astype(y_ref.dtype))


def _backward(
    x_ref: Any,
    g_ref: Any,
    dx_ref: Any,
    squares: Any,
    inner: Any,
    *,
    formula: Formula,
    block: _Block,
) -> None:
    x, g = (block.load(block.of(ref)) for ref in (x_ref, g_ref))
    block.clear(squares)
    block.clear(inner)
    r = activations(x, formula)
    sums = block.window(squares, r * r, formula.before, formula.after)
    power, inverse = powers(sums, formula)
    scaled = g.astype(jnp.float32) * power
    mirrored = block.window(inner, scaled * r * inverse, formula.after, formula.before)
    _store(block.of(dx_ref), derivative(r, scaled, mirrored, formula).astype(dx_ref.dtype))
