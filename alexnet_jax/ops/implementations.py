"""Which implementation computes an operation: plain JAX, or a Pallas kernel where one is faster.

`implementation=None` means the fastest for the platform, 'jax' the specification in plain JAX,
'pallas' the kernel, which a CPU interprets slowly. 'mosaic_gpu' is response normalization's kernel
for the compiler that replaces Triton in Pallas; None never chooses it, as it has not been timed.
The platform is that of the devices of the mesh, so that a program can be compiled for devices that
are not attached to this machine.
"""

import concurrent.futures
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import backend

from alexnet_jax.processes import group
from alexnet_jax.processes.errors import name_processes
from alexnet_jax.runtime.printing import warn

AGREEMENT_SECONDS = 600.0  # within which the other processes of a group try a kernel, too
IMPLEMENTATIONS = (None, 'jax', 'pallas', 'mosaic_gpu')
PLATFORMS_WITH_KERNELS = ('gpu', 'tpu')

# Compute capabilities. Triton and Mosaic GPU support no GPU before Ampere. Mosaic GPU lowers a
# kernel for JAX's default device, or for Hopper if that device is not a GPU. If the kernel is then
# compiled for an older GPU, LLVM ends the process with an error that cannot be caught
# (JAX 0.12.0.1).
AMPERE, HOPPER = (8, 0), (9, 0)
OLDEST_MOSAIC_JAX = (0, 12)  # before it, `plgpu.load` and `plgpu.store` are others, or missing
# MiB of vector memory that a kernel can have on a TPU; these have less than the others.
VECTOR_MEMORY = 32
LITTLE_VECTOR_MEMORY = {'TPU v2': 16, 'TPU v3': 16, 'TPU v4': 16}


class Platform(NamedTuple):
    """The kind of device that a program is compiled for.

    Attributes:
      name: 'cpu', 'gpu' or 'tpu', as JAX names it.
      is_local: whether such a device is attached here, so that a kernel can be tried on it.
      has_triton: False for NVIDIA GPUs that Triton does not compile for.
      has_mosaic_gpu: True for NVIDIA GPUs that Mosaic GPU compiles our kernels for: all from Hopper
        on; before Hopper, those from Ampere on of the kind of JAX's default device.
      vector_memory: what a TPU's kernel may use, in MiB.
    """

    name: str
    is_local: bool = True
    has_triton: bool = True
    has_mosaic_gpu: bool = False
    vector_memory: int = VECTOR_MEMORY

    @classmethod
    def of_devices(cls, devices: Iterable[Any]) -> 'Platform':
        """Returns the platform of some devices, which are all of one kind."""
        devices = list(devices)
        name = devices[0].platform
        try:
            local = set(jax.local_devices(backend=name))
        except RuntimeError:  # this process has no such back end
            local = set()
        parts = str(getattr(devices[0], 'compute_capability', '')).split('.')
        is_nvidia = all(part.isdigit() for part in parts)
        capability = tuple(int(part) for part in parts) if is_nvidia else ()
        return cls(
            name,
            is_local=any(device in local for device in devices),
            has_triton=not is_nvidia or capability >= AMPERE,
            has_mosaic_gpu=capability >= HOPPER
            or (capability >= AMPERE and _is_default_kind(devices[0])),
            vector_memory=LITTLE_VECTOR_MEMORY.get(devices[0].device_kind, VECTOR_MEMORY),
        )

    @classmethod
    def default(cls) -> 'Platform':
        """Returns the platform on which JAX places arrays if nothing says otherwise."""
        return _default(jax.default_backend())

    @classmethod
    def or_default(cls, platform: 'Platform | None') -> 'Platform':
        """Returns the platform, or where it is None, that of `default`."""
        return cls.default() if platform is None else platform


def _is_default_kind(device: Any) -> bool:
    return device.device_kind == backend.get_default_device().device_kind


@functools.cache
def _default(name: str) -> Platform:
    return Platform.of_devices(jax.devices(name))


