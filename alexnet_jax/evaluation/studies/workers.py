"""Divides the GPUs and the processor cores of this machine among the workers of a study.

JAX is not imported: it would reserve memory of the GPUs for a process that does not compute.
"""

import contextlib
import importlib.metadata
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.processes.starting.gpus import count_gpus, parse_visible_devices
from alexnet_jax.runtime.cpu_devices import processor_count
from alexnet_jax.runtime.printing import count
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors


class Worker(NamedTuple):
    """The devices on which one run at a time is trained.

    Attributes:
      number: the number of the worker, from 1.
      gpus: the GPUs of the worker as CUDA_VISIBLE_DEVICES names them; none leaves that variable as
        it is.
      cores: the numbers of its processor cores; none leaves its processes on all.
    """

    number: int
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        """Starts a process on these devices, in a session of its own.

        Args:
          command: the program and its arguments.
          **options: further arguments of Popen.

        Raises:
          UserError: the system refuses the processor cores.
        """
        environment = dict(os.environ)
        if self.gpus:
            environment['CUDA_VISIBLE_DEVICES'] = ','.join(self.gpus)
        with _on_cores(self.cores):
            return subprocess.Popen(command, env=environment, start_new_session=True, **options)

    def describe(self) -> str:
        """Returns the number of the worker and its devices in a few words."""
        if self.gpus:
            devices = f'GPU{"s" if len(self.gpus) > 1 else ""} {",".join(self.gpus)}'
        else:
            devices = count(len(self.cores), 'core') if self.cores else 'all cores'
        return f'worker {self.number} ({devices})'


def divide(number: int) -> list[Worker]:
    """Divides the devices of this machine evenly among workers.

    Each worker has the same number of GPUs and of cores; cores that are left over are not used. A
    single worker has all devices, in the way in which JAX chooses them.

    Args:
      number: the number of workers.

    Raises:
      UserError: the GPUs cannot be divided evenly or cannot be listed, there are fewer cores than
        workers, or JAX_PLATFORMS asks for other devices.
    """
    if number == 1:
        return [Worker(1)]
    gpus, cores = _visible_gpus(), _cores()
    if gpus and len(gpus) % number:
        *fewer, most = [str(n) for n in range(1, len(gpus) + 1) if len(gpus) % n == 0]
        fitting = f'{", ".join(fewer)} or {most}' if fewer else most
        raise UserError(
            f'--parallel={number} does not divide {count(len(gpus), "GPU")} evenly: use {fitting}'
        )
    if number > processor_count():
        raise UserError(
            f'--parallel={number} is too many for {count(processor_count(), "processor core")}: '
            f'use at most {processor_count()}'
        )
    return [
        Worker(place + 1, _part(gpus, place, number), _part(cores, place, number))
        for place in range(number)
    ]


def _part(devices: Sequence[Any], place: int, number: int) -> tuple[Any, ...]:
    """Returns one of `number` equal parts of a list."""
    size = len(devices) // number
    return tuple(devices[place * size : (place + 1) * size])


def _visible_gpus() -> list[str]:
    """Lists the NVIDIA GPUs that JAX would use, as CUDA_VISIBLE_DEVICES names them."""
    platforms = os.environ.get('JAX_PLATFORMS', '')
    names = {name.strip() for name in platforms.split(',')} - {''}
    if names == {'cpu'}:
        return []
    if names and not names & {'cuda', 'gpu'}:
        raise UserError(
            f'--parallel divides NVIDIA GPUs or processor cores, not JAX_PLATFORMS={platforms}: '
            'leave out --parallel'
        )
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    if not any('cuda' in plugin.name for plugin in plugins):  # JAX would not use GPUs
        return []
    visible_devices = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible_devices is not None:
        return parse_visible_devices(visible_devices)
    try:
        result = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if count_gpus():
            raise UserError(
                f'nvidia-smi cannot list the GPUs ({error}): name them in CUDA_VISIBLE_DEVICES'
            ) from error
        return []
    lines = [line for line in result.stdout.splitlines() if line.startswith('GPU ')]
    return [str(number) for number in range(len(lines))]


def _cores() -> list[int]:
    """Lists the cores that this process may use; those that share a chip or a core are adjacent.

    The list is empty where the system does not restrict processes to cores, as on macOS.
    """
    if not hasattr(os, 'sched_setaffinity'):
        return []
    return sorted(os.sched_getaffinity(0), key=_place_of_core)


def _place_of_core(number: int) -> tuple[int, int, int]:
    """Returns the chip, the physical core and the number; two hyper-threads share a core."""
    topology, place = Path(f'/sys/devices/system/cpu/cpu{number}/topology'), [0, number]
    with contextlib.suppress(OSError, ValueError):
        place = [int((topology / x).read_text()) for x in ('physical_package_id', 'core_id')]
    return place[0], place[1], number


@contextlib.contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Sets the cores of this thread for the block, and of the processes that it starts there.

    The processes inherit it when they start. A later call for a process would miss the threads
    that it has started by then.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    with explain_os_errors('restrict a run to some processor cores'):
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
