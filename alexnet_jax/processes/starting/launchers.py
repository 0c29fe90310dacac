"""Detects the place of a process in its group, from flags or from the variables of a launcher.

JAX detects some launchers itself, but silently uses one GPU for each process of a Slurm step,
cannot read host lists such as `rack1-[1-2]n[3-4]`, and needs mpi4py for Open MPI 5. All values are
therefore determined here and passed to JAX.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.starting.gpus import parse_visible_devices
from alexnet_jax.runtime.printing import count as count_of
from alexnet_jax.runtime.user_errors import UserError

_Environment = Mapping[str, str]

# Ports that are derived from the number of a job, as in JAX: above those that Linux gives clients.
_FIRST_PORT, _PORTS = 61440, 4096

# From here to 2**32, Slurm numbers steps such as the batch script and the shell of salloc.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0

_LOOPBACK = re.compile(r'localhost|127\.[\d.]+|::1')


class _Place(NamedTuple):
    """The place of this process, as a launcher gives it.

    Attributes:
      count: the number of processes.
      index: the number of this process.
      source: the launcher, in a few words.
      host: the host of process 0; None if the launcher does not name it.
      port: the port of process 0, derived from the job; None if nothing identifies the job.
      local_count: the number of processes on this host; None if it is unknown.
      local_index: the number of this process among those on this host.
    """

    count: int
    index: int
    source: str
    host: str | None = None
    port: int | None = None
    local_count: int | None = None
    local_index: int = 0


def detect(
    environment: _Environment,
    processes: int | None = None,
    process: int | None = None,
    coordinator: str | None = None,
    local_devices: str | None = None,
    gpus: int = 0,
) -> Launch | None:
    """Returns the place of this process among several; None for a program of one process.

    Flags take precedence over the variables of launchers.

    Args:
      environment: the environment of this process.
      processes: the value of --processes.
      process: the value of --process.
      coordinator: the value of --coordinator.
      local_devices: the value of --local_devices.
      gpus: the number of GPUs of this host, for launchers that do not give it.

    Raises:
      UserError: something is missing, out of range or contradictory.
    """
    place = _place_by_flags(processes, process)
    for find in (_place_by_jax, _place_by_open_mpi, _place_by_slurm, _place_by_skypilot):
        place = place or find(environment)
    if place is None:
        _refuse_incomplete_job(environment)
        named = {'--coordinator': coordinator, '--local_devices': local_devices}
        if names := [name for name, value in named.items() if value is not None]:
            raise UserError(
                f'{names[0]} needs --processes and --process: no launcher says how many there are'
            )
        return None
    if place.count < 1 or not 0 <= place.index < place.count:
        raise UserError(
            f'there is no process {place.index} of {place.count} ({place.source}): processes are '
            'numbered from 0'
        )
    if place.count == 1:
        if local_devices is not None:
            raise UserError(
                '--local_devices is for several processes, and this is the only one '
                f'({place.source}): set CUDA_VISIBLE_DEVICES instead'
            )
        return None
    address = _find_coordinator(environment, coordinator, place)
    devices = _find_local_devices(environment, local_devices, place, address, gpus)
    return Launch(place.count, place.index, address, devices, place.source)


def _place_by_flags(processes: int | None, process: int | None) -> _Place | None:
    if processes is None and process is None:
        return None
    if processes is None:
        raise UserError(f'--process={process} needs --processes, the number of all processes')
    if processes == 1 and process is None:
        process = 0
    if process is None:
        raise UserError(
            f'--processes={processes} needs --process, the number of this one, from 0 to '
            f'{processes - 1}'
        )
    return _Place(processes, process, 'set by --processes and --process')


def _place_by_jax(environment: _Environment) -> _Place | None:
    """Returns what Kubeflow's variables say, and those of launch/kubernetes/jobset.yaml."""
    count = _whole_number(environment, 'JAX_NUM_PROCESSES')
    name = 'JAX_PROCESS_ID'
    index = _whole_number(environment, name)
    if count is None and index is None:
        return None
    if count is None:
        raise UserError('JAX_PROCESS_ID is set, but not JAX_NUM_PROCESSES: set or unset both')
    if index is None:
        name = 'JOB_COMPLETION_INDEX'
        index = 0 if count == 1 else _whole_number(environment, name)
    if index is None:
        raise UserError('JAX_NUM_PROCESSES is set, but not JAX_PROCESS_ID: set or unset both')
    return _Place(count, index, f'set by JAX_NUM_PROCESSES and {name}')


