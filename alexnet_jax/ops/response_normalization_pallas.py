"""Response normalization (§3.3) as Pallas kernels: for NVIDIA GPUs (Triton) and for TPUs (Mosaic).

response_normalization.py holds the formula and its derivative, and chooses the implementation; only
it calls `forward` and `backward`. Per element, the forward kernel reads x and writes y, and the
backward kernel reads x and the cotangent and writes dx, once each: neighbours come from the cache,
or lie in the same block. Only x is saved between the two; S is computed again. Values may be
bfloat16; the arithmetic is float32. The arrays are row-major, maps last: where XLA has chosen
another layout, it copies them first. The GPU kernels are made of the parts in kernels/.

With rectify=True the kernels take max(x, 0) first, so that the ReLU before the layer (§3.1) needs
no pass of its own.

The GPU kernels are compiled by Triton, although JAX 0.12 announces that Pallas will drop it: its
successor, Mosaic GPU, needs a Hopper GPU or a newer one, and its kernels could not be run where
this was written. Replacing Triton means replacing the GPU half of this file, and kernels/. The
tests run all kernels in interpret mode, and compile them for both kinds of device without having
one (tests/test_compiled_for_gpu.py).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.ops.formula import Formula
from alexnet_jax.ops.kernels import segments
from alexnet_jax.ops.kernels.arithmetic import Arithmetic
from alexnet_jax.ops.kernels.segments import (
    Segments,
    expect_int32_indices,
    launch,
    result_type,
)

Target = Literal['gpu', 'tpu']

# What one tower of the paper normalizes, (rows, columns, maps) per image, for tests and benchmarks.
SHAPES = {'conv1': (55, 55, 48), 'conv2': (27, 27, 128)}

# TPU: a block is about half a megabyte in float32. The maps x maps matrix that sums windows must
# fit into the same memory (about 16 MB) as the blocks.
BLOCK_ELEMENTS = 2**17
MOST_MAPS = 1024


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


# --- Elementwise parts of the formula, in float32.


def _rectify(x: Array, formula: Formula) -> Array:
    """Returns the activations r, which are x or max(x, 0)."""
    x = x.astype(jnp.float32)
    # jnp.maximum would turn a NaN into 0 in Triton.
    return jnp.where(x < 0, 0.0, x) if formula.rectify else x


def _powers(squares: Array, formula: Formula) -> tuple[Array, Array]:
    """Computes S^-beta and 1 / S from the sum of the squares in a window."""
    denominator = formula.k + formula.alpha * squares
    if formula.beta == 0.75:
        root = jax.lax.rsqrt(denominator)
        # The square root of `root` by a second reciprocal root, one instruction on GPUs and TPUs.
        return root * (root * jax.lax.rsqrt(root)), root * root
    return jnp.exp(-formula.beta * jnp.log(denominator)), 1 / denominator


def _derivative(r: Array, scaled: Array, mirrored: Array, formula: Formula) -> Array:
    """Computes dx from g S^-beta and the mirrored window's sum of g r S^(-beta - 1)."""
    d_r = scaled - (2 * formula.alpha * formula.beta) * (r * mirrored)
    return jnp.where(r > 0, d_r, 0.0) if formula.rectify else d_r


# --- GPU: see kernels/segments.py.


def _call_gpu(direction: str, formula: Formula, interpret: bool, *arrays: Array) -> Array:
    x = arrays[0]
    kernel = {'forward': _gpu_forward, 'backward': _gpu_backward}[direction]
    (flat,) = launch(
        functools.partial(kernel, arithmetic=Arithmetic(formula, interpret)),
        f'response_normalization_{direction}',
        arrays,
        [(x.size, x.dtype)],
        pixels=x.size // x.shape[-1],
        maps=x.shape[-1],
        interpret=interpret,
    )
    return flat.reshape(x.shape)


def _gpu_forward(
    x_ref: Any, y_ref: Any, *, arithmetic: Arithmetic, segments: Callable[[], Segments]
) -> None:
    own = segments()
    load = functools.partial(own.load, x_ref)
    own.store(y_ref, arithmetic.normalize(load, own.length))


def _gpu_backward(
    x_ref: Any, g_ref: Any, dx_ref: Any, *, arithmetic: Arithmetic, segments: Callable[[], Segments]
) -> None:
    own = segments()
    load = functools.partial(own.load, x_ref)
    g = own.load(g_ref, arithmetic.reach(own.length))
    own.store(dx_ref, [*arithmetic.pull_back(load, lambda j: g[j].astype(jnp.float32), own.length)])


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
    rows = min(pixels, segments.INTERPRETED_BLOCK if interpret else rows)
    spec = pl.BlockSpec((rows, maps), lambda i: (i, 0))
    kernel = {'forward': _tpu_forward, 'backward': _tpu_backward}[direction]
    flat = pl.pallas_call(
        functools.partial(kernel, formula=formula),
        out_shape=result_type(arrays, (pixels, maps), x.dtype),
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
