"""ReLU, response normalization (§3.3) and overlapping max-pooling (§3.4), one after the other.

Where nothing else reads what lies between them, one pass can do all three:
response_normalization.py and max_pooling.py, one after the other, are the specification, and what
all but GPUs run; for GPUs there is a kernel (normalized_pooling_pallas.py).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.ops import response_normalization as normalization
from alexnet_jax.ops.formula import LARGEST_WINDOW, Formula
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.response_normalization import response_normalization

# Who computes it: None is the best for the platform.
BY = (None, 'separate', 'pallas')


def normalized_pooling(
    x_BHWC: Array,
    size: int,
    k: float,
    alpha: float,
    beta: float,
    window: int,
    stride: int,
    *,
    rectify: bool = False,
    by: str | None = None,
) -> Array:
    """max_pooling(response_normalization(x)).

    A bias before it is not part of it: XLA adds that as the convolution writes its result.

    Args:
      x_BHWC: (images, rows, columns, maps), float32 or bfloat16; the normalization's arithmetic is
        float32, and its result is rounded to the dtype of x before it is compared.
      size, k, alpha, beta, rectify: as in `response_normalization`.
      window, stride: as in `max_pooling`.
      by: 'separate', the two functions; 'pallas', the kernel, which the CPU interprets slowly, and
        on a TPU, which has none, the two functions with the normalization's; None, the kernel for
        float32 on a GPU where it compiles and agrees with the two functions, else these.

    Returns:
      (images, rows', columns', maps), of the same dtype. Its derivative is that of the two
      functions: of values that tie, each gets the gradient. The kernel sums in float32 what a pixel
      gets from several pools; max_pooling does so in the dtype of x.

    Raises:
      ValueError: `by` is none of these; 'pallas' for an array of 2**31 elements or more, or for a
        window of more than 5 pixels across.
    """
    if by not in BY:
        raise ValueError(f'by is {by!r}, which is none of {BY}')
    formula = Formula(size, k, alpha, beta, rectify)
    way = normalization.way_of(by or ('pallas' if _suits(x_BHWC, window) else 'separate'))
    if way in ('gpu', 'interpreted') and x_BHWC.size:
        return _fused(x_BHWC, formula, window, stride, way == 'interpreted')
    return _separate(x_BHWC, formula, window, stride, by=None if way == 'separate' else by)


def _suits(x: Array, window: int) -> bool:
    """Whether the kernel should be the faster: in bfloat16 it computes again more than it saves.

    That is by counts of bytes and operations (docs/log.md); benchmarks/gpu.sh times both.
    """
    fits = x.size < 2**31 and window <= LARGEST_WINDOW
    return fits and x.dtype == jnp.float32 and _kernel_works()


def _separate(x: Array, formula: Formula, window: int, stride: int, by: str | None) -> Array:
    normalized = response_normalization(x, **formula._asdict(), by=by)
    return max_pooling(normalized, window, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _fused(x: Array, formula: Formula, window: int, stride: int, interpret: bool) -> Array:
    return _kernels().forward(x, formula, window, stride, interpret=interpret)[0]


def _forward(
    x: Array, formula: Formula, window: int, stride: int, interpret: bool
) -> tuple[Array, tuple[Array, Array]]:
    y, mask = _kernels().forward(x, formula, window, stride, with_mask=True, interpret=interpret)
    return y, (x, mask)


def _backward(
    formula: Formula,
    window: int,
    stride: int,
    interpret: bool,
    saved: tuple[Array, Array],
    g: Array,
) -> tuple[Array]:
    x, mask = saved
    return (_kernels().backward(x, mask, g, formula, window, stride, interpret=interpret),)


_fused.defvjp(_forward, _backward)


def _kernels() -> Any:
    from alexnet_jax.ops import normalized_pooling_pallas  # only GPUs need it

    return normalized_pooling_pallas


@functools.cache
def _kernel_works() -> bool:
    """Whether this platform has a kernel that gives the right result; tried once."""
    return normalization.way_of('pallas') == 'gpu' and _agrees(interpret=False)


def _agrees(interpret: bool) -> bool:
    options = dict(formula=normalization.PROBE, window=3, stride=2)
    return normalization.agree(
        'response normalization and max-pooling without their common kernel',
        functools.partial(_fused, **options, interpret=interpret),
        functools.partial(_separate, **options, by='formula'),
        shape=(2, 8, 7, 48),
    )
