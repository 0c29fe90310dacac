"""The flags of a program that several processes can run together."""

from __future__ import annotations

import os

from absl import flags

from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.starting import launchers
from alexnet_jax.processes.starting.gpus import count_gpus

_PROCESSES = flags.DEFINE_integer(
    'processes',
    None,
    'Number of processes that train one net together, on one host or several. Each is started with '
    'the same command and its own --process. Slurm (srun), Open MPI (mpirun), SkyPilot, Kubeflow '
    'and launch/kubernetes/jobset.yaml are detected without flags; with 1, they are ignored.',
    1,
)
_PROCESS = flags.DEFINE_integer(
    'process', None, 'Number of this process, from 0 to --processes minus 1.', 0
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT at which process 0 answers the others: its host and a free port, the same in all '
    'processes. Default: JAX_COORDINATOR_ADDRESS, or the address that the launcher gives.',
)
_LOCAL_DEVICES = flags.DEFINE_string(
    'local_devices',
    None,
    'GPUs that this process uses, as numbers among those that it can see, such as '
    '--local_devices=0,1. Default: JAX_LOCAL_DEVICE_IDS; or all, divided evenly among the '
    'processes on this host if the launcher gives their number, or if --coordinator is localhost.',
)
_START_TIMEOUT = flags.DEFINE_float(
    'start_timeout',
    300,
    'Seconds within which all processes must have started; otherwise each ends with a line that '
    'names those that are missing.',
    1,
)
_HANG_TIMEOUT = flags.DEFINE_float(
    'hang_timeout',
    180,
    'Seconds after which a process that makes no step counts as hanging, and all processes end, so '
    'that a launcher can start them again. Where it may compile or save, it has up to 30 minutes. '
    '0: never.',
    0,
)


def launch() -> Launch | None:
    """Returns the place of this process among several; None for a program of one process.

    Raises:
      UserError: flags or environment variables are incomplete or contradictory.
    """
    return launchers.detect(
        os.environ,
        _PROCESSES.value,
        _PROCESS.value,
        _COORDINATOR.value,
        _LOCAL_DEVICES.value,
        count_gpus(),
    )


def start_timeout() -> float:
    """Returns the seconds within which all processes must have started."""
    return _START_TIMEOUT.value


def hang_timeout() -> float:
    """Returns the seconds after which a process that makes no step hangs; 0 for never."""
    return _HANG_TIMEOUT.value