def choose_backend(
    implementation: str | None, platform: Platform, kernel_works: Callable[[Platform], bool]
) -> str:
    """Chooses plain JAX for an operation, or the target that its kernel runs on.

    Args:
      implementation: one of IMPLEMENTATIONS.
      platform: the platform that the program is compiled for.
      kernel_works: tells whether the operation's kernel gives the right result on a platform. It is
        only asked where `implementation` is None.

    Returns:
      'jax'; or for a kernel 'gpu', 'tpu', 'interpreted' or 'mosaic_gpu'.

    Raises:
      ValueError: `implementation` is not one of IMPLEMENTATIONS; or it is 'mosaic_gpu', and the
        platform or this version of JAX does not have it.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f'implementation={implementation!r} is not one of {IMPLEMENTATIONS}')
    if implementation == 'mosaic_gpu':
        missing = missing_for_mosaic_gpu(platform)
        if missing:
            raise ValueError(f"implementation='mosaic_gpu' needs {missing}")
        return 'mosaic_gpu'
    if implementation == 'jax' or (implementation is None and not kernel_works(platform)):
        return 'jax'
    return platform.name if platform.name in PLATFORMS_WITH_KERNELS else 'interpreted'


def missing_for_mosaic_gpu(platform: Platform) -> str:
    """Returns what Mosaic GPU's kernels need and do not have here; '' where they can be used."""
    if jax.__version_info__ < OLDEST_MOSAIC_JAX:
        return f'JAX 0.12 or newer; this is JAX {jax.__version__}'
    if platform.name != 'gpu':
        return f'an NVIDIA GPU; the program is compiled for a {platform.name.upper()}'
    if not platform.has_mosaic_gpu:
        return (
            'an NVIDIA GPU of compute capability 9.0 (Hopper) or newer, '
            "or of 8.0 (Ampere) or newer if it is JAX's default device"
        )
    return ''


def kernel_agrees(
    platform: Platform,
    fallback: str,
    kernel: Callable[[Array], Array],
    specification: Callable[[Array], Array],
    shape: tuple[int, ...],
) -> bool:
    """Checks that a kernel compiles, and that its values and derivative are right for some numbers.

    No version of JAX promises that a kernel compiles on every device, and a run must not fail where
    it does not. For devices that are not attached here, only their age can be checked.

    All processes of a group call this at the same point, where they trace the same program. Each
    tries the kernel, and all return the same: a program that differs in one process could hang.

    Args:
      platform: the platform that the program is compiled for.
      fallback: the warning's text, which says what runs in place of the kernel.
      kernel, specification: functions of a float32 array.
      shape: the shape of that array.

    Returns:
      Whether the kernel is right in all processes.
    """
    agrees = _agrees_here(platform, fallback, kernel, specification, shape)
    processes = group.current()
    answers = processes.gather(f'trial of a kernel: {fallback}', agrees, AGREEMENT_SECONDS)
    if not all(answers) and agrees and answers.index(True) == processes.index:
        failed = [process for process, answer in enumerate(answers) if not answer]
        warn(f'{fallback}: it does not work in {name_processes(failed)}')
    return all(answers)


def _agrees_here(
    platform: Platform,
    fallback: str,
    kernel: Callable[[Array], Array],
    specification: Callable[[Array], Array],
    shape: tuple[int, ...],
) -> bool:
    """Returns whether the kernel is right in this process, and warns if not; see above."""
    if not platform.has_triton:
        warn(f'{fallback}: Triton needs an Ampere GPU or a newer one')
        return False
    if not platform.is_local:
        return True
    try:
        # In a thread of its own, which is not part of the program that is being traced here.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            results = [
                thread.submit(_value_and_derivative, platform, function, shape).result()
                for function in (kernel, specification)
            ]
        for actual, expected in zip(*results, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    except Exception as error:  # whatever the compiler raises
        reason = str(error).strip().partition('\n')[0]
        warn(f'{fallback}: {reason}')
        return False
    return True


def _value_and_derivative(
    platform: Platform, function: Callable[[Array], Array], shape: tuple[int, ...]
) -> list[np.ndarray]:
    """Returns the function's value, and its derivative times a random cotangent."""
    with jax.default_device(jax.local_devices(backend=platform.name)[0]):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(0, 100, shape), jnp.float32)
        g = jnp.asarray(rng.normal(0, 100, jax.eval_shape(function, x).shape), jnp.float32)
        compiled = jax.jit(lambda x, g: (function(x), *jax.vjp(function, x)[1](g)))
        return [np.asarray(a) for a in compiled(x, g)]
