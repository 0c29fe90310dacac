"""Local response normalization (§3.3): the formula, its derivative, and the choice of a kernel.

    b^i = a^i / S_i^beta,   S_i = k + alpha * sum_{j in window(i)} (a^j)^2

The window is `size` adjacent maps around map i, clipped at the first and the last map of the array:
those of a tower, unless its neighbours' are added (model/towers.py, `extend`). `alpha` multiplies
the sum as the paper prints it; the 2012 code divides it by the size (layer.py:1183), which is left
to the caller.

This module is the specification in plain JAX, and it is fast on CPUs. GPUs and TPUs have kernels
(triton/, tpu/ and, for newer GPUs, mosaic_gpu/, each with its response_normalization.py).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.ops.formula import PAPER, Formula
from alexnet_jax.ops.implementations import (
    PLATFORMS_WITH_KERNELS,
    Platform,
    choose_backend,
    kernel_agrees,
)


def response_normalization(
    x: Array,
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    *,
    rectify: bool = False,
    implementation: str | None = None,
    platform: Platform | None = None,
) -> Array:
    """Normalizes each activation by its neighbours along the last axis (§3.3).

    Args:
      x: (..., maps), float32 or bfloat16; the arithmetic is float32.
      size: n, the number of adjacent maps, from map i - size // 2 on.
      k, alpha, beta: the constants of the paper.
      rectify: whether to normalize max(x, 0), which saves a separate pass for the ReLU (§3.1).
      implementation: 'jax' for plain JAX; 'pallas' for the kernels, which a CPU interprets slowly;
        'mosaic_gpu' for the kernels that are to replace those of 'pallas' on GPUs; None for
        'pallas' on GPUs and TPUs where it compiles and agrees with plain JAX, and for plain JAX
        elsewhere.
      platform: the platform that the program is compiled for; None for JAX's default.

    Returns:
      An array like `x`. The derivative saves only `x` and computes S again.

    Raises:
      ValueError: `implementation` is unknown, or is 'mosaic_gpu' where that cannot be used; see
        also the modules of the kernels.
    """
    platform = platform or Platform.default()
    if implementation is None and x.size >= 2**31:  # the kernels' indices are int32
        implementation = 'jax'
    backend = choose_backend(implementation, platform, _kernel_works)
    return _normalize(x, Formula(size, k, alpha, beta, rectify), backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalize(x: Array, formula: Formula, backend: str) -> Array:
    if backend == 'jax':
        return _value(x, formula)
    return _kernels(backend).forward(x, formula, interpret=backend == 'interpreted')


def _forward(x: Array, formula: Formula, backend: str) -> tuple[Array, Array]:
    return _normalize(x, formula, backend), x


def _backward(formula: Formula, backend: str, x: Array, g: Array) -> tuple[Array]:
    if backend == 'jax':
        return (_derivative(x, g, formula),)
    return (_kernels(backend).backward(x, g, formula, interpret=backend == 'interpreted'),)


_normalize.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=1)
def _value(x: Array, formula: Formula) -> Array:
    r = _rectify(x, formula)
    return (r * _power(_denominator(r, formula), -formula.beta)).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _derivative(x: Array, cotangent: Array, formula: Formula) -> Array:
    """Computes the derivative of `_value` at `x`, times the cotangent.

    dr_j = g_j S_j^-beta - 2 alpha beta r_j sum_{i : j in window(i)} g_i r_i S_i^(-beta - 1)
    """
    # Without the barrier, XLA would compute what the cotangent depends on once for each map of a
    # window.
    x, cotangent = jax.lax.optimization_barrier((x, cotangent))
    _, k, alpha, beta, rectify = formula
    r = _rectify(x, formula)
    # This does not call _denominator: the forward pass has the same terms, and XLA would keep them
    # until here.
    windows = _windows(r, formula.before, formula.after)
    denominator = k + alpha * _total([a * a for a in windows])
    scaled = cotangent.astype(jnp.float32) * _power(denominator, -beta)
    inner = scaled * r / denominator
    # Map j is in the window of i exactly where i is in the mirrored window of j.
    mirrored = _total(_windows(inner, formula.after, formula.before))
    dr = scaled - 2 * alpha * beta * r * mirrored
    return (jnp.where(r > 0, dr, 0.0) if rectify else dr).astype(x.dtype)


def _rectify(x: Array, formula: Formula) -> Array:
    x = x.astype(jnp.float32)
    return jnp.maximum(x, 0.0) if formula.rectify else x


def _denominator(r: Array, formula: Formula) -> Array:
    return formula.k + formula.alpha * _total(_windows(r * r, formula.before, formula.after))


def _windows(x: Array, before: int, after: int) -> list[Array]:
    """Returns copies of x shifted along the maps, from `before` maps back to `after` maps ahead.

    Where a window reaches beyond the first or the last map, the copies hold zeros.
    """
    maps = x.shape[-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
    return [padded[..., i : i + maps] for i in range(before + 1 + after)]


def _total(parts: list[Array]) -> Array:
    return functools.reduce(jnp.add, parts)


def _power(x: Array, exponent: float) -> Array:
    """Computes x ** exponent; for the paper's -3/4 by two roots, which is several times faster."""
    if exponent == -0.75:
        root = jax.lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**exponent


def _kernels(backend: str) -> Any:
    # Importing Pallas takes a moment, and a CPU does not need it.
    match backend:
        case 'mosaic_gpu':
            from alexnet_jax.ops.mosaic_gpu import response_normalization
        case 'tpu':
            from alexnet_jax.ops.tpu import response_normalization
        case _:
            from alexnet_jax.ops.triton import response_normalization
    return response_normalization


@functools.cache
def _kernel_works(platform: Platform) -> bool:
    """Returns whether the platform has kernels that give the right result; tries them once."""
    return platform.name in PLATFORMS_WITH_KERNELS and _kernel_agrees(platform, platform.name)


def _kernel_agrees(platform: Platform, backend: str) -> bool:
    kernel, specification = (
        functools.partial(_normalize, formula=PAPER, backend=name) for name in (backend, 'jax')
    )
    fallback = f'response normalization runs without its {backend} kernel'
    return kernel_agrees(platform, fallback, kernel, specification, shape=(64, 48))
