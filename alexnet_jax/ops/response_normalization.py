"""Local response normalization (§3.3): the formula, its derivative by hand, and who computes it.

    b^i = a^i / S_i^beta,   S_i = k + alpha * sum_{j in window(i)} (a^j)^2

The window is `size` adjacent maps around map i, clipped at the first and last map given: a tower
normalizes over its own maps alone. `alpha` multiplies the sum as the paper prints it; the 2012 code
divides it by the size (layer.py:1183), which is the caller's to do.

What is here is the specification, and fast on CPU. For GPU and TPU there are kernels
(response_normalization_pallas.py).
"""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import Array

from alexnet_jax.ops.formula import Formula

# Who computes it: None is the best for the platform.
BY = (None, 'formula', 'pallas')


# What kernels are tried with: the paper's constants, after a ReLU.
PROBE = Formula(5, 2.0, 1e-4, 0.75, rectify=True)


def response_normalization(
    x: Array,
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    *,
    rectify: bool = False,
    by: str | None = None,
) -> Array:
    """Normalizes each activation by its neighbours in the last axis.

    Args:
      x: (..., maps), float32 or bfloat16; the arithmetic is float32.
      size: n, the number of adjacent maps; from i - size // 2 on.
      k, alpha, beta: the constants of the paper.
      rectify: normalizes max(x, 0): a ReLU before it (§3.1) that takes no pass of its own.
      by: 'formula', in plain JAX; 'pallas', the kernels, which the CPU interprets slowly; None, the
        kernels on GPUs and TPUs where they compile and agree with the formula, else the formula.

    Returns:
      An array like `x`. The derivative saves `x` alone and computes S again.

    Raises:
      ValueError: `by` is none of these; see also normalization_pallas.
    """
    if by not in BY:
        raise ValueError(f'by is {by!r}, which is none of {BY}')
    way = way_of(by or ('pallas' if x.size < 2**31 and _kernels_work() else 'formula'))
    return _normalize(x, Formula(size, k, alpha, beta, rectify), way)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalize(x: Array, formula: Formula, way: str) -> Array:
    if way == 'formula':
        return _value(x, formula)
    return _kernels().forward(x, formula, **_target(way))


def _forward(x: Array, formula: Formula, way: str) -> tuple[Array, Array]:
    return _normalize(x, formula, way), x


def _backward(formula: Formula, way: str, x: Array, g: Array) -> tuple[Array]:
    if way == 'formula':
        return (_derivative(x, g, formula),)
    return (_kernels().backward(x, g, formula, **_target(way)),)


_normalize.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=1)
def _value(x: Array, formula: Formula) -> Array:
    r = _rectified(x, formula)
    return (r * _power(_denominator(r, formula), -formula.beta)).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _derivative(x: Array, cotangent: Array, formula: Formula) -> Array:
    """dr_j = g_j S_j^-beta - 2 alpha beta r_j sum_{i : j in window(i)} g_i r_i S_i^(-beta - 1)."""
    # In one piece, XLA would compute what g is made of once for each map of a window.
    x, cotangent = jax.lax.optimization_barrier((x, cotangent))
    _, k, alpha, beta, rectify = formula
    r = _rectified(x, formula)
    # Not _denominator: where the forward pass has the same terms, XLA keeps them for this one.
    windows = _windows(r, formula.before, formula.after)
    denominator = k + alpha * _total([a * a for a in windows])
    scaled = cotangent.astype(jnp.float32) * _power(denominator, -beta)
    inner = scaled * r / denominator
    # j is in the window of i where i is in the mirrored window of j.
    mirrored = _total(_windows(inner, formula.after, formula.before))
    dr = scaled - 2 * alpha * beta * r * mirrored
    return (jnp.where(r > 0, dr, 0.0) if rectify else dr).astype(x.dtype)


def _rectified(x: Array, formula: Formula) -> Array:
    x = x.astype(jnp.float32)
    return jnp.maximum(x, 0.0) if formula.rectify else x


def _denominator(r: Array, formula: Formula) -> Array:
    return formula.k + formula.alpha * _total(_windows(r * r, formula.before, formula.after))


def _windows(x: Array, before: int, after: int) -> list[Array]:
    """Of each map, `before` maps to the left, itself and `after` to the right; else zeros."""
    maps = x.shape[-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
    return [padded[..., i : i + maps] for i in range(before + 1 + after)]


def _total(parts: list[Array]) -> Array:
    return functools.reduce(jnp.add, parts)


def _power(x: Array, exponent: float) -> Array:
    """x ** exponent; the paper's -3/4 by two reciprocal roots, which are several times faster."""
    if exponent == -0.75:
        root = jax.lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**exponent


def way_of(by: str) -> str:
    """Where kernels run: 'gpu', 'tpu', or 'interpreted'; what is not 'pallas' is itself the way."""
    if by != 'pallas':
        return by
    return {'gpu': 'gpu', 'cuda': 'gpu', 'tpu': 'tpu'}.get(jax.default_backend(), 'interpreted')


def _target(way: str) -> dict[str, Any]:
    return dict(target='gpu', interpret=True) if way == 'interpreted' else dict(target=way)


def _kernels() -> Any:
    # Takes a moment, and the CPU does not need it.
    from alexnet_jax.ops import response_normalization_pallas

    return response_normalization_pallas


@functools.cache
def _kernels_work() -> bool:
    """Whether this platform has kernels that give the right result; tried once."""
    way = way_of('pallas')
    return way != 'interpreted' and _agrees(way)


def _agrees(way: str) -> bool:
    of = [functools.partial(_normalize, formula=PROBE, way=w) for w in (way, 'formula')]
    return agree(f'response normalization without its {way} kernel', *of, shape=(64, 48))


def agree(
    otherwise: str,
    kernel: Callable[[Array], Array],
    specification: Callable[[Array], Array],
    shape: tuple[int, ...],
) -> bool:
    """Whether a kernel compiles here and gives the right values and derivative for some numbers.

    No version of JAX promises that a kernel compiles on every device, and a run must not end on it.

    Args:
      otherwise: the warning where it does not.
      kernel, specification: functions of a float32 array.
      shape: of that array.
    """
    try:
        # In a thread of its own, which knows nothing of the program that is being traced here.
        with concurrent.futures.ThreadPoolExecutor(1) as alone:
            results = [alone.submit(_try, of, shape).result() for of in (kernel, specification)]
        for own, right in zip(*results, strict=True):
            np.testing.assert_allclose(own, right, rtol=1e-4, atol=1e-4)
    except Exception as error:  # whatever the compiler says
        reason = str(error).strip().partition('\n')[0]
        logging.warning('%s: %s', otherwise, reason)
        return False
    return True


def _try(of: Callable[[Array], Array], shape: tuple[int, ...]) -> list[np.ndarray]:
    """The values, and the derivative times a random cotangent."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(0, 100, shape), jnp.float32)
    g = jnp.asarray(rng.normal(0, 100, jax.eval_shape(of, x).shape), jnp.float32)
    return [np.asarray(a) for a in jax.jit(lambda x, g: (of(x), *jax.vjp(of, x)[1](g)))(x, g)]
