"""The connection of a process to JAX's coordination service."""

from __future__ import annotations

from typing import Any

import jax

from alexnet_jax.processes.launch import Launch


def connect(launch: Launch, seconds: float) -> Any:
    """Joins the coordination service of process 0, and returns its client."""
    jax.config.update('jax_enable_preemption_service', False)
    jax.distributed.initialize(
        launch.coordinator,
        launch.count,
        launch.index,
        local_device_ids=launch.local_devices,
        cluster_detection_method='deactivate',
        initialization_timeout=round(seconds),
        heartbeat_timeout_seconds=40,
        shutdown_timeout_seconds=60,
    )
    from jax._src.distributed import global_state

    return global_state.client


def describe(launch: Launch) -> str:
    """Describes the place of this process in one line."""
    return f'process {launch.index} of {launch.count} ({launch.source}), {launch.coordinator}'
