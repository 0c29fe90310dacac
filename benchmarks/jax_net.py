"""Our net with a batch of noise, for benchmarks."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ahead_of_time.instructions import instructions
from jax import Array
from measuring import Contender
from torch_net import check_finite
from tower_forms import OURS, Apply, make_apply

from alexnet_jax.config import schema
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, dropout, towers
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.step import ApplyTraining, Hyperparameters, make_train_step


class Plan(NamedTuple):
    """The compiler's plan for the training step on one device.

    Attributes:
      held: bytes of the state and the batch.
      beside: bytes of the temporaries.
      launches: the number of kernels and library calls in a GPU's program; None elsewhere.
      moved: bytes of their operands and results (ahead_of_time/instructions.py); None elsewhere.
    """

    held: int
    beside: int
    launches: int | None
    moved: int | None


class Ours:
    """The net on the devices of a mesh, with a batch of noise.

    Args:
      config: the settings, which name the number of devices.
      form: how the towers of one device are run, one of tower_forms.FORMS.
      options: options of the compiler for the training step.
    """

    def __init__(
        self, config: schema.Config, form: str = OURS, options: Mapping[str, Any] | None = None
    ) -> None:
        self._config, self._mesh, self._options = config, towers.choose_mesh(config), options or {}
        self._form, self._apply = form, make_apply(form, config)
        count, size = config.optimizer.batch_size, config.dataset.image_size
        rng = np.random.default_rng(0)
        images = rng.integers(256, size=(count, size, size, 3), dtype=np.uint8)
        labels = rng.integers(config.dataset.classes, size=count, dtype=np.int32)
        self._batch = towers.put_batch(self._mesh, {'image': images, 'label': labels})
        everywhere = towers.shardings(self._mesh, towers.spec(self._mesh, 'constants'))
        grey = np.full((size, size, 3), 127.5, np.float32)
        constants = augmentation.Constants(grey, np.eye(3, dtype=np.float32))
        self._constants = jax.device_put(constants, everywhere)

    @property
    def has_options(self) -> bool:
        """Whether the training step is compiled with options of its own."""
        return bool(self._options)

    def step(self) -> Contender:
        """Returns the training step, which changes its own state."""
        numbers = first_hyperparameters(self._config)
        train_step, state = self._compiled_step, place_initial_state(self._config, self._mesh)

        def run() -> None:
            nonlocal state
            state, metrics = train_step(state, self._batch, self._constants, numbers)
            jax.block_until_ready((state, metrics))
            check_finite(float(metrics['loss']))

        return run

    def forward(self) -> Contender:
        """Returns the forward pass: the logits of the central crops, without dropout."""
        run = self._on_crops(lambda params, x, labels, key: self._apply(params, x, None))
        return lambda: jax.block_until_ready(run())

    def gradient(self) -> Contender:
        """Returns the gradient of the loss of the central crops, with dropout."""

        def gradient(params: Any, x: Array, labels: Array, key: Array) -> Any:
            masks = dropout.Masks(key, self._config.optimizer.batch_size)

            def loss(params: Any) -> Array:
                logits_BK = self._apply(params, x, masks)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels)
                return losses.sum() / self._config.optimizer.batch_size

            return jax.grad(loss)(params)

        run = self._on_crops(gradient, returns_params=True)
        return lambda: jax.block_until_ready(run())

    def peak_memory(self) -> float | None:
        """Returns the most bytes in use on one device so far; None if the device has no count."""
        stats = self._mesh.devices.flat[0].memory_stats()
        return stats and stats.get('peak_bytes_in_use')

    def plan(self) -> Plan:
        """Returns what the compiler plans for the training step on one device."""
        compiled = self._compiled_step
        memory = compiled.memory_analysis()
        held, beside = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        if self._mesh.devices.flat[0].platform != 'gpu':
            return Plan(held, beside, None, None)
        launches = instructions(compiled.as_text())
        return Plan(held, beside, len(launches), sum(launch.size for launch in launches))

    @functools.cached_property
    def _compiled_step(self) -> Any:
        state = state_shapes(self._config, self._mesh)
        numbers = first_hyperparameters(self._config)
        lowered = self._train_step().lower(state, self._batch, self._constants, numbers)
        return lowered.compile(compiler_options=dict(self._options))

    def _train_step(self) -> Any:
        if self._form == OURS:
            return make_train_step(self._config, self._mesh)
        return make_train_step(self._config, self._mesh, without_moments(self._apply))

    def _on_crops(
        self, function: Callable[..., Any], returns_params: bool = False
    ) -> Callable[[], Any]:
        """Compiles a function of the parameters, images, labels and a key.

        Args:
          function: what each device runs.
          returns_params: whether its result is placed like the parameters; else like the images.
        """
        config, mesh = self._config, self._mesh
        params = place_initial_state(config, mesh).params
        count, crop = config.optimizer.batch_size, config.augmentation.crop
        noise = np.random.default_rng(1).normal(0, 60, (count, crop, crop, 3)).astype(np.float32)
        x = towers.put_batch(mesh, {'x': noise})['x']
        images, everywhere = towers.spec(mesh, 'images'), towers.spec(mesh, 'constants')
        specs = alexnet.partitions(config, mesh)
        in_specs, out_specs = (specs, images, images, everywhere), images
        if returns_params:
            out_specs = specs
        compiled = towers.compile_program(function, config, mesh, in_specs, out_specs)
        return lambda: compiled(params, x, self._batch['label'], jax.random.key(0))


def first_hyperparameters(config: schema.Config) -> np.ndarray:
    """Returns the array of the learning rates and the colour noise that the first step takes."""
    return Hyperparameters.at(config, 0.0, Progress()).pack()


def without_moments(apply: Apply) -> ApplyTraining:
    """Returns the net in the shape that training expects: without batch normalization."""
    return lambda params, images, masks: (apply(params, images, masks), {})
