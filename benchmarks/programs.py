"""Programs of many calls, for devices on which a call takes less time than starting it."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array

from alexnet_jax.runtime import cpu_devices

Step = Callable[..., tuple[Array, ...]]  # arrays to those that take the place of the last of them


def draw(shape: Sequence[int], dtype: Any, seed: int, std: float = 1.0) -> Array:
    """Normal numbers on the device."""
    return (std * jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


def lower(step: Step, arrays: tuple[Array, ...], chain: int) -> Any:
    """`chain` steps as one program, not yet compiled; each gets what the one before it gave."""
    once = jax.jit(step)  # traced once, not for each step of the chain

    def program(*arrays: Array) -> tuple[Array, ...]:
        given: tuple[Array, ...] = ()
        for _ in range(chain):
            # Without the barrier XLA might compute two steps in one pass.
            given = jax.lax.optimization_barrier(once(*arrays))
            arrays = arrays[: len(arrays) - len(given)] + given
        return given

    return jax.jit(program).lower(*arrays)


def lower_each(step: Step, inputs: Sequence[Array]) -> Any:
    """A step for each input as one program, not yet compiled."""
    once = jax.jit(step)
    return jax.jit(lambda *inputs: [once(x) for x in inputs]).lower(*inputs)


def start(compiled: Any, arrays: tuple[Array, ...], programs: int) -> Callable[[], None]:
    """Runs a compiled program so many times, and waits once."""

    def run() -> None:
        result = None
        for _ in range(programs):
            result = compiled(*arrays)
        jax.block_until_ready(result)

    return run


def compile_all(lowered: Sequence[Any]) -> list[Any]:
    """On all cores; for what does not compile, the exception."""

    def attempt(program: Any) -> Any:
        try:
            return program.compile()
        except jax.errors.JaxRuntimeError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(cpu_devices.processor_count()) as pool:
        return list(pool.map(attempt, lowered))
