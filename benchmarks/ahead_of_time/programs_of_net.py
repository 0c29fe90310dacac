"""The programs that are compiled ahead of time: the training step, the evaluation, the kernels."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from alexnet_jax.config import schema
from alexnet_jax.model import inference, towers
from alexnet_jax.ops.formula import PAPER, SHAPES
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.normalized_pooling import normalized_pooling, pooling
from alexnet_jax.ops.response_normalization import response_normalization
from alexnet_jax.runtime import compilation
from alexnet_jax.training.batches import memory_plan, resident_images
from alexnet_jax.training.batches.filling import rows_of_shard
from alexnet_jax.training.step import make_train_step

WINDOW, STRIDE = 3, 2


def training_step(config: schema.Config, devices: Sequence[Any]) -> Any:
    """Lowers one training step for the mesh that the settings ask for, on these devices."""
    mesh = towers.choose_mesh(config, devices)
    step: Any = make_train_step(config, mesh)  # a jitted function
    return step.lower(*memory_plan.step_shapes(config, mesh))


def evaluation(config: schema.Config, devices: Sequence[Any]) -> Any:
    """Lowers the evaluation of one view of a batch, in the form of the test during training."""
    mesh = towers.choose_mesh(config, devices)
    # The options of the compiler are those of the outermost function.
    options = compilation.DETERMINISTIC if config.deterministic else None
    config = dataclasses.replace(config, deterministic=False)
    view = inference.test_views(config)[0]
    log_probabilities = inference.make_log_probabilities(config, mesh, at_test_time=False)
    state, batch, constants, _ = memory_plan.step_shapes(config, mesh)
    jitted = jax.jit(
        lambda params, mean, images: log_probabilities(params, mean, images, view),
        compiler_options=options,
    )
    return jitted.lower(state.params, constants.mean_HWC, batch['image'])


def gathers(
    config: schema.Config, devices: Sequence[Any], images: int
) -> Iterator[tuple[str, Any, int]]:
    """Yields the programs that bring a batch from images in the memory of all devices.

    Args:
      config: the settings.
      devices: of the mesh that they ask for.
      images: the number of images in memory.

    Yields:
      The name, the lowered program, and the bytes of images that reach each device from others.
    """
    mesh, size = towers.choose_mesh(config, devices), config.dataset.image_size
    router = resident_images.make_router(mesh, config.optimizer.batch_size)
    sharding = NamedSharding(mesh, resident_images.ALL_DEVICES)
    rows, row = mesh.size * rows_of_shard(images, mesh.size), resident_images.row_bytes(size)
    gather: Any = resident_images.compile_gather(mesh, size, router)  # a jitted function
    for capacity in router.capacities:
        shapes = {
            (rows, row): jnp.uint8,
            (rows,): jnp.int32,
            (mesh.size, mesh.size, capacity): jnp.int32,
            (mesh.size, router.rows): jnp.int32,
        }
        like = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
        lowered = gather.lower(*(like(shape, dtype) for shape, dtype in shapes.items()))
        name = f'gather of {capacity} images from each device for each'
        yield name, lowered, router.bytes_received(row, capacity)


def kernels(
    devices: Sequence[Any], batch: int, dtype: str, implementation: str | None = 'pallas'
) -> Iterator[tuple[str, Any]]:
    """Yields the name and the lowered program of each kernel, at the shapes of the paper's net.

    A ReLU comes first, as in the net. Forward and backward are separate programs, and the second
    contains the forward kernel, which also writes its mask there.

    Args:
      devices: the first of them is the target.
      batch: images in a batch.
      dtype: of the arrays.
      implementation: as for `response_normalization`.
    """
    platform = Platform.of_devices(devices)
    # JAX 0.12 lowers Triton's kernels for the device of a mesh, and not for that of an argument.
    mesh = jax.sharding.Mesh(np.asarray(devices[:1]), ('device',))
    sharding = NamedSharding(mesh, PartitionSpec())
    jit = functools.partial(_jit, mesh=mesh)
    options: dict[str, Any] = dict(implementation=implementation, platform=platform)
    formula: dict[str, Any] = PAPER._asdict() | {'rectify': True}
    pools: dict[str, Any] = dict(window=WINDOW, stride=STRIDE)

    def normalize(x: Array, bias: Array) -> Array:
        del bias  # its gradient is not computed by this kernel
        return response_normalization(x, **formula, **options)

    def normalize_and_pool(x: Array, bias: Array) -> Array:
        return normalized_pooling(x, **formula, **pools, bias_111C=bias, **options)

    def pool(x: Array, bias: Array) -> Array:
        del bias
        return pooling(x, **pools, **options)

    functions = {'response_normalization': normalize}
    if implementation != 'mosaic_gpu':
        functions['normalized_pooling'] = normalize_and_pool
    if platform.name == 'tpu':
        functions['pooling'] = pool
    for (name, function), (layer, shape) in itertools.product(functions.items(), SHAPES.items()):
        x = jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=sharding)
        bias = jax.ShapeDtypeStruct((1, 1, 1, shape[-1]), jnp.float32, sharding=sharding)
        y = jax.eval_shape(function, x, bias)
        g = jax.ShapeDtypeStruct(y.shape, y.dtype, sharding=sharding)
        forward = jit(function).lower(x, bias)
        yield f'{name} {layer} {dtype} forward', forward
        backward = jit(functools.partial(_pull_back, function)).lower(x, bias, g)
        yield f'{name} {layer} {dtype} backward', backward


def _jit(function: Any, mesh: jax.sharding.Mesh) -> Any:
    specs = dict(in_specs=PartitionSpec(), out_specs=PartitionSpec())
    return jax.jit(jax.shard_map(function, mesh=mesh, **specs))


def _pull_back(function: Any, x: Any, bias: Any, g: Any) -> Any:
    y, pull_back = jax.vjp(function, x, bias)
    return y, *pull_back(g)
