"""ReLU, response normalization (§3.3) and overlapping max-pooling (§3.4) in sequence.

Where nothing else reads the arrays between them, one pass can do all three. The functions of
response_normalization.py and max_pooling.py in sequence are the specification, and they run on
CPUs. GPUs have a kernel (triton/normalized_pooling.py), and so have TPUs, also for pooling alone
(tpu/normalized_pooling.py).
"""

import functools
from typing import Any

import jax
from jax import Array

from alexnet_jax.ops.formula import LARGEST_WINDOW, PAPER, Formula, add_bias
from alexnet_jax.ops.implementations import Platform, choose_backend, kernel_agrees
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.response_normalization import response_normalization


def normalized_pooling(
    x_BHWC: Array,
    size: int,
    k: float,
    alpha: float,
    beta: float,
    window: int,
    stride: int,
    *,
    bias_111C: Array | None = None,
    rectify: bool = False,
    tolerance: float = 0.0,
    implementation: str | None = None,
    platform: Platform | None = None,
) -> Array:
    """Computes max_pooling(response_normalization(x + bias)).

    XLA adds the bias while the convolution before it writes its result. The kernel of the
    derivative adds up the bias's gradient, for which XLA would read all of dx again.

    Args:
      x_BHWC: (images, rows, columns, maps), float32 or bfloat16. The normalization's arithmetic is
        float32, and its result is rounded to the dtype of x before the pools compare it.
      size, k, alpha, beta, rectify: as in `response_normalization`.
      window, stride: as in `max_pooling`.
      bias_111C: (1, 1, 1, maps) float32, rounded to the dtype of x before it is added.
      tolerance: as in `max_pooling`; the kernels do not need it, which compare only once.
      implementation: 'jax' for the two functions in plain JAX. 'pallas' for the kernel, which a CPU
        interprets slowly; on a TPU, for its kernel if the array is suited to it (at least 64
        images). 'mosaic_gpu' for the normalization's kernel of that name and plain JAX's pooling.
        None for 'pallas' on GPUs and TPUs where the kernel compiles and agrees with the two
        functions; otherwise for each function's fastest implementation.
      platform: the platform that the program is compiled for; None for JAX's default.

    Returns:
      (images, rows', columns', maps), of the same dtype. Its derivative is that of the two
      functions: values that tie each get the gradient. Where a pixel gets gradients from several
      pools, the kernel sums them in float32, and max_pooling in the dtype of x. The kernel sums the
      bias's gradient in float32 before dx is rounded.

    Raises:
      ValueError: `implementation` is unknown; or it is 'pallas', and the array has 2**31 elements
        or more, or the window more than 5 pixels across; or it is 'mosaic_gpu', and
        `response_normalization` refuses it.
    """
    formula = Formula(size, k, alpha, beta, rectify)
    platform = platform or Platform.default()
    is_suited = functools.partial(_kernel_is_faster, x_BHWC, window)
    backend = choose_backend(implementation, platform, is_suited)
    bias = None if bias_111C is None else _vary_like(bias_111C, x_BHWC)
    if _tpu_is_suited(x_BHWC, window, stride, implementation, platform):
        return _tpu_kernels().pool(x_BHWC, bias, formula, window, stride)
    if backend in ('gpu', 'interpreted') and x_BHWC.size:
        return _fused(x_BHWC, bias, formula, window, stride, backend == 'interpreted')
    x = add_bias(x_BHWC, bias_111C)
    return _separate(x, formula, window, stride, implementation, platform, tolerance)


def _vary_like(bias: Array, x: Array) -> Array:
    """Lets the bias vary over the mesh's axes of x, so that its gradient is summed over them."""
    axes = jax.typeof(x).manual_axis_type.varying - jax.typeof(bias).manual_axis_type.varying
    return jax.lax.pcast(bias, tuple(sorted(axes)), to='varying') if axes else bias


def _kernel_is_faster(x: Array, window: int, platform: Platform) -> bool:
    """Returns whether the kernel should be faster.

    This follows from counts of bytes and instructions (docs/log.md); benchmarks/gpu.sh times both.
    """
    return x.size < 2**31 and window <= LARGEST_WINDOW and _kernel_works(platform)


