"""Checks that the kernels that normalization.py times compute what they should."""

import functools
import itertools
from collections.abc import Sequence

import jax
import measuring
import numpy as np
from jax import Array
from normalization_layers import (
    MOSAIC,
    POOLED,
    Layer,
    formula,
    mosaic_gpu,
    one_kernel,
    pallas,
    then_pooled,
)
from programs import draw

from alexnet_jax.config import schema

# Numbers of maps with segments of all lengths, and more than one block; values as large as conv1's,
# so that alpha times a square is not small beside k.
SHAPES = [(3, 5, 7, maps) for maps in (48, 128, 96, 5, 4, 1)] + [(2, 55, 55, 48)]
STD = 100
DTYPES = schema.DTYPES
TOLERANCE = {'float32': 1e-5, 'bfloat16': 2**-8}
# Where rounding decides which pixels tie in a pool, its cotangent may go to another of them.
TIES = 1e-3


class WrongKernelError(Exception):
    """A kernel does not compute the formula."""


def check(function: str) -> dict[str, float]:
    """Checks the kernels of a function, and prints their largest errors.

    An error is divided by the largest value of its array. On a CPU the kernels are interpreted.

    Args:
      function: one of FUNCTIONS, or MOSAIC.

    Returns:
      The largest error in each dtype.

    Raises:
      WrongKernelError: an error is too large.
    """
    errors = dict.fromkeys(DTYPES, 0.0)
    for shape, dtype, rectify in itertools.product(SHAPES, DTYPES, (False, True)):
        results = values(function, shape, dtype, rectify)
        for name, (own, right) in zip(('y', 'dx'), results, strict=True):
            skipped = TIES if (function, name) == (POOLED, 'dx') else 0
            error = difference(own, right, skipped)
            if not error <= TOLERANCE[dtype]:  # also where it is NaN
                case = f'{name}, {dtype}, {shape}, rectify={rectify}'
                raise WrongKernelError(f'{function}: a kernel differs by {error:.2g}: {case}')
            errors[dtype] = max(errors[dtype], error)
    largest = ', '.join(f'{error:.1e} in {dtype}' for dtype, error in errors.items())
    note = ', interpreted' if measuring.on_cpu() else ''
    print(f'{function}: kernels are right, largest relative error {largest}{note}', flush=True)
    return errors


def values(
    function: str, shape: Sequence[int], dtype: str, rectify: bool
) -> list[tuple[Array, Array]]:
    """Returns y and dx, each by the kernels and by the specification."""
    if function == POOLED:  # its ties depend on the rounding
        kernel, right, digits = one_kernel(rectify), then_pooled(formula(rectify)), dtype
    else:
        kernel = mosaic_gpu(rectify) if function == MOSAIC else pallas(rectify)
        right, digits = formula(rectify), 'float32'
    x = draw(shape, dtype, 0, STD)
    cotangent = draw(jax.eval_shape(kernel, x).shape, dtype, 1, STD)

    def run(layer: Layer, x: Array, cotangent: Array) -> tuple[Array, Array]:
        y, pull_back = jax.vjp(layer, x)
        return y, pull_back(cotangent)[0]

    # Interpreted kernels take far longer to optimize than to run.
    options = {'xla_backend_optimization_level': 0} if measuring.on_cpu() else None
    jit = functools.partial(jax.jit, compiler_options=options)
    exact = jit(functools.partial(run, right))(x.astype(digits), cotangent.astype(digits))
    return list(zip(jit(functools.partial(run, kernel))(x, cotangent), exact, strict=True))


def difference(own: Array, right: Array, skipped: float) -> float:
    """Returns the largest difference over the largest value.

    Args:
      own: values by a kernel.
      right: values by the specification.
      skipped: the fraction of the elements with the largest differences that is left out.
    """
    a, b = np.asarray(own, np.float64), np.asarray(right, np.float64)
    return float(np.quantile(abs(a - b), 1 - skipped, method='lower') / np.max(abs(b)))
