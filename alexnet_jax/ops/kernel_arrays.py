"""The arrays that all Pallas kernels accept, and the types of their results."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array

# In interpret mode every block is a step of a loop on the CPU, so there should be few, large ones.
INTERPRETED_BLOCK = 2**30


def result_type(arrays: Sequence[Array], shape: tuple[int, ...], dtype: Any) -> Any:
    """Returns a result's type, which in a shard_map varies over the axes of all arguments."""
    varying = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))
    manual = jax.sharding.ManualAxisType(varying=varying)
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=manual)


def expect_int32_indices(x: Array) -> None:
    """Raises a ValueError for an array with too many elements for int32 indices."""
    if x.size >= 2**31:
        raise ValueError(f'{x.shape} has 2**31 elements or more: an index is an int32')


def expect_like(cotangent: Array, x: Array) -> None:
    """Raises a ValueError if the cotangent has another shape or dtype than `x`."""
    if (cotangent.shape, cotangent.dtype) != (x.shape, x.dtype):
        raise ValueError(f'the cotangent of {jax.typeof(x)} is {jax.typeof(cotangent)}')
