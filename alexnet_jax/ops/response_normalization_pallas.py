"""Response normalization (§3.3) as Pallas kernels: for NVIDIA GPUs (Triton) and for TPUs (Mosaic).

response_normalization.py holds the formula and its derivative, and chooses the implementation; only
it calls `forward` and `backward`. Per element, the forward kernel reads x and writes y, and the
backward kernel reads x and the cotangent and writes dx, once each: neighbours come from the cache,
or lie in the same block. Only x is saved between the two; S is computed again. Values may be
bfloat16; the arithmetic is float32. The arrays are row-major, maps last: where XLA has chosen
another layout, it copies them first. normalized_pooling_pallas.py builds on the GPU half.

With rectify=True the kernels take max(x, 0) first, so that the ReLU before the layer (§3.1) needs
no pass of its own.

The GPU kernels are compiled by Triton, which JAX 0.11 and later announce that Pallas will drop.
mosaic_gpu/response_normalization.py has the same kernels for the successor. The tests run all
kernels in interpret mode and lower them for both kinds of device; test_compiled_for_gpu.py compiles
them.
"""

import functools
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

from alexnet_jax.ops.formula import Formula
from alexnet_jax.ops.formula import activations as _rectify
from alexnet_jax.ops.formula import derivative as _derivative
from alexnet_jax.ops.formula import powers as _powers

Target = Literal['gpu', 'tpu']
# Loads the values at an offset from a segment's first map; 0 where the pixel has no such map.
Load = Callable[[int], Array]

# What one tower of the paper normalizes, (rows, columns, maps) per image, for tests and benchmarks.
SHAPES = {'conv1': (55, 55, 48), 'conv2': (27, 27, 128)}

# GPU: a program has BLOCK segments. A segment has the largest of these numbers of maps that divides
# the number of maps per pixel; all are powers of two. With longer segments fewer S are computed by
# two threads; with shorter ones the threads of a warp touch fewer lines of memory at a time. Not
# yet timed on a GPU.
SEGMENTS = (4, 2, 1)
BLOCK = 256
NUM_WARPS = 8  # 32 threads each: a thread per segment

# TPU: a block is about half a megabyte in float32. The maps x maps matrix that sums windows must
# fit into the same memory (about 16 MB) as the blocks.
BLOCK_ELEMENTS = 2**17
MOST_MAPS = 1024

# In interpret mode every block is a step of a loop on the CPU, so there should be few, large ones.
INTERPRETED_BLOCK = 2**30


def forward(x: Array, formula: Formula, *, target: Target, interpret: bool = False) -> Array:
    """Computes y = r / S^beta, where r is x or max(x, 0).

    Args:
      x: (..., maps), float32 or bfloat16.
      formula: the constants, with k > 0.
      target: 'gpu' or 'tpu': the device whose kernel runs.
      interpret: whether the CPU interprets the kernel, which is slow; inside a shard_map this needs
        check_vma=False.

    Returns:
      An array like `x`. It has NaN in the windows of activations whose squares overflow float32.

    Raises:
      ValueError: the target is unknown, the array has 2**31 elements or more, or, for a TPU, more
        than 1,024 maps.
    """
    return _call('forward', formula, target, interpret, x)


def backward(
    x: Array, cotangent: Array, formula: Formula, *, target: Target, interpret: bool = False
) -> Array:
    """Computes the derivative of `forward` at `x`, times the cotangent.

    The derivative of max(x, 0) at 0 is 0, as in jax.nn.relu.

    Args:
      x: (..., maps), float32 or bfloat16.
      cotangent: an array like `x`.
      formula, target, interpret: as in `forward`.

    Returns:
      An array like `x`.

    Raises:
      ValueError: as in `forward`, or the cotangent has another shape or dtype than `x`.
    """
    return _call('backward', formula, target, interpret, x, cotangent)


def _call(
    direction: Literal['forward', 'backward'],
    formula: Formula,
    target: Target,
    interpret: bool,
    *arrays: Array,
) -> Array:
    if target not in ('gpu', 'tpu'):
        raise ValueError(f"target is {target!r}, not 'gpu' or 'tpu'")
    x, *others = arrays
    if any((a.shape, a.dtype) != (x.shape, x.dtype) for a in others):
        raise ValueError(f'the cotangent of {jax.typeof(x)} is {jax.typeof(others[0])}')
    expect_int32_indices(x)
    if not x.size:
        return x  # no blocks: a grid must not be empty
    return (_call_gpu if target == 'gpu' else _call_tpu)(direction, formula, interpret, *arrays)