def pooling(
    x_BHWC: Array,
    window: int,
    stride: int,
    *,
    tolerance: float = 0.0,
    implementation: str | None = None,
    platform: Platform | None = None,
) -> Array:
    """Computes max_pooling(x): on TPUs by a kernel, if it is suited, and elsewhere in plain JAX.

    Args:
      x_BHWC: (images, rows, columns, maps), float32 or bfloat16.
      window, stride, tolerance: as in `max_pooling`.
      implementation: 'jax' for plain JAX everywhere.
      platform: the platform that the program is compiled for; None for JAX's default.

    Returns:
      (images, rows', columns', maps), of the same dtype.
    """
    platform = platform or Platform.default()
    if _tpu_is_suited(x_BHWC, window, stride, implementation, platform):
        return _tpu_kernels().pool(x_BHWC, None, None, window, stride)
    return max_pooling(x_BHWC, window, stride, tolerance)


def _separate(
    x: Array,
    formula: Formula,
    window: int,
    stride: int,
    implementation: str | None,
    platform: Platform,
    tolerance: float = 0.0,
) -> Array:
    normalized = response_normalization(
        x, **formula._asdict(), implementation=implementation, platform=platform
    )
    return max_pooling(normalized, window, stride, tolerance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _fused(
    x: Array, bias: Array | None, formula: Formula, window: int, stride: int, interpret: bool
) -> Array:
    x = add_bias(x, bias)
    return _kernels().forward(x, formula, window, stride, interpret=interpret)[0]


def _forward(
    x: Array, bias: Array | None, formula: Formula, window: int, stride: int, interpret: bool
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    x = add_bias(x, bias)
    y, mask = _kernels().forward(x, formula, window, stride, with_mask=True, interpret=interpret)
    return y, (x, mask, bias)


def _backward(
    formula: Formula,
    window: int,
    stride: int,
    interpret: bool,
    residuals: tuple[Array, Array, Array | None],
    g: Array,
) -> tuple[Array, Array | None]:
    x, mask, bias = residuals
    options: dict[str, Any] = dict(with_sums=bias is not None, interpret=interpret)
    dx, *sums = _kernels().backward(x, mask, g, formula, window, stride, **options)
    if bias is None:
        return dx, None
    return dx, sums[0].reshape(bias.shape).astype(bias.dtype)


_fused.defvjp(_forward, _backward)


def _kernels() -> Any:
    from alexnet_jax.ops.triton import normalized_pooling  # only GPUs need it

    return normalized_pooling


def _tpu_is_suited(
    x: Array, window: int, stride: int, implementation: str | None, platform: Platform
) -> bool:
    if platform.name != 'tpu' or implementation == 'jax':
        return False
    from alexnet_jax.ops.tpu.pools import is_suited  # only TPUs need it

    suited = is_suited(x, window, stride, platform.vector_memory)
    return suited and (implementation == 'pallas' or _tpu_kernel_works(platform))


def _tpu_kernels() -> Any:
    from alexnet_jax.ops.tpu import normalized_pooling  # only TPUs need it

    return normalized_pooling


@functools.cache
def _tpu_kernel_works(platform: Platform) -> bool:
    """Returns whether the kernel for TPUs gives the right result; tries it once."""
    return kernel_agrees(
        platform,
        'response normalization and max-pooling run without their common kernel',
        lambda x: _tpu_kernels().pool(x, None, PAPER, 3, 2),
        lambda x: _separate(x, PAPER, 3, 2, 'jax', platform),
        shape=(64, 8, 7, 48),
    )


@functools.cache
def _kernel_works(platform: Platform) -> bool:
    """Returns whether the platform has a kernel that gives the right result; tries it once."""
    return platform.name == 'gpu' and _kernel_agrees(platform, interpret=False)


def _kernel_agrees(platform: Platform, interpret: bool) -> bool:
    options = dict(formula=PAPER, window=3, stride=2)
    return kernel_agrees(
        platform,
        'response normalization and max-pooling run without their common kernel',
        lambda x: _fused(x, None, **options, interpret=interpret),
        functools.partial(_separate, **options, implementation='jax', platform=platform),
        shape=(2, 8, 7, 48),
    )
