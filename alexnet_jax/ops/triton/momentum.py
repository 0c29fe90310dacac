"""The update rule with momentum (§5) for many small arrays as one Pallas kernel, for NVIDIA GPUs.

../momentum.py decides whether the kernel is used; only it calls `update`. XLA updates each array in
a kernel of its own. The gradients of convolution kernels come from cuDNN with the output maps
first. XLA transposes them in the update, which it cannot do in place then, and copies the results
into the arrays of the state. This kernel reads the gradients in cuDNN's order and updates all
arrays in place.

response_normalization.py beside it says more about Triton, which compiles it. The tests interpret
and compile the kernel; on an H100 it computes the bits of the rule (benchmarks/device_check.py).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from alexnet_jax.ops.kernel_arrays import result_type
from alexnet_jax.ops.triton.rules import KERNEL_DIMENSIONS, Rule
from alexnet_jax.ops.triton.segments import silence_deprecation

TILE = 32  # rows and columns of the tile that a program updates
NUM_WARPS = 4  # 8 elements for each thread; 64 registers on sm_90, none of them spilled


def update(
    params: Sequence[Array],
    velocities: Sequence[Array],
    gradients: Sequence[Array],
    rules: Sequence[Rule],
    hyperparameters: Array,
    momentum: float,
    *,
    interpret: bool = False,
) -> tuple[list[Array], list[Array]]:
    """Applies the rules to arrays, in place; see ../momentum.py for the arguments."""
    silence_deprecation()
    shapes = [x.shape for x in params]
    parts = _divide(shapes)
    # In the order in which cuDNN returns them, so that XLA does not transpose them.
    ordered = [jnp.moveaxis(g, -1, 1) if g.ndim == KERNEL_DIMENSIONS else g for g in gradients]
    gradient = jnp.concatenate([g.reshape(-1) for g in ordered])
    arrays = [x.reshape(-1) for x in (*params, *velocities)]
    new = pl.pallas_call(
        functools.partial(_kernel, parts=parts, rules=rules, momentum=momentum),
        out_shape=[result_type([x], x.shape, x.dtype) for x in arrays],
        grid=(parts[-1].stop,),
        input_output_aliases={i + 2: i for i in range(len(arrays))},
        compiler_params=plgpu.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=interpret,
        name='small_updates',
    )(hyperparameters, gradient, *arrays)
    new = [x.reshape(shape) for x, shape in zip(new, shapes * 2, strict=True)]
    return new[: len(shapes)], new[len(shapes) :]


class _Part(NamedTuple):
    """An array as matrices of (rows, columns), and the programs that update it.

    Attributes:
      matrices: the number of matrices.
      rows, columns: of each matrix; columns are the output maps.
      offset: the index of its first gradient in the array of all gradients.
      start, stop: the range of programs that update it, one tile each.
    """

    matrices: int
    rows: int
    columns: int
    offset: int
    start: int
    stop: int


def _divide(shapes: Sequence[tuple[int, ...]]) -> list[_Part]:
    """Divides arrays into tiles, and the tiles among the programs, in order."""
    parts, offset, start = [], 0, 0
    for shape in shapes:
        size = math.prod(shape)
        matrices, columns = (shape[0], shape[-1]) if len(shape) == KERNEL_DIMENSIONS else (1, size)
        rows = size // matrices // columns
        stop = start + matrices * pl.cdiv(rows, TILE) * pl.cdiv(columns, TILE)
        parts.append(_Part(matrices, rows, columns, offset, start, stop))
        offset, start = offset + size, stop
    return parts


def _kernel(
    hyperparameters_ref: Any,
    gradient_ref: Any,
    *refs: Any,
    parts: Sequence[_Part],
    rules: Sequence[Rule],
    momentum: float,
) -> None:
    """Applies a rule to one tile; `refs`: old parameters, old velocities, new ones of each."""
    program, n = pl.program_id(0), len(parts)
    for i, (part, rule) in enumerate(zip(parts, rules, strict=True)):

        @pl.when((program >= part.start) & (program < part.stop))
        def _(part: _Part = part, rule: Rule = rule, i: int = i) -> None:
            indices, gradient_indices, exist = _indices(part, program - part.start)

            def load(ref: Any, index: Array) -> Array:
                return plgpu.load(ref.at[index], mask=exist, other=np.float32(0))

            w, v = load(refs[i], indices), load(refs[n + i], indices)
            g = load(gradient_ref, gradient_indices)
            rate = hyperparameters_ref[rule.rate]
            if rule.decay:
                g = g + np.float32(rule.decay) * w
            v = -(rate * np.float32(rule.factor)) * g + np.float32(momentum) * v
            change = jnp.where(rate == 0, np.float32(0), v) if rule.may_freeze else v
            plgpu.store(refs[2 * n + i].at[indices], w + change, mask=exist)
            plgpu.store(refs[3 * n + i].at[indices], v, mask=exist)


def _indices(part: _Part, tile: Array) -> tuple[Array, Array, Array]:
    """Returns a tile's indices in the array and in the gradients, and which of them exist.

    Each is (TILE, TILE). In the gradients, rows and columns of a matrix are exchanged.
    """
    across = np.int32(pl.cdiv(part.columns, TILE))
    down = np.int32(pl.cdiv(part.rows, TILE))
    column = jax.lax.rem(tile, across) * TILE + jnp.arange(TILE, dtype=jnp.int32)[None, :]
    tile = jax.lax.div(tile, across)
    row = jax.lax.rem(tile, down) * TILE + jnp.arange(TILE, dtype=jnp.int32)[:, None]
    matrix = jax.lax.div(tile, down)
    start = matrix * (part.rows * part.columns)
    indices = start + row * part.columns + column
    gradient_indices = part.offset + start + column * part.rows + row
    return indices, gradient_indices, (row < part.rows) & (column < part.columns)
