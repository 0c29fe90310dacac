"""Whether a training set fits into the devices' memory beside the training step (§2)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.model import memory, towers
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.batches.filling import BLOCK, rows_of_shard
from alexnet_jax.training.batches.resident_images import row_bytes
from alexnet_jax.training.state import state_shapes
from alexnet_jax.training.step import Hyperparameters, make_train_step

_LABEL_BYTES = 4
# The fraction of the memory that is left free: for workspaces of libraries, evaluations, fragments.
_MARGIN = 0.1
# Batches on the devices beside that of the step: those of the next steps, and what is exchanged.
_BATCHES = 4
# The fraction of the available memory that images take on CPUs, where other programs need it too:
# where the setting is 'auto', and where the user asks for it.
_OF_HOST = {'auto': 1 / 8, 'yes': 3 / 4}


class Limit(NamedTuple):
    """The memory for images on each device.

    Attributes:
      bytes: the number; 0 if it is not known.
      reason: where it comes from, in a few words.
    """

    bytes: float
    reason: str

    def images(self, mesh: jax.sharding.Mesh, size: int) -> int:
        """Returns how many images fit, on all devices together."""
        rows = int(self.bytes // (row_bytes(size) + _LABEL_BYTES))
        return rows // BLOCK * BLOCK * mesh.size


class Needs(NamedTuple):
    """Numbers of images that a run, or the rest of it, needs.

    Attributes:
      images: the number of training images.
      images_left: the number that are still trained on, each as often as it is used.
      test_images: the number of test images; 0 if they are evaluated once at most.
    """

    images: int
    images_left: int
    test_images: int = 0


class Decision(NamedTuple):
    """Whether the images stay on the devices.

    Attributes:
      has_training: whether the training images do.
      has_test: whether the test images do, too.
      line: says so with sizes, or why not; '' where the settings say that they do not.
    """

    has_training: bool
    has_test: bool
    line: str


def bytes_per_device(images: int, size: int, devices: int) -> int:
    """Returns the bytes that images of `size` pixels and their labels take on each device."""
    return rows_of_shard(images, devices) * (row_bytes(size) + _LABEL_BYTES)


def find_limit(config: Config, mesh: jax.sharding.Mesh, step: Any) -> Limit:
    """Returns how much memory of each device there is for images.

    On accelerators this compiles the training step, whose plan says what it needs.

    Args:
      config: the settings of the run.
      mesh: the devices.
      step: the training step, a jitted function.
    """
    if config.loader.resident_gib:
        stated = config.loader.resident_gib
        return Limit(stated * 2**30, f'loader.resident_gib={stated:g}')
    total = memory.device_bytes(mesh)
    if total is None:
        own, part = len(towers.own_devices(mesh)), _OF_HOST.get(config.loader.resident, 0.0)
        available = memory.available_host_bytes()
        if math.isinf(available):
            return Limit(0, 'the memory of this machine is not known')
        reason = f'{100 * part:g} % of the available memory of this machine, on all devices'
        return Limit(part * available / own, reason)
    if math.isinf(total):
        return Limit(0, 'the memory of the devices is not known')
    show('compiling the training step, which says how much memory it needs')
    needed = step_bytes(config, mesh, step)
    free = max(0.0, (1 - _MARGIN) * total - needed)
    return Limit(free, f'of {_size(total)}, {_size(needed)} are for the training')


def step_bytes(config: Config, mesh: jax.sharding.Mesh, step: Any) -> int:
    """Returns the bytes that training needs on each device, by the compiler's plan of a step."""
    plan = step.lower(*step_shapes(config, mesh)).compile().memory_analysis()
    batch, size = config.optimizer.batch_size, config.dataset.image_size
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    temporaries = plan.temp_size_in_bytes * max(1.0, config.evaluation.batch_size / batch)
    batches = _BATCHES * batch // mesh.shape[towers.DATA] * row_bytes(size)
    return int(plan.argument_size_in_bytes + results + temporaries + batches)


def step_shapes(config: Config, mesh: jax.sharding.Mesh) -> tuple[Any, ...]:
    """Returns the shapes, dtypes and shardings of the arguments of a training step."""

    def like(name: str, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, towers.spec(mesh, name))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    batch, size = config.optimizer.batch_size, config.dataset.image_size
    images = {
        'image': like('images', (batch, size, size, 3), jnp.uint8),
        'label': like('images', (batch,), jnp.int32),
    }
    constants = augmentation.Constants(
        like('constants', (size, size, 3)), like('constants', (3, 3))
    )
    return (
        state_shapes(config, mesh),
        images,
        constants,
        like('metrics', (Hyperparameters.SIZE,)),
    )


def decide(config: Config, mesh: jax.sharding.Mesh, step: Any, needs: Needs) -> Decision:
    """Checks whether the training images, and the test images, can stay on the devices.

    Args:
      config: the settings of the run.
      mesh: the devices.
      step: the training step, a jitted function.
      needs: the number of images.

    Raises:
      UserError: the settings demand it, and the training images do not fit.
    """
    is_demanded = config.loader.resident == 'yes'
    if config.loader.resident == 'no':
        return Decision(False, False, '')
    if jax.process_count() > 1:
        reason = 'only a single process can keep them on its devices'
        return _refuse(is_demanded, reason, 'loader.resident=no')
    if needs.images_left < needs.images and not is_demanded:
        return _refuse(False, 'what is left of the run is less than an epoch', '')
    size, limit = config.dataset.image_size, find_limit(config, mesh, step)
    training, test = (
        bytes_per_device(n, size, mesh.size) for n in (needs.images, needs.test_images)
    )
    can_be_used = f'{_size(limit.bytes)} can be used ({limit.reason})'
    if training > limit.bytes:
        sizes = f'{needs.images:,} training images need {_size(training)} of each device'
        settings = 'loader.resident=no, or loader.resident_gib'
        return _refuse(is_demanded, f'{sizes}, and {can_be_used}', settings)
    has_test = 0 < test <= limit.bytes - training
    kinds = f'{needs.images:,} training images'
    kinds += f' and {needs.test_images:,} test images' if has_test else ''
    devices = 'one device' if mesh.size == 1 else f'each of {mesh.size} devices'
    taken = _size(training + has_test * test)
    line = f'{kinds} stay on the devices: {taken} of {devices}, where {can_be_used}'
    return Decision(True, has_test, line)


def describe(config: Config, mesh: jax.sharding.Mesh) -> str:
    """Returns a line about the training images that fit, before their number is known."""
    if config.loader.resident == 'no' or jax.process_count() > 1:
        return 'the loader reads the training images in every epoch'
    limit, size = find_limit(config, mesh, make_train_step(config, mesh)), config.dataset.image_size
    return (
        f'up to {limit.images(mesh, size):,} training images of {size} pixels fit into the memory '
        f'of the devices, in {_size(limit.bytes)} of each ({limit.reason})'
    )


def _refuse(is_demanded: bool, reason: str, settings: str) -> Decision:
    if is_demanded:
        raise UserError(f'loader.resident=yes: {reason}: set {settings}')
    return Decision(False, False, f'the loader reads the training images in every epoch: {reason}')


def _size(number: float) -> str:
    return f'{number / 1e9:,.1f} GB' if number >= 1e9 else f'{number / 1e6:,.1f} MB'
