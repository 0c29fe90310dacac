"""Response normalization (§3.3) as Pallas kernels for NVIDIA GPUs, which Triton compiles.

../response_normalization.py holds the formula and its derivative, and chooses the implementation;
only it calls `forward` and `backward`. Per element, the forward kernel reads x and writes y, and
the backward kernel reads x and the cotangent and writes dx, once each: neighbours come from the
cache. Only x is saved between the two; S is computed again. Values may be bfloat16; the arithmetic
is float32. The arrays are row-major, maps last: where XLA has chosen another layout, it copies them
first. The kernels are made of the parts in this folder.

With rectify=True the kernels take max(x, 0) first, so that the ReLU before the layer (§3.1) needs
no pass of its own. The gradient of a bias before the ReLU is left to XLA: only the kernel that also
pools adds it up, because the paper's net has no normalization without pooling.

JAX 0.11 and later announce that Pallas will drop Triton. mosaic_gpu/response_normalization.py has
the same kernels for its successor. The tests run the kernels in interpret mode, and compile them
without having a GPU (tests/test_compiled_for_gpu.py).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from alexnet_jax.ops.formula import Formula
from alexnet_jax.ops.kernel_arrays import expect_int32_indices, expect_like
from alexnet_jax.ops.triton.arithmetic import Arithmetic
from alexnet_jax.ops.triton.segments import Segments, launch


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
      ValueError: the array has 2**31 elements or more.
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
    (flat,) = launch(
        functools.partial(kernel, arithmetic=Arithmetic(formula, interpret)),
        name,
        arrays,
        [(x.size, x.dtype)],
        pixels=x.size // x.shape[-1],
        maps=x.shape[-1],
        interpret=interpret,
    )
    return flat.reshape(x.shape)


def _forward(
    x_ref: Any, y_ref: Any, *, arithmetic: Arithmetic, segments: Callable[[], Segments]
) -> None:
    segment = segments()
    load = functools.partial(segment.load, x_ref)
    segment.store(y_ref, arithmetic.normalize(load, segment.length))


def _backward(
    x_ref: Any, g_ref: Any, dx_ref: Any, *, arithmetic: Arithmetic, segments: Callable[[], Segments]
) -> None:
    segment = segments()
    load = functools.partial(segment.load, x_ref)
    g = segment.load(g_ref, arithmetic.reach(segment.length))
    segment.store(
        dx_ref, [*arithmetic.pull_back(load, lambda j: g[j].astype(jnp.float32), segment.length)]
    )
