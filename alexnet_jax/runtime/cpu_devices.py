"""JAX's devices: CPU devices in place of two GPUs, and a clear error where there are none.

JAX is imported inside the function that needs it, because the processes that write data sets and
decode images import this module for `processor_count` alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax.runtime.user_errors import UserError, first_line

if TYPE_CHECKING:
    import jax

# On a busy machine the two CPU devices can be seconds apart; by default XLA then ends the process.
COLLECTIVE_TIMEOUTS = {
    'xla_cpu_collective_call_warn_stuck_timeout_seconds': 120,
    'xla_cpu_collective_call_terminate_timeout_seconds': 1200,
}

MOST_DEVICES = 256  # created; each has its threads, and thousands take half a minute to start

# The options of mallopt in <malloc.h>: their numbers, and the values that they are set to.
MALLOC_OPTIONS = {
    'M_MMAP_MAX': (-4, 0),  # large blocks are allocated in the heap, too,
    'M_ARENA_MAX': (-8, 1),  # in the same heap for every thread (other heaps are small),
    'M_TRIM_THRESHOLD': (-1, -1),  # and the heap never shrinks
}


def processor_count() -> int:
    """Returns the number of processors that this process may use.

    It may be lower than the number in the machine: a scheduler can restrict a process to some.
    """
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare_cpu_devices(tower: int = 0, data: int = 0, processes: int = 1) -> None:
    """Creates CPU devices in place of the two GPUs; must be called before JAX starts its backends.

    Without an accelerator the towers are still on two devices. Several processes each create a
    part of the devices. What the user has set by JAX_NUM_CPU_DEVICES, XLA_FLAGS or
    MALLOC_ARENA_MAX is not changed.

    Args:
      tower: the setting `mesh.tower`, the devices that the towers are spread over; 0 means 2.
      data: the setting `mesh.data`, the devices that a batch is spread over; 0 means 1.
      processes: the number of processes that train one net together.

    Raises:
      UserError: JAX_NUM_CPU_DEVICES is not a number of at least 1, or XLA_FLAGS has no flags.
    """
    import jax

    flags, number = os.environ.get('XLA_FLAGS', ''), os.environ.get('JAX_NUM_CPU_DEVICES', '1')
    if not (number.isdecimal() and int(number) > 0):
        raise UserError(f'JAX_NUM_CPU_DEVICES={number} must be at least 1: change or unset it')
    if flags.strip() and not flags.lstrip().startswith('-') and not Path(flags).is_file():
        raise UserError(f'XLA_FLAGS={flags} is neither a list of --NAME=VALUE nor a file of flags')
    for name, seconds in COLLECTIVE_TIMEOUTS.items():
        if name not in flags:
            flags = f'{flags} --{name}={seconds}'
    os.environ['XLA_FLAGS'] = flags.strip()
    if 'JAX_NUM_CPU_DEVICES' not in os.environ and 'host_platform_device_count' not in flags:
        # Where JAX has started already, as in a notebook, it keeps the devices that it has.
        with contextlib.suppress(RuntimeError):
            number = -(-(tower or 2) * (data or 1) // processes)
            if processes == 1:
                number = max(2, number)
            jax.config.update('jax_num_cpu_devices', min(number, MOST_DEVICES))
    if 'MALLOC_ARENA_MAX' not in os.environ and not may_use_accelerators():
        _keep_freed_memory()


def may_use_accelerators() -> bool:
    """Returns whether JAX may find GPUs or TPUs here, without starting its backends.

    They are looked for where JAX_PLATFORMS allows them and a plugin for them is installed.
    """
    import jax

    platforms = jax.config.jax_platforms  # pyrefly: ignore[missing-attribute]
    if platforms:
        return platforms != 'cpu'
    return bool(
        importlib.util.find_spec('jax_plugins')
        or importlib.util.find_spec('libtpu')
        or importlib.metadata.entry_points(group='jax_plugins')
    )


def devices() -> list[jax.Device]:
    """Returns all devices of the kind that JAX uses: accelerators, or CPU devices.

    Raises:
      UserError: JAX finds no device, or none of the kind that JAX_PLATFORMS asks for.
    """
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: CUDA without its plugin
        reason = 'it is not installed'
        if str(error):
            reason = first_line(error).partition(' (set JAX_PLATFORMS')[0].rstrip('.')
        platforms = jax.config.jax_platforms  # pyrefly: ignore[missing-attribute]
        if not platforms:
            raise UserError(f'JAX cannot use the devices of this machine: {reason}') from error
        raise UserError(
            f'JAX_PLATFORMS={platforms} cannot be used: {reason}; JAX_PLATFORMS=cpu uses the CPU'
        ) from error


def _keep_freed_memory() -> None:
    """Makes the GNU C library keep freed memory for the next step; does nothing elsewhere.

    XLA allocates the maps of every step anew. By default such large blocks are returned to the
    system, which then clears hundreds of thousands of pages in each step: up to a fifth of its
    time. With an accelerator there is nothing to win, and XLA's compiler loses: its threads wait
    for each other where all of them allocate in one heap.
    """
    library = ctypes.CDLL(None) if os.name == 'posix' else None
    if hasattr(library, 'mallopt'):
        for option, value in MALLOC_OPTIONS.values():
            library.mallopt(option, value)  # pyrefly: ignore[missing-attribute]
