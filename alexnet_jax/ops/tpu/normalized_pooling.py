"""ReLU, response normalization (§3.3) and max-pooling (§3.4) as one Pallas kernel for TPUs.

../normalized_pooling.py chooses when it is used. The kernel's arrays are (rows, columns, maps,
images): a vector register has 8 maps of 128 images, whatever the number of maps, and rows and
columns are only addresses, so that pools need no shuffles. It is one of the layouts that XLA
prefers for a convolution, so no copies are needed around the kernel.

- A grid step handles `pools` rows of pools, and the rows of pixels where these begin. Forward goes
  from the last rows to the first and keeps the normalized rows that the pools above also cover;
  backward goes from the first to the last and keeps the pools that also cover pixels below.
- Forward reads x once and writes y; backward reads x, y and the cotangent and writes dx, and adds
  up dx for the gradient of the bias before the operations. Backward normalizes again, and a pixel
  that equals y gets the pool's cotangent. Both directions compute this value by the same operations
  in the same order.

The tests interpret the kernel and compile it for TPUs; it has not run on one yet.
"""

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.ops.formula import Formula, add_bias
from alexnet_jax.ops.kernel_arrays import result_type
from alexnet_jax.ops.tpu.arithmetic import buffer_rows, normalize
from alexnet_jax.ops.tpu.pools import COMPILERS_BYTES, LANES, Pools


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def pool(
    x_BHWC: Array,
    bias_111C: Array | None,
    formula: Formula | None,
    window: int,
    stride: int,
    interpret: bool = False,
) -> Array:
    """Computes the largest value in each pool of the normalized x + bias.

    Args:
      x_BHWC: (images, rows, columns, maps), float32 or bfloat16; see `pools.is_suited`.
      bias_111C: (1, 1, 1, maps) float32, rounded to the dtype of x before it is added; or None.
      formula: the constants of the normalization, with k > 0; None for pooling alone.
      window, stride: the pools' window and stride, in pixels.
      interpret: whether the CPU interprets the kernel, which is slow; inside a shard_map this needs
        check_vma=False.

    Returns:
      (images, rows', columns', maps), of the same dtype. The arithmetic is float32; pools compare
      what is rounded to the dtype of x. The derivative gives a pixel the sum, in float32, of the
      cotangents of the pools whose largest value it holds; values that tie each get it. The bias's
      gradient is the sum, in float32, of dx before it is rounded.
    """
    return forward(add_bias(x_BHWC, bias_111C), formula, window, stride, interpret=interpret)


