"""Programs of many calls, for devices on which a call takes less time than starting it."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array

from alexnet_jax.runtime import cpu_devices

Step = Callable[..., tuple[Array, ...]]  # its results replace the last of its arguments


def draw(shape: Sequence[int], dtype: Any, seed: int, std: float = 1.0) -> Array:
    """Draws normally distributed numbers on the device."""
    return (std * jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


def lower(step: Step, arrays: tuple[Array, ...], chain: int) -> Any:
    """Lowers `chain` steps as one program, in which each step reads the results of the last.

    Args:
      step: a function of arrays.
      arrays: the arguments of the first step.
      chain: the number of steps.

    Returns:
      The program, not yet compiled.
    """
    once = jax.jit(step)  # traced once, not for each step of the chain

    def program(*arrays: Array) -> tuple[Array, ...]:
        results: tuple[Array, ...] = ()
        for _ in range(chain):
            # Without the barrier XLA might compute two steps in one pass.
            results = jax.lax.optimization_barrier(once(*arrays))
            arrays = arrays[: len(arrays) - len(results)] + results
        return results

    return jax.jit(program).lower(*arrays)


def lower_each(step: Step, inputs: Sequence[Array]) -> Any:
    """Lowers one step for each input as one program, which is not yet compiled."""
    once = jax.jit(step)
    return jax.jit(lambda *inputs: [once(x) for x in inputs]).lower(*inputs)


def start(compiled: Any, arrays: tuple[Array, ...], programs: int) -> Callable[[], None]:
    """Returns a function that runs a compiled program `programs` times, and waits once."""

    def run() -> None:
        result = None
        for _ in range(programs):
            result = compiled(*arrays)
        jax.block_until_ready(result)

    return run


def compile_all(lowered: Sequence[Any]) -> list[Any]:
    """Compiles programs on all cores; in place of one that fails there is the exception."""

    def attempt(program: Any) -> Any:
        try:
            return program.compile()
        except jax.errors.JaxRuntimeError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(cpu_devices.processor_count()) as pool:
        return list(pool.map(attempt, lowered))
