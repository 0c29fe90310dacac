"""Response normalization (§3.3) as Pallas kernels for TPUs.

../response_normalization.py holds the formula and its derivative, and chooses the implementation;
only it calls `forward` and `backward`. Per element, the forward kernel reads x and writes y, and
the backward kernel reads x and the cotangent and writes dx, once each. Only x is saved between the
two; S is computed again. Values may be bfloat16; the arithmetic is float32.

The arrays are (pixels, maps), row-major: where XLA has chosen another layout, it copies them first.
A block has entire pixels, and a window sum is a matrix product. With rectify=True the kernels take
max(x, 0) first, so that the ReLU before the layer (§3.1) needs no pass of its own.

The tests interpret the kernels and compile them for TPUs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.ops import kernel_arrays
from alexnet_jax.ops.formula import Formula, activations, derivative, powers
from alexnet_jax.ops.kernel_arrays import expect_int32_indices, expect_like, result_type

# A block is about half a megabyte in float32. The maps x maps matrix that sums windows must fit
# into the same memory (about 16 MB) as the blocks.
BLOCK_ELEMENTS = 2**17
MOST_MAPS = 1024


def forward(x: Array, formula: Formula, *, interpret: bool = False) -> Array:
    """Computes y = r / S^beta, where r is x or max(x, 0).

    Args:
      x: (..., maps), float32 or bfloat16.
      formula: the constants, with k > 0.
      interpret: whether the CPU interprets the kernel, which is slow; inside a shard_map this needs
        check_vma=False.

    Returns:
      An array like `x`. It has NaN in the windows of activations whose squares overflow float32.

    Raises:
      ValueError: the array has 2**31 elements or more, or more than 1,024 maps.
    """
    return _call(_forward, 'response_normalization_forward', formula, interpret, x)


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
    return _call(_backward, 'response_normalization_backward', formula, interpret, x, cotangent)


def _call(
    kernel: Callable[..., None], name: str, formula: Formula, interpret: bool, *arrays: Array
) -> Array:
    x = arrays[0]
    expect_int32_indices(x)
    if not x.size:
        return x  # no blocks: a grid must not be empty
    maps = x.shape[-1]
    if maps > MOST_MAPS:
        raise ValueError(f'{maps} maps: the TPU kernel takes at most {MOST_MAPS}')
    pixels = x.size // maps
    # A row occupies a multiple of 128 elements. A block has a multiple of 16 rows (bfloat16), or
    # all.
    rows = BLOCK_ELEMENTS // (pl.cdiv(maps, 128) * 128) // 16 * 16
    rows = min(pixels, kernel_arrays.INTERPRETED_BLOCK if interpret else rows)
    spec = pl.BlockSpec((rows, maps), lambda i: (i, 0))
    flat = pl.pallas_call(
        functools.partial(kernel, formula=formula),
        out_shape=result_type(arrays, (pixels, maps), x.dtype),
        grid=(pl.cdiv(pixels, rows),),
        in_specs=[spec] * len(arrays),
        out_specs=spec,
        compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',)),
        interpret=interpret,
        name=name,
    )(*(a.reshape(pixels, maps) for a in arrays))
    return flat.reshape(x.shape)


def _forward(x_ref: Any, y_ref: Any, *, formula: Formula) -> None:
    r = activations(x_ref[...], formula)
    power, _ = powers(_window_sum(r * r, formula.before, formula.after), formula)
    y_ref[...] = (r * power).astype(y_ref.dtype)


def _backward(x_ref: Any, g_ref: Any, dx_ref: Any, *, formula: Formula) -> None:
    r = activations(x_ref[...], formula)
    power, inverse = powers(_window_sum(r * r, formula.before, formula.after), formula)
    scaled = g_ref[...].astype(jnp.float32) * power
    mirrored = _window_sum(scaled * r * inverse, formula.after, formula.before)
    dx_ref[...] = derivative(r, scaled, mirrored, formula).astype(dx_ref.dtype)


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
