"""How programs are compiled: the precision of their products, and whether they are deterministic.

Every program that contains the net is compiled by `compile_program`, in training and at test time.
The others of a run (the mean of log probabilities over the views, the results of each image, the
search for values that are not finite) have no products, and no sums whose order could matter.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

OLDEST_TF32_GPU = (8, 0)  # compute capability: Ampere

# XLA's options for a GPU program that computes the same bits in every start. They are options of
# each compilation, not XLA_FLAGS: a version of XLA that lacks one raises an error in place of
# ending the process, and programs for other devices are not affected.
DETERMINISTIC = {
    # Scatters without atomics, only algorithms of cuDNN and cuBLAS that are deterministic, and the
    # first of them in place of the fastest of a measurement. It excludes kernels of Triton for
    # products, since those are chosen by measuring.
    'xla_gpu_deterministic_ops': True,
    # Without it, XLA gives products to Triton before it excludes Triton. JAX 0.12 then cannot
    # compile them for a GPU that is not attached.
    'xla_gpu_enable_triton_gemm': False,
    # XLA prefers what an earlier compilation measured to the first algorithm. JAX stores these
    # measurements beside its compiled programs, and another machine does not have them.
    'xla_gpu_per_fusion_autotune_cache_dir': '',
}


def compile_program(
    function: Callable[..., Any],
    device: jax.Device,
    precision: str,
    deterministic: bool,
    **options: Any,
) -> Any:
    """Compiles a function, with one precision for all of its convolutions and products.

    It is traced with this precision as a whole: the derivative of an operation with a derivative of
    its own is traced when the gradient is, after the forward pass has returned.

    Args:
      function: the function.
      device: one of the devices that it is compiled for.
      precision: 'default' or 'highest', whatever JAX_DEFAULT_MATMUL_PRECISION says.
      deterministic: whether a GPU computes the same bits in every start. Other devices always do.
      options: arguments of `jax.jit`.

    Returns:
      The result of `jax.jit`.
    """

    @functools.wraps(function)
    def with_precision(*args: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*args)

    if deterministic and device.platform == 'gpu':
        options['compiler_options'] = DETERMINISTIC
    return jax.jit(with_precision, **options)


def describe_arithmetic(device: jax.Device, dtype: str, precision: str, deterministic: bool) -> str:
    """Returns what a net's dtype and precision mean on a device, in a few words.

    Args:
      device: one of the devices that the net is compiled for.
      dtype: of activations and products, 'float32' or 'bfloat16'.
      precision, deterministic: as for `compile_program`.
    """
    words = [dtype]
    if dtype == 'float32' and precision == 'default':
        words += [f'products in {kind}' for kind in _products(device)]
    if deterministic and device.platform == 'gpu':
        words.append('deterministic operations')
    return ', '.join(words)


def _products(device: jax.Device) -> list[str]:
    """Returns the type that a device rounds the factors of float32 products to; [] for none."""
    if device.platform == 'tpu':
        return ['bfloat16']
    capability = str(getattr(device, 'compute_capability', '')).split('.')
    is_nvidia = device.platform == 'gpu' and all(part.isdigit() for part in capability)
    return ['TF32'] if is_nvidia and tuple(map(int, capability)) >= OLDEST_TF32_GPU else []
