"""CPU devices that stand in for the two GPUs."""

import ctypes
import os

import jax

# On a busy machine the two CPU devices can be seconds apart; by default XLA then ends the process.
PATIENCE = {
    'xla_cpu_collective_call_warn_stuck_timeout_seconds': 120,
    'xla_cpu_collective_call_terminate_timeout_seconds': 1200,
}


# Of <malloc.h>: mallopt's numbers for the options, and what they are set to.
MALLOC = {
    'M_MMAP_MAX': (-4, 0),  # large blocks lie in the heap too,
    'M_ARENA_MAX': (-8, 1),  # whatever thread asks for them (other heaps are small),
    'M_TRIM_THRESHOLD': (-1, -1),  # and the heap never shrinks
}


def prepare_cpu_devices(tower: int = 0, data: int = 0) -> None:
    """Makes the CPU stand in for the two GPUs; call before JAX starts its back ends.

    Without an accelerator the towers still get a device each. Leaves alone what the user set by
    JAX_NUM_CPU_DEVICES, XLA_FLAGS or MALLOC_ARENA_MAX.

    Args:
      tower, data: the settings `mesh.tower` and `mesh.data`; 0 where the choice is ours.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    for name, seconds in PATIENCE.items():
        if name not in flags:
            flags = f'{flags} --{name}={seconds}'
    os.environ['XLA_FLAGS'] = flags.strip()
    if 'JAX_NUM_CPU_DEVICES' not in os.environ and 'host_platform_device_count' not in flags:
        jax.config.update('jax_num_cpu_devices', max(2, (tower or 2) * (data or 1)))
    if 'MALLOC_ARENA_MAX' not in os.environ:
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Has the C library keep what is freed for the next step, where it is the GNU one.

    XLA allocates a step's maps anew each time. By default such large blocks go back to the system,
    which then clears hundreds of thousands of pages in each step: up to a fifth of its time.
    """
    library = ctypes.CDLL(None) if os.name == 'posix' else None
    if hasattr(library, 'mallopt'):
        for option, value in MALLOC.values():
            library.mallopt(option, value)  # pyrefly: ignore[missing-attribute]