def _pool_forward(
    x: Array,
    bias: Array | None,
    formula: Formula | None,
    window: int,
    stride: int,
    interpret: bool,
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    x = add_bias(x, bias)
    y = forward(x, formula, window, stride, interpret=interpret)
    return y, (x, y, bias)


def _pool_backward(
    formula: Formula | None,
    window: int,
    stride: int,
    interpret: bool,
    residuals: tuple[Array, Array, Array | None],
    g: Array,
) -> tuple[Array, Array | None]:
    x, y, bias = residuals
    dx, sums_CB = backward(x, y, g, formula, window, stride, interpret=interpret)
    return dx, None if bias is None else sums_CB.sum(1).reshape(bias.shape).astype(bias.dtype)


pool.defvjp(_pool_forward, _pool_backward)


def forward(
    x_BHWC: Array, formula: Formula | None, window: int, stride: int, *, interpret: bool = False
) -> Array:
    """Computes `pool` without a bias."""
    pools = Pools.of_array(x_BHWC, window, stride)
    images, _, _, maps = x_BHWC.shape
    last = pools.grid_rows - 1
    (y_hwCB,) = _call(
        _forward,
        'forward',
        pools,
        formula,
        [(x_BHWC, pools.pixels_spec(lambda step: last - step))],
        [(pools.rows, pools.columns, maps, images)],
        [pools.pools_spec(lambda step: last - step)],
        [pools.covered],
        buffers=pools.columns_at_once,
        interpret=interpret,
    )
    return y_hwCB.transpose(3, 0, 1, 2)


def backward(
    x_BHWC: Array,
    y_BhwC: Array,
    cotangent_BhwC: Array,
    formula: Formula | None,
    window: int,
    stride: int,
    *,
    interpret: bool = False,
) -> tuple[Array, Array]:
    """Computes the derivative of `pool` at `x`, times the cotangent.

    Args:
      x_BHWC: the argument of `forward`.
      y_BhwC: what `forward` returned.
      cotangent_BhwC: an array like `y_BhwC`.
      formula, window, stride, interpret: as for `pool`.

    Returns:
      An array like `x_BHWC`; and its sums over the pixels of each image, (maps, images) float32.
    """
    pools = Pools.of_array(x_BHWC, window, stride)
    images, height, width, maps = x_BHWC.shape
    pixels, small = pools.pixels_spec(lambda step: step), pools.pools_spec(lambda step: step)
    dx_HWCB, sums_CB = _call(
        _backward,
        'backward',
        pools,
        formula,
        [(x_BHWC, pixels), (y_BhwC, small), (cotangent_BhwC, small)],
        [(height, width, maps, images), (maps, images)],
        [pixels, pl.BlockSpec((pools.maps, pools.images), lambda image, step: (0, image))],
        [pools.near] * 2,
        buffers=stride**2,
        interpret=interpret,
    )
    return dx_HWCB.transpose(3, 0, 1, 2), sums_CB


def _call(
    kernel: Callable[..., None],
    direction: str,
    pools: Pools,
    formula: Formula | None,
    arguments: list[tuple[Array, pl.BlockSpec]],
    shapes: list[tuple[int, ...]],
    specs: list[pl.BlockSpec],
    kept: list[tuple[int, int]],
    *,
    buffers: int,
    interpret: bool,
) -> list[Array]:
    """Runs a kernel on the transposed arrays.

    Args:
      kernel, direction, pools, formula: what runs.
      arguments: arrays, (images, rows, columns, maps), and their blocks.
      shapes, specs: the shapes of the results and their blocks. The first result has the dtype of
        the arguments, the others are float32.
      kept: rows and columns of pixels or pools in each array that is kept between grid steps.
      buffers: the number of buffers for sums over windows.
      interpret: whether the CPU interprets the kernel.

    Returns:
      The results.
    """
    arrays = [a for a, _ in arguments]
    scratch = [pltpu.VMEM((*size, pools.maps, pools.images), jnp.float32) for size in kept]
    if formula:
        rows = buffer_rows(pools.maps, formula)
        scratch.append(pltpu.VMEM((buffers, rows, pools.images), jnp.float32))
    name = 'normalized_pooling' if formula else 'max_pooling'
    return pl.pallas_call(
        functools.partial(kernel, formula=formula, pools=pools),
        out_shape=[
            result_type(arrays, shape, dtype)
            for shape, dtype in zip(shapes, (arrays[0].dtype, jnp.float32), strict=False)
        ],
        grid=(pl.cdiv(arrays[0].shape[0], LANES), pools.grid_rows),
        in_specs=[spec for _, spec in arguments],
        out_specs=specs,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel', 'arbitrary'),
            vmem_limit_bytes=pools.vmem_bytes(arrays[0].dtype) + COMPILERS_BYTES,
        ),
        interpret=interpret,
        name=f'{name}_{direction}',
    )(*(a.transpose(1, 2, 3, 0) for a in arrays))


def _forward(
    x_ref: Any,
    y_ref: Any,
    z_ref: Any,
    buffers: Any = None,
    *,
    formula: Formula | None,
    pools: Pools,
) -> None:
    """Computes rows of pools; z keeps the normalized pixels, -inf where there are none."""
    window, stride, rows = pools.window, pools.stride, pools.pixel_rows
    step = pl.program_id(1)
    kept = z_ref.shape[0] - rows

    @pl.when(step == 0)
    def start() -> None:
        z_ref[...] = jnp.full(z_ref.shape, -jnp.inf, z_ref.dtype)
        _clear(buffers)

    if kept:

        @pl.when(step > 0)
        def keep() -> None:
            z_ref[rows:] = z_ref[:kept]

    def normalize_pixel(row: Any, column: Any, number: int) -> None:
        z_ref[row, column] = normalize(x_ref[row, column], formula, buffers, number)[0]

    def pool_pixels(row: Any, column: Any, number: int) -> None:
        del number
        values = (
            z_ref[row * stride + i, column * stride + j]
            for i, j in itertools.product(range(window), repeat=2)
        )
        y_ref[row, column] = functools.reduce(jnp.maximum, values).astype(y_ref.dtype)

    exist = pools.height - (pools.grid_rows - 1 - step) * rows
    _for_each(jnp.minimum(rows, exist), pools.width, pools.columns_at_once, normalize_pixel)
    _for_each(pools.pools, pools.columns, pools.columns_at_once, pool_pixels)


