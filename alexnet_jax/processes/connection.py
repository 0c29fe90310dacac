"""Connects this process to the others of its group by JAX's coordination service.

This is the only module that uses names of `jax._src`: the keys and barriers of the service, which
Orbax and other libraries use as well, have no public name in JAX.
"""

from __future__ import annotations

import os
from typing import Any

from alexnet_jax.processes.launch import Launch
from alexnet_jax.processes.starting import rendezvous
from alexnet_jax.processes.starting.launchers import split_address
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.user_errors import UserError

HEARTBEAT_SECONDS = 40  # without a heartbeat, after which a process is lost for JAX's service
SHUTDOWN_SECONDS = 60  # within which all processes shut down, after the last barrier
_REGISTER_SECONDS = 30  # within which all register at JAX's service, after the rendezvous


def connect(launch: Launch, seconds: float) -> Any:
    """Connects to the other processes, before JAX uses its first device.

    Args:
      launch: the place of this process.
      seconds: the time within which all processes must have started.

    Returns:
      The client of JAX's coordination service: see `jax._src.lib._jax.DistributedRuntimeClient`.

    Raises:
      UserError: the processes have not all started within that time, or do not belong together.
      RuntimeError: this process has used a device before, or is already connected.
    """
    import jax
    from jax._src import distributed, xla_bridge

    if distributed.global_state.client is not None:
        raise RuntimeError('this process is already connected: connect() is called once')
    if xla_bridge.backends_are_initialized():
        raise RuntimeError(
            'connect() comes before the first use of a device, such as jax.devices() or an array: '
            'JAX learns about the other processes only when it initializes its devices'
        )
    address = rendezvous.meet(launch, seconds)
    _bypass_proxies(launch)
    # StopSignal handles SIGTERM; JAX's service would replace its handler.
    jax.config.update('jax_enable_preemption_service', False)
    jax.config.update('jax_check_proxy_envs', False)  # its warning is obsolete: see above
    try:
        jax.distributed.initialize(
            launch.coordinator,
            num_processes=launch.count,
            process_id=launch.index,
            local_device_ids=launch.local_devices,
            cluster_detection_method='deactivate',
            initialization_timeout=_REGISTER_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f'JAX cannot connect process {launch.index} of {launch.count} at {launch.coordinator}: '
            f'{str(error).partition(chr(10))[0]}; choose another --coordinator'
        ) from error
    _bind_collectives(address)
    return distributed.global_state.client


def _bind_collectives(address: str) -> None:
    """Makes the collectives of CPUs use the address by which other processes reach this one.

    Gloo would use the address of the host's own name. On some systems, Debian among them, that is a
    loopback address, which other hosts cannot reach.
    """
    from jax._src import config, distributed, xla_bridge
    from jax._src.lib import _jax

    if config.cpu_collectives_implementation.value != 'gloo':
        return

    def make_client() -> Any:
        client = distributed.global_state.client
        gloo = _jax.make_gloo_tcp_collectives(distributed_client=client, hostname=address)
        return xla_bridge.make_cpu_client(gloo)

    xla_bridge.register_backend_factory('cpu', make_client, priority=0, fail_quietly=False)


def describe(launch: Launch) -> str:
    """Describes the place of this process among the others, in one line."""
    text = (
        f'process {launch.index} of {launch.count} ({launch.source}), '
        f'coordinator {launch.coordinator}'
    )
    if launch.local_devices is None:
        return text
    numbers = list_names([str(number) for number in launch.local_devices])
    return f'{text}, GPUs {numbers}'


def _bypass_proxies(launch: Launch) -> None:
    """Excludes the coordinator's host from the proxies that the environment names.

    gRPC would connect to the coordinator through them. With a proxy that does not answer, all
    processes abort with exit code 134 (measured with JAX 0.10.2 and 0.12).
    """
    if not any(os.environ.get(name) for name in ('grpc_proxy', 'https_proxy', 'http_proxy')):
        return
    host, _ = split_address(launch.coordinator)
    # gRPC reads the first of these that is set.
    name = 'no_grpc_proxy' if 'no_grpc_proxy' in os.environ else 'no_proxy'
    hosts = [item for item in os.environ.get(name, '').split(',') if item]
    os.environ[name] = ','.join([*hosts, host])
