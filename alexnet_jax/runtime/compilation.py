"""Compiles programs with one precision of products, and on request deterministically.

In training and at test time, every program that contains the net is compiled by
`model.towers.compile_program`, which calls the function here with the settings of the run. The
other programs of a run (the mean of log probabilities over the views, the results of each image,
the search for values that are not finite) have no matrix products, and no sums whose order could
matter.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

OLDEST_TF32_GPU = (8, 0)  # compute capability: Ampere

# XLA's options for a GPU program that computes the same bits at every start. They are options of
# one compilation and not XLA_FLAGS: if XLA lacks one of them, it raises an error and does not end
# the process, and programs for other devices are not affected.
DETERMINISTIC = {
    # Scatters without atomics; of the algorithms of cuDNN and cuBLAS only the deterministic ones,
    # and the first of these in place of the one that was measured to be the fastest. It excludes
    # Triton's kernels for products, since those are chosen by measurements.
    'xla_gpu_deterministic_ops': True,
    # Otherwise XLA assigns products to Triton before the option above excludes it, and JAX 0.12
    # cannot compile them for a GPU that is not attached.
    'xla_gpu_enable_triton_gemm': False,
    # XLA prefers the result of an earlier measurement to the first algorithm. JAX stores these
    # results beside its compiled programs, and another machine does not have them.
    'xla_gpu_per_fusion_autotune_cache_dir': '',
}


def compile_program(
    function: Callable[..., Any],
    device: jax.Device,
    precision: str,
    deterministic: bool,
    **options: Any,
) -> Any:
    """Compiles a function with one precision for all of its convolutions and matrix products.

    The precision applies while the entire function is traced: the derivative of a `custom_vjp` is
    traced together with the gradient, after a context around the forward pass has ended.

    Args:
      function: the function.
      device: one of the devices that it is compiled for.
      precision: 'default' or 'highest'; JAX_DEFAULT_MATMUL_PRECISION has no effect.
      deterministic: whether a GPU must compute the same bits at every start. Programs for other
        devices are deterministic in any case.
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
    """Describes in a few words what a net's dtype and precision mean on a device.

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
    """Returns the type to which a device rounds the factors of float32 products; [] for none."""
    if device.platform == 'tpu':
        return ['bfloat16']
    capability = str(getattr(device, 'compute_capability', '')).split('.')
    is_nvidia = device.platform == 'gpu' and all(part.isdigit() for part in capability)
    return ['TF32'] if is_nvidia and tuple(map(int, capability)) >= OLDEST_TF32_GPU else []
