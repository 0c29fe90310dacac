"""Response normalization (§3.3) as Pallas kernels: for NVIDIA GPUs (Triton) and for TPUs (Mosaic).

normalization.py holds the formula and its derivative, and decides who computes them; it alone calls
`forward` and `backward`. Per element, forward reads x and writes y, backward reads x and the
cotangent and writes dx, once each: neighbours come from the cache, or lie in the same block. Only x
is kept in between; S is computed again. Values may be bfloat16, the arithmetic is float32. The
arrays are row-major, maps last: where XLA has chosen another layout, it copies them first.

With rectify=True the kernels take max(x, 0) first, so that the ReLU before the layer (§3.1) needs
no pass of its own.

The GPU kernels go through Triton, although JAX 0.12 announces that Pallas will drop it: Mosaic GPU,
which is to follow, needs a Hopper GPU or a newer one, and its kernels could not be run where this
was written. To replace Triton is to replace the GPU half of this file. The tests run all kernels in
interpret mode and lower them for both kinds of device; none of that compiles them for one.
"""

import functools
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

Target = Literal['gpu', 'tpu']

# What a tower of the paper normalizes, (rows, columns, maps) an image: for tests and benchmarks.
SHAPES = {'conv1': (55, 55, 48), 'conv2': (27, 27, 128)}

# GPU: a program has BLOCK segments, each of the largest of these numbers of maps that divides a
# pixel's; all are powers of two. With longer segments fewer S are computed by two threads, with
# shorter ones the threads of a warp touch fewer lines of memory at a time. Not yet timed on a GPU.
SEGMENTS = (4, 2, 1)
BLOCK = 256
NUM_WARPS = 8  # 32 threads each: a thread per segment

# TPU: a block is about half a megabyte in float32; the matrix that sums windows, maps x maps,
# must be in the same memory (about 16 MB) with the blocks.
BLOCK_ELEMENTS = 2**17
MOST_MAPS = 1024

# Interpreted, every block is a step of a loop on the CPU: few, large ones.
INTERPRETED_BLOCK = 2**30


def forward(
    x: Array,
    size: int,
    k: float,
    alpha: float,
    beta: float,
    *,
    rectify: bool,
    target: Target,
    interpret: bool = False,
) -> Array:
    """y = r / S^beta, where r is x, or max(x, 0).

    Args:
      x: (..., maps), float32 or bfloat16.
      size, k, alpha, beta: the constants of the paper; k > 0.
      rectify: whether r is max(x, 0).
      target: 'gpu' or 'tpu', whose kernel.
      interpret: run it on the CPU, slowly; inside a shard_map this needs check_vma=False.

    Returns:
      An array like `x`; NaN in the windows of activations whose squares overflow float32.

    Raises:
      ValueError: another target, 2**31 elements or more, or on a TPU more than 1,024 maps.
    """
    formula = Formula(size, k, alpha, beta, rectify)
    return _call('forward', formula, target, interpret, x)


def backward(
    x: Array,
    cotangent: Array,
    size: int,
    k: float,
    alpha: float,
    beta: float,
    *,
    rectify: bool,
    target: Target,
    interpret: bool = False,
) -> Array:
    """The derivative of `forward` at `x`, times the cotangent; 0 at max(0, 0), as in jax.nn.relu.

    Arguments and errors are those of `forward`. `cotangent` and the result are arrays like `x`, and
    a cotangent of another shape or dtype is a ValueError.
    """
    formula = Formula(size, k, alpha, beta, rectify)
    return _call('backward', formula, target, interpret, x, cotangent)