def _backward(
    x_ref: Any,
    y_ref: Any,
    g_ref: Any,
    dx_ref: Any,
    sums_ref: Any,
    y_near: Any,
    g_near: Any,
    buffers: Any = None,
    *,
    formula: Formula | None,
    pools: Pools,
) -> None:
    """Computes rows of dx; y_near and g_near hold the pools that cover them, g = 0 around them."""
    before = pools.before
    step = pl.program_id(1)

    @pl.when(step == 0)
    def start() -> None:
        g_near[...] = jnp.zeros(g_near.shape, g_near.dtype)
        sums_ref[...] = jnp.zeros(sums_ref.shape, sums_ref.dtype)
        _clear(buffers)

    if before:

        @pl.when(step > 0)
        def keep() -> None:
            y_near[:before] = y_near[pools.pools :]
            g_near[:before] = g_near[pools.pools :]

    def load(row: Any, column: Any, number: int) -> None:
        del number
        exists = step * pools.pools + row < pools.rows
        g = jnp.where(exists, g_ref[row, column].astype(jnp.float32), 0.0)
        y_near[before + row, before + column] = y_ref[row, column].astype(jnp.float32)
        g_near[before + row, before + column] = g

    _for_each(pools.pools, pools.columns, pools.columns_at_once, load)
    exist = pools.height - step * pools.pixel_rows  # rows of pixels
    block = functools.partial(
        _backward_block, (x_ref, dx_ref, sums_ref, y_near, g_near, buffers), exist, formula, pools
    )
    full, rest = divmod(pools.width, pools.stride)
    _for_each(pools.pools, full, 1, functools.partial(block, pools.stride))
    if rest:
        last = functools.partial(block, rest)
        _for_each(pools.pools, 1, 1, lambda row, column, number: last(row, column + full, number))


def _backward_block(
    refs: tuple[Any, ...],
    exist: Array,
    formula: Formula | None,
    pools: Pools,
    across: int,
    row: Any,
    column: Any,
    number: int,
) -> None:
    """Computes dx of a block of stride x `across` pixels, all of which lie in the same pools."""
    del number
    x_ref, dx_ref, sums_ref, y_near, g_near, buffers = refs
    covering = {
        (up, left): (y_near[at], g_near[at])
        for up, left in itertools.product(range(pools.before + 1), repeat=2)
        for at in [(row + pools.before - up, column + pools.before - left)]
    }
    total = sums_ref[...]
    for pixel, (i, j) in enumerate(itertools.product(range(pools.stride), range(across))):
        at = (row * pools.stride + i, column * pools.stride + j)
        x = x_ref[at]
        z, pull_back = normalize(x, formula, buffers, pixel)
        z = z.astype(x.dtype).astype(jnp.float32)
        parts = [
            jnp.where(z == y, g, 0.0)
            for (up, left), (y, g) in covering.items()
            if max(up * pools.stride + i, left * pools.stride + j) < pools.window
        ]
        g = functools.reduce(operator.add, parts) if parts else jnp.zeros_like(z)
        dx = pull_back(g)
        dx_ref[at] = dx.astype(dx_ref.dtype)
        # The last block may have rows beyond the image, with any content.
        total += jnp.where(row * pools.stride + i < exist, dx, 0.0)
    sums_ref[...] = total


def _clear(buffers: Any) -> None:
    if buffers is not None:
        buffers[...] = jnp.zeros(buffers.shape, buffers.dtype)


def _for_each(rows: Any, columns: int, at_once: int, body: Callable[[Any, Any, int], None]) -> None:
    """Calls body(row, column, number) for each row and column, so many columns at once.

    The number is that of the column among those that are at work at the same time.
    """
    iterations, rest = divmod(columns, at_once)

    def row_body(row: Array, carry: int) -> int:
        def iteration(i: Array, carry: int) -> int:
            for number in range(at_once):
                body(row, i * at_once + number, number)
            return carry

        jax.lax.fori_loop(0, iterations, iteration, 0)
        for number in range(rest):
            body(row, iterations * at_once + number, number)
        return carry

    jax.lax.fori_loop(0, rows, row_body, 0)