def _place_by_open_mpi(environment: _Environment) -> _Place | None:
    """Returns what mpirun says.

    This is tried before Slurm: within a Slurm job, mpirun starts its daemons in a step of its own.
    The processes inherit the variables of that step, with one number for all processes of a host.
    """
    count = _whole_number(environment, 'OMPI_COMM_WORLD_SIZE')
    index = _whole_number(environment, 'OMPI_COMM_WORLD_RANK')
    if count is None or index is None:
        return None
    local_count = _whole_number(environment, 'OMPI_COMM_WORLD_LOCAL_SIZE')
    local_index = _whole_number(environment, 'OMPI_COMM_WORLD_LOCAL_RANK')
    source = f'Open MPI with {count} processes'
    if local_count is None or local_index is None:
        return _Place(count, index, source)
    identities = ('PMIX_NAMESPACE', 'OMPI_MCA_ess_base_jobid', 'OMPI_MCA_orte_hnp_uri')
    identity = next((environment[name] for name in identities if environment.get(name)), None)
    return _Place(
        count,
        index,
        source,
        host='localhost' if local_count == count else None,
        port=None if identity is None else _port(zlib.crc32(identity.encode())),
        local_count=local_count,
        local_index=local_index,
    )


def _place_by_slurm(environment: _Environment) -> _Place | None:
    """Returns what srun says; None in the batch script and in the shell of salloc."""
    job = _whole_number(environment, 'SLURM_JOB_ID')
    step = _whole_number(environment, 'SLURM_STEP_ID') or 0
    nodes = environment.get('SLURM_STEP_NODELIST', '')
    count = _whole_number(environment, 'SLURM_STEP_NUM_TASKS')
    count = _whole_number(environment, 'SLURM_NTASKS') if count is None else count
    index = _whole_number(environment, 'SLURM_PROCID')
    local_index = _whole_number(environment, 'SLURM_LOCALID')
    if job is None or not nodes or count is None or index is None or local_index is None:
        return None
    if step >= _FIRST_SPECIAL_STEP:
        return None
    node_count = _whole_number(environment, 'SLURM_STEP_NUM_NODES')
    on_nodes = '' if node_count is None else f' on {count_of(node_count, "node")}'
    return _Place(
        count,
        index,
        f'a Slurm step of {count_of(count, "task")}{on_nodes}',
        host=first_host(nodes),
        port=_port(job + 257 * step),
        local_count=_slurm_local_count(environment, count, node_count),
        local_index=local_index,
    )


def _slurm_local_count(environment: _Environment, count: int, nodes: int | None) -> int | None:
    """Returns the number of tasks of the step on this node, from a list such as '4(x2),3'."""
    if nodes == 1:
        return count
    if nodes == count:
        return 1
    text = environment.get('SLURM_STEP_TASKS_PER_NODE', '')
    node = _whole_number(environment, 'SLURM_NODEID')
    if not re.fullmatch(r'\d+(\(x\d+\))?(,\d+(\(x\d+\))?)*', text) or node is None:
        return None
    tasks = [
        int(number)
        for number, times in re.findall(r'(\d+)(?:\(x(\d+)\))?', text)
        for _ in range(int(times or 1))
    ]
    return tasks[node] if node < len(tasks) else None


def _place_by_skypilot(environment: _Environment) -> _Place | None:
    """Returns what SkyPilot says, which starts one process on each node."""
    count = _whole_number(environment, 'SKYPILOT_NUM_NODES')
    index = _whole_number(environment, 'SKYPILOT_NODE_RANK')
    addresses = environment.get('SKYPILOT_NODE_IPS', '').split()
    if count is None or index is None or not addresses:
        return None
    identity = environment.get('SKYPILOT_TASK_ID', '')  # the same on all nodes of a task
    return _Place(
        count,
        index,
        f'SkyPilot with {count_of(count, "node")}',
        host=addresses[0],
        port=_port(zlib.crc32(identity.encode())),
        local_count=1,
    )


def _refuse_incomplete_job(environment: _Environment) -> None:
    """Raises a UserError in a Kubernetes Job that has a coordinator, but no number of processes."""
    if environment.get('JOB_COMPLETION_INDEX') and environment.get('JAX_COORDINATOR_ADDRESS'):
        raise UserError(
            'JOB_COMPLETION_INDEX and JAX_COORDINATOR_ADDRESS are set, but not JAX_NUM_PROCESSES: '
            'set it to the number of pods, as launch/kubernetes/jobset.yaml does, or to 1'
        )