class Formula(NamedTuple):
    """The elementwise parts of the formula, for arrays of any shape in float32."""

    size: int
    k: float
    alpha: float
    beta: float
    rectify: bool

    @property
    def before(self) -> int:
        """How many maps of a window are before its own."""
        return self.size // 2

    @property
    def after(self) -> int:
        """How many maps of a window are after its own."""
        return self.size - 1 - self.before

    def rectified(self, x: Array) -> Array:
        """The activations r: x or max(x, 0), in float32."""
        x = x.astype(jnp.float32)
        # Not jnp.maximum, which in Triton turns a NaN into 0.
        return jnp.where(x < 0, 0.0, x) if self.rectify else x

    def powers(self, squares: Array) -> tuple[Array, Array]:
        """S^-beta and 1 / S from the sum of the squares in a window."""
        denominator = self.k + self.alpha * squares
        if self.beta == 0.75:
            root = jax.lax.rsqrt(denominator)
            # The square root of `root` by a second reciprocal one: an instruction on GPU and TPU.
            return root * (root * jax.lax.rsqrt(root)), root * root
        return jnp.exp(-self.beta * jnp.log(denominator)), 1 / denominator

    def derivative(self, r: Array, scaled: Array, mirrored: Array) -> Array:
        """The result dx, from g S^-beta and the mirrored window's sum of g r S^(-beta - 1)."""
        d_r = scaled - (2 * self.alpha * self.beta) * (r * mirrored)
        return jnp.where(r > 0, d_r, 0.0) if self.rectify else d_r


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
    if x.size >= 2**31:
        raise ValueError(f'{x.shape} is 2**31 elements or more: an index is an int32')
    if not x.size:
        return x  # no blocks: a grid must not be empty
    return (_call_gpu if target == 'gpu' else _call_tpu)(direction, formula, interpret, *arrays)


def _out_shape(arrays: tuple[Array, ...], shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """The result's type; in a shard_map it varies over the mesh axes that any argument does."""
    varying = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))
    manual = jax.sharding.ManualAxisType(varying=varying)
    return jax.ShapeDtypeStruct(shape, arrays[0].dtype, manual_axis_type=manual)


# --- GPU: flat arrays; a thread holds a segment of adjacent maps and its neighbours in registers.


def _call_gpu(direction: str, formula: Formula, interpret: bool, *arrays: Array) -> Array:
    _expect_triton()
    x = arrays[0]
    length = next(n for n in SEGMENTS if x.shape[-1] % n == 0)
    count = x.size // length
    block = min(INTERPRETED_BLOCK, pl.next_power_of_2(count)) if interpret else BLOCK
    kernel = {'forward': _gpu_forward, 'backward': _gpu_backward}[direction]
    segments = functools.partial(Segments.of_program, x.shape[-1], length, count, block)
    flat = pl.pallas_call(
        functools.partial(kernel, formula=formula, segments=segments),
        out_shape=_out_shape(arrays, (x.size,)),
        grid=(pl.cdiv(count, block),),
        compiler_params=plgpu.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=interpret,
        name=f'response_normalization_{direction}',
    )(*(a.reshape(-1) for a in arrays))
    return flat.reshape(x.shape)


def _expect_triton() -> None:
    # JAX 0.12 warns each time such a kernel is lowered, which is after the function that called
    # pallas_call returned: warnings.catch_warnings could not hold it. See the module's docstring.
    message = 'The Pallas Triton backend is deprecated'
    warnings.filterwarnings('ignore', message, DeprecationWarning)


class Segments(NamedTuple):
    """The segments of one program: `length` adjacent maps of a pixel each."""

    maps: int
    length: int
    start: Array  # (block,) int32: the flat index of a segment's first map
    first: Array  # (block,) int32: the number of that map within its pixel
    exist: Array  # (block,) bool: whether the array has such a segment

    @classmethod
    def of_program(cls, maps: int, length: int, count: int, block: int) -> 'Segments':
        """Those of the program that asks, `block` of all `count`."""
        # No overflow past the end: block * length is a power of two, so 2**31 is a multiple of it.
        index = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)
        start = index * length
        return cls(maps, length, start, jax.lax.rem(start, np.int32(maps)), index < count)

    def load(self, ref: Any, offset: int) -> Array:
        """(block,): the values `offset` maps from the first ones; 0 where the pixel has none."""
        inside = self.exist
        if offset < 0:
            inside &= self.first >= -offset
        elif offset >= self.length:
            inside &= self.first < self.maps - offset
        return plgpu.load(ref.at[self.start + offset], mask=inside, other=0.0)

    def store(self, ref: Any, offset: int, values: Array) -> None:
        """Writes (block,) float32 values, 0 <= offset < length."""
        at = ref.at[self.start + offset]
        plgpu.store(at, values.astype(ref.dtype), mask=self.exist)