def expect_int32_indices(x: Array) -> None:
    """Raises a ValueError for an array with too many elements for int32 indices."""
    if x.size >= 2**31:
        raise ValueError(f'{x.shape} has 2**31 elements or more: an index is an int32')


def _result_type(arrays: Sequence[Array], shape: tuple[int, ...], dtype: Any) -> Any:
    """Returns a result's type, which in a shard_map varies over the axes of all arguments."""
    varying = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))
    manual = jax.sharding.ManualAxisType(varying=varying)
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=manual)


# --- GPU: the arrays are flat; a thread holds a segment of adjacent maps and its neighbours in
# registers.


def _call_gpu(direction: str, formula: Formula, interpret: bool, *arrays: Array) -> Array:
    x = arrays[0]
    kernel = {'forward': _gpu_forward, 'backward': _gpu_backward}[direction]
    (flat,) = launch(
        functools.partial(kernel, formula=formula),
        f'response_normalization_{direction}',
        arrays,
        [(x.size, x.dtype)],
        pixels=x.size // x.shape[-1],
        maps=x.shape[-1],
        interpret=interpret,
    )
    return flat.reshape(x.shape)


def launch(
    kernel: Callable[..., None],
    name: str,
    arrays: Sequence[Array],
    results: Sequence[tuple[int, Any]],
    *,
    pixels: int,
    maps: int,
    interpret: bool,
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

    Returns:
      The flat results.
    """
    _expect_triton()
    length = next(n for n in SEGMENTS if maps % n == 0)
    count = pixels * maps // length
    block = min(INTERPRETED_BLOCK, pl.next_power_of_2(count)) if interpret else BLOCK
    return pl.pallas_call(
        functools.partial(
            kernel, segments=functools.partial(Segments.of_program, maps, length, count, block)
        ),
        out_shape=[_result_type(arrays, (size,), dtype) for size, dtype in results],
        grid=(pl.cdiv(count, block),),
        compiler_params=plgpu.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=interpret,
        name=name,
    )(*(a.reshape(-1) for a in arrays))


def _expect_triton() -> None:
    # JAX 0.12 warns each time such a kernel is lowered, which happens after the caller of
    # pallas_call has returned, so warnings.catch_warnings has no effect. See the module's
    # docstring.
    message = 'The Pallas Triton backend is deprecated'
    warnings.filterwarnings('ignore', message, DeprecationWarning)


class Segments(NamedTuple):
    """The segments handled by one program: `length` adjacent maps of one pixel each.

    Attributes:
      maps: maps per pixel.
      length: maps per segment.
      start: (block,) int32, the flat index of each segment's first map.
      first: (block,) int32, the number of that map within its pixel.
      exist: (block,) bool, whether the array has such a segment.
    """

    maps: int
    length: int
    start: Array
    first: Array
    exist: Array

    @classmethod
    def of_program(cls, maps: int, length: int, count: int, block: int) -> 'Segments':
        """Returns the segments handled by this program: `block` of `count` segments."""
        # No index overflows: block * length is a power of two, so 2**31 is a multiple of it.
        index = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)
        start = index * length
        return cls(maps, length, start, jax.lax.rem(start, np.int32(maps)), index < count)

    def load(self, ref: Any, offset: int) -> Array:
        """Loads (block,) values `offset` maps from the first ones; 0 beyond the pixel."""
        inside = self.exist
        if offset < 0:
            inside &= self.first >= -offset
        elif offset >= self.length:
            inside &= self.first < self.maps - offset
        zero = np.zeros((), ref.dtype)
        return plgpu.load(ref.at[self.start + offset], mask=inside, other=zero)

    def store(self, ref: Any, offset: int, values: Array) -> None:
        """Stores (block,) float32 values `offset` maps from the first ones, below length."""
        target = ref.at[self.start + offset]
        plgpu.store(target, values.astype(ref.dtype), mask=self.exist)


def _gpu_forward(
    x_ref: Any, y_ref: Any, *, formula: Formula, segments: Callable[[], Segments]
) -> None:
    own = segments()
    for i, y in enumerate(normalize(functools.partial(own.load, x_ref), own.length, formula)):
        own.store(y_ref, i, y)


def _gpu_backward(
    x_ref: Any, g_ref: Any, dx_ref: Any, *, formula: Formula, segments: Callable[[], Segments]
) -> None:
    own = segments()
    g = {j: own.load(g_ref, j).astype(jnp.float32) for j in reach(own.length, formula)}
    load = functools.partial(own.load, x_ref)
    for i, dx in enumerate(pull_back(load, g, own.length, formula)):
        own.store(dx_ref, i, dx)


def normalize(load: Load, length: int, formula: Formula) -> list[Array]:
    """Computes the float32 results of a segment of `length` maps."""
    before, after = formula.before, formula.after
    r = {j: _rectify(load(j), formula) for j in range(-before, length + after)}
    squares = {j: a * a for j, a in r.items()}
    sums = [_sum(squares, i - before, i + after) for i in range(length)]
    return [r[i] * _powers(s, formula)[0] for i, s in enumerate(sums)]


def reach(length: int, formula: Formula) -> range:
    """Returns the maps, relative to a segment's first one, whose S depends on the segment."""
    return range(-formula.after, length + formula.before)


def pull_back(
    load: Load, g: Mapping[int, Array | float], length: int, formula: Formula
) -> Iterator[Array]:
    """Yields each map's float32 derivative, from the cotangent `g` of the segment's reach."""
    before, after = formula.before, formula.after
    near = reach(length, formula)
    r = {j: _rectify(load(j), formula) for j in range(near.start - before, near.stop + after)}
    squares = {j: a * a for j, a in r.items()}
    scaled, inner = {}, {}
    for j in near:
        power, inverse = _powers(_sum(squares, j - before, j + after), formula)
        scaled[j] = g[j] * power
        inner[j] = scaled[j] * r[j] * inverse  # 0 where the pixel has no map j, as r is
    for i in range(length):
        mirrored = _sum(inner, i - after, i + before)
        yield _derivative(r[i], scaled[i], mirrored, formula)


def _sum(values: Mapping[int, Array], first: int, last: int) -> Array:
    return functools.reduce(operator.add, (values[j] for j in range(first, last + 1)))


# --- TPU: the arrays are (pixels, maps); a block has entire pixels, and a window sum is a matrix
# product.


def _call_tpu(direction: str, formula: Formula, interpret: bool, *arrays: Array) -> Array:
    x = arrays[0]
    maps = x.shape[-1]
    if maps > MOST_MAPS:
        raise ValueError(f'{maps} maps: the TPU kernel takes at most {MOST_MAPS}')
    pixels = x.size // maps
    # A row occupies a multiple of 128 elements. A block has a multiple of 16 rows (bfloat16), or
    # all.
    rows = BLOCK_ELEMENTS // (pl.cdiv(maps, 128) * 128) // 16 * 16
    rows = min(pixels, INTERPRETED_BLOCK if interpret else rows)
    spec = pl.BlockSpec((rows, maps), lambda i: (i, 0))
    kernel = {'forward': _tpu_forward, 'backward': _tpu_backward}[direction]
    flat = pl.pallas_call(
        functools.partial(kernel, formula=formula),
        out_shape=_result_type(arrays, (pixels, maps), x.dtype),
        grid=(pl.cdiv(pixels, rows),),
        in_specs=[spec] * len(arrays),
        out_specs=spec,
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',)),
        interpret=interpret,
        name=f'response_normalization_{direction}',
    )(*(a.reshape(pixels, maps) for a in arrays))
    return flat.reshape(x.shape)


def _tpu_forward(x_ref: Any, y_ref: Any, *, formula: Formula) -> None:
    r = _rectify(x_ref[...], formula)
    power, _ = _powers(_window_sum(r * r, formula.before, formula.after), formula)
    y_ref[...] = (r * power).astype(y_ref.dtype)


def _tpu_backward(x_ref: Any, g_ref: Any, dx_ref: Any, *, formula: Formula) -> None:
    r = _rectify(x_ref[...], formula)
    power, inverse = _powers(_window_sum(r * r, formula.before, formula.after), formula)
    scaled = g_ref[...].astype(jnp.float32) * power
    mirrored = _window_sum(scaled * r * inverse, formula.after, formula.before)
    dx_ref[...] = _derivative(r, scaled, mirrored, formula).astype(dx_ref.dtype)


def _window_sum(values: Array, before: int, after: int) -> Array:
    """Computes, for each map i, the sum of maps i - before to i + after, clipped at the edges."""
    maps = values.shape[-1]
    source = jax.lax.broadcasted_iota(jnp.int32, (maps, maps), 0)
    window = jax.lax.broadcasted_iota(jnp.int32, (maps, maps), 1)
    inside = (source >= window - before) & (source <= window + after)
    return jnp.dot(
        values,
        jnp.where(inside, np.float32(1), np.float32(0)),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