def first_host(hosts: str) -> str:
    """Returns the first host of a list of Slurm, such as 'node01' of 'node[01-03,07],gpu-a'."""
    first = re.match(r'(?:\[[^\]]*\]|[^,\[])*', hosts)
    return re.sub(r'\[([^\],-]*)[^\]]*\]', r'\1', first[0] if first else hosts)


def split_address(address: str) -> tuple[str, int]:
    """Returns the host, without the brackets of an IPv6 address, and the port of 'HOST:PORT'."""
    host, _, port = address.rpartition(':')
    return host.strip('[]'), int(port)


def _find_coordinator(environment: _Environment, flag: str | None, place: _Place) -> str:
    """Returns 'HOST:PORT' of process 0."""
    name, address = '--coordinator', flag
    if address is None:
        name = 'JAX_COORDINATOR_ADDRESS'
        address = environment.get(name) or place.host
    if not address:
        raise UserError(
            f'the address of process 0 is unknown ({place.source}): give --coordinator=HOST:PORT, '
            'or set JAX_COORDINATOR_ADDRESS'
        )
    if address.count(':') > 1 and not address.startswith('['):
        address = f'[{address}]'  # an IPv6 address, as in SkyPilot's list
    host, colon, port = address.rpartition(':')
    if not colon or address.endswith(']'):
        host, port = address, environment.get('JAX_COORDINATOR_PORT') or str(place.port or '')
    if not port:
        raise UserError(
            f'{name}={address} has no port: write HOST:PORT, or set JAX_COORDINATOR_PORT'
        )
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f'{name}: {host}:{port} is not HOST:PORT with a port from 1 to 65535')
    return f'{host}:{int(port)}'


def _find_local_devices(
    environment: _Environment, flag: str | None, place: _Place, coordinator: str, gpus: int
) -> tuple[int, ...] | None:
    """Returns the numbers, among the GPUs that this process can see, of those that it uses.

    Several processes on one host divide the GPUs evenly, unless each can see only its own.

    Returns:
      The numbers; None for all.
    """
    name, text = '--local_devices', flag
    if text is None:
        name = 'JAX_LOCAL_DEVICE_IDS'
        text = environment.get(name)
    if text:
        return _parse_devices(name, text)
    local_count, local_index = place.local_count, place.local_index
    if local_count is None and _LOOPBACK.fullmatch(split_address(coordinator)[0]):
        local_count, local_index = place.count, place.index  # no process can be elsewhere
    visible = _count_visible(environment, gpus)
    if local_count is None or local_count < 2 or not visible:
        return None
    if visible % local_count:
        raise UserError(
            f'{count_of(visible, "GPU")} cannot be divided evenly among {local_count} processes on '
            'this host: start another number of processes, or give each its --local_devices'
        )
    share = visible // local_count
    return tuple(range(local_index * share, (local_index + 1) * share))


def _count_visible(environment: _Environment, gpus: int) -> int:
    """Returns the number of GPUs that the processes of this host see together.

    Returns:
      The number; 0 where there are none, or where each process sees only its own.
    """
    platforms = environment.get('JAX_PLATFORMS', '')
    if platforms and not re.search('cuda|gpu|rocm', platforms):
        return 0
    on_node = _whole_number(environment, 'SLURM_GPUS_ON_NODE')
    names = ('CUDA_VISIBLE_DEVICES', 'ROCR_VISIBLE_DEVICES', 'HIP_VISIBLE_DEVICES')
    text = next((environment[name] for name in names if name in environment), None)
    if text is None:
        return gpus if on_node is None else on_node
    visible = len(parse_visible_devices(text))
    of_each = environment.get('SLURM_GPUS_PER_TASK', '').rpartition(':')[2]  # 'a100:2' or '2'
    if of_each == str(visible) or (on_node is not None and visible < on_node):
        return 0
    return visible


def _parse_devices(name: str, text: str) -> tuple[int, ...]:
    items = [item.strip() for item in text.split(',')]
    if not all(item.isascii() and item.isdigit() for item in items):
        raise UserError(f'{name}={text} is not a list of numbers: write, for example, {name}=0,1')
    numbers = tuple(int(item) for item in items)
    if len(set(numbers)) < len(numbers):
        raise UserError(f'{name}={text} names a device twice')
    return numbers


def _whole_number(environment: _Environment, name: str) -> int | None:
    """Returns a variable's value; None where it is not set, or empty."""
    text = environment.get(name, '').strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UserError(
            f'{name}={text} in the environment is not a whole number: correct or unset it'
        )
    return int(text)


def _port(number: int) -> int:
    return _FIRST_PORT + number % _PORTS