def _gpu_forward(
    x_ref: Any, y_ref: Any, *, formula: Formula, segments: Callable[[], Segments]
) -> None:
    here, before, after = segments(), formula.before, formula.after
    near = range(-before, here.length + after)
    r = {j: formula.rectified(here.load(x_ref, j)) for j in near}
    squares = {j: r[j] * r[j] for j in near}
    for i in range(here.length):
        power, _ = formula.powers(_sum(squares, i - before, i + after))
        here.store(y_ref, i, r[i] * power)


def _gpu_backward(
    x_ref: Any, g_ref: Any, dx_ref: Any, *, formula: Formula, segments: Callable[[], Segments]
) -> None:
    here, before, after = segments(), formula.before, formula.after
    # Map i takes part in the S of maps i - after to i + before: the windows of those are needed.
    near = range(-after, here.length + before)
    far = range(near.start - before, near.stop + after)
    r = {j: formula.rectified(here.load(x_ref, j)) for j in far}
    g = {j: here.load(g_ref, j).astype(jnp.float32) for j in near}
    squares = {j: r[j] * r[j] for j in far}
    scaled, inner = {}, {}
    for j in near:
        power, inverse = formula.powers(_sum(squares, j - before, j + after))
        scaled[j] = g[j] * power
        inner[j] = scaled[j] * r[j] * inverse  # 0 where the pixel has no map j: r is
    for i in range(here.length):
        mirrored = _sum(inner, i - after, i + before)
        here.store(dx_ref, i, formula.derivative(r[i], scaled[i], mirrored))


def _sum(values: Mapping[int, Array], first: int, last: int) -> Array:
    return functools.reduce(operator.add, (values[j] for j in range(first, last + 1)))


# --- TPU: (pixels, maps); a block has whole pixels, and a window sum is a product of matrices.


def _call_tpu(direction: str, formula: Formula, interpret: bool, *arrays: Array) -> Array:
    x = arrays[0]
    maps = x.shape[-1]
    if maps > MOST_MAPS:
        raise ValueError(f'{maps} maps: the TPU kernel takes at most {MOST_MAPS}')
    pixels = x.size // maps
    # A row takes a multiple of 128 elements; rows come in sixteens (bfloat16), or all of them.
    rows = BLOCK_ELEMENTS // (pl.cdiv(maps, 128) * 128) // 16 * 16
    rows = min(pixels, INTERPRETED_BLOCK if interpret else rows)
    spec = pl.BlockSpec((rows, maps), lambda i: (i, 0))
    kernel = {'forward': _tpu_forward, 'backward': _tpu_backward}[direction]
    flat = pl.pallas_call(
        functools.partial(kernel, formula=formula),
        out_shape=_out_shape(arrays, (pixels, maps)),
        grid=(pl.cdiv(pixels, rows),),
        in_specs=[spec] * len(arrays),
        out_specs=spec,
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',)),
        interpret=interpret,
        name=f'response_normalization_{direction}',
    )(*(a.reshape(pixels, maps) for a in arrays))
    return flat.reshape(x.shape)


def _tpu_forward(x_ref: Any, y_ref: Any, *, formula: Formula) -> None:
    r = formula.rectified(x_ref[...])
    power, _ = formula.powers(_window_sum(r * r, formula.before, formula.after))
    y_ref[...] = (r * power).astype(y_ref.dtype)


def _tpu_backward(x_ref: Any, g_ref: Any, dx_ref: Any, *, formula: Formula) -> None:
    r = formula.rectified(x_ref[...])
    power, inverse = formula.powers(_window_sum(r * r, formula.before, formula.after))
    scaled = g_ref[...].astype(jnp.float32) * power
    mirrored = _window_sum(scaled * r * inverse, formula.after, formula.before)
    dx_ref[...] = formula.derivative(r, scaled, mirrored).astype(dx_ref.dtype)


def _window_sum(values: Array, before: int, after: int) -> Array:
    """(rows, maps): the sum of maps i - before to i + after, as far as they are."""
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
