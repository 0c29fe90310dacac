"""Training (§5): the state, one step on all devices, and the loop around it."""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from alexnet_jax.config.schema import Config, Durations
from alexnet_jax.data import augmentation, loader, sources
from alexnet_jax.model import alexnet, batch_normalization, towers
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import log, pretrained
from alexnet_jax.training.checkpoint import Checkpoints, Position
from alexnet_jax.training.error_rates import credit, make_evaluate
from alexnet_jax.training.optimizer import Rates, paper_momentum, rates


class State(NamedTuple):
    """What a step changes.

    Attributes:
      step: () int32, steps done.
      params: nested dict of float32, (T, ...) but for fc8's bias.
      velocity: the optimizer's state; one array per parameter.
    """

    step: Any
    params: Any
    velocity: Any


def place_initial_state(config: Config, mesh: jax.sharding.Mesh) -> State:
    """The state before the first step, a function of the settings alone, where it belongs.

    Raises:
      UserError: it is to begin with another run's parameters, and they do not fit.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state_shapes(config, mesh))
    params = pretrained.take_over(alexnet.initialize(config), config.pretrained)
    params = jax.device_put(params, shardings.params)
    init = jax.jit(paper_momentum(config).init, out_shardings=shardings.velocity)
    return State(jax.device_put(np.int32(0), shardings.step), params, init(params))


def state_shapes(config: Config, mesh: jax.sharding.Mesh) -> State:
    """Shapes, dtypes and shardings of the state."""
    shapes = _shapes(config)
    shardings = towers.shardings(mesh, towers.specs(mesh, shapes))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _shapes(config: Config) -> State:
    params = alexnet.shapes(config)
    velocity = jax.eval_shape(paper_momentum(config).init, params)
    return State(jax.ShapeDtypeStruct((), jnp.int32), params, velocity)


def place_constants(
    config: Config, mesh: jax.sharding.Mesh, splits: sources.Splits, bad: loader.Bad | None = None
) -> augmentation.Constants:
    """What the augmentation knows of the training set, on the devices; counted where it must be.

    Args:
      bad: takes in which training images cannot be read; None allows none.

    Raises:
      UserError: an image cannot be read.
    """
    sums = None
    if config.augmentation.constants == 'data':
        reading, split = loader.Reading.of(config), config.dataset.train_split
        sums = loader.statistics_of(splits.train, reading, splits.folder, split, bad)
    known = augmentation.constants(config.augmentation, config.dataset.image_size, sums)
    return jax.device_put(known, towers.shardings(mesh, towers.spec(mesh, 'constants')))


StepFunction = Callable[
    [State, dict[str, Array], augmentation.Constants, Rates, Array], tuple[State, dict[str, Array]]
]


def make_train_step(config: Config, mesh: jax.sharding.Mesh) -> StepFunction:
    """Compiles one step of the paper's recipe.

    Returns:
      `step(state, batch, constants, rates, deviation)`: `batch` holds 'image', (B, size, size, 3)
      uint8, and 'label', (B,) int32; `rates` are eps and `deviation` that of the colour noise,
      float32 scalars. Gives the new state (the old one's memory is reused) and 'loss' (nats) and
      'top1_error' (fraction), means over the batch.
    """
    graph, update = alexnet.graph(config), paper_momentum(config)
    batch_size, views = config.optimizer.batch_size, config.augmentation
    state_specs = towers.specs(mesh, _shapes(config))
    images, everywhere = towers.spec(mesh, 'images'), towers.spec(mesh, 'metrics')

    @functools.partial(jax.jit, donate_argnums=0)
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(state_specs, images, everywhere, everywhere, everywhere),
        out_specs=(state_specs, everywhere),
    )
    def step(
        state: State,
        batch: Any,
        constants: augmentation.Constants,
        rates: Rates,
        deviation: Array,
    ) -> tuple[State, Any]:
        """What one device does."""
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        view_key, mask_key = jax.random.split(key)
        draw = augmentation.draw_views(view_key, batch_size, config.dataset.image_size, views)
        draw = augmentation.Draw(*(towers.own_images(x) for x in draw))
        views_BHWC = augmentation.random_views(batch['image'], constants, draw, views, deviation)
        masks = alexnet.Masks(mask_key, batch_size)

        def loss(params: Any) -> tuple[Array, tuple[Array, Any]]:
            params = towers.copy_for_each_share(params)
            logits_BK, seen = alexnet.apply_training(graph, params, views_BHWC, masks)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch['label'])
            return towers.total_over_data(losses.sum()) / batch_size, (logits_BK, seen)

        (value, (logits_BK, seen)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, velocity = update.update(
            gradients, state.velocity, state.params, learning_rate=rates
        )
        right = towers.total_over_data(credit(logits_BK, batch['label'], 1).sum())
        params: Any = optax.apply_updates(state.params, updates)
        params = batch_normalization.remember(params, seen, config.model.batch_normalization.memory)
        return State(state.step + 1, params, velocity), {
            'loss': value,
            'top1_error': 1 - right / batch_size,
        }

    return step


class Stop:
    """Whether the process was told to end (SIGTERM, Ctrl-C). A second signal ends it at once."""

    def __init__(self) -> None:
        self.signal = ''

    def __enter__(self) -> 'Stop':
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._previous = {n: signal.signal(n, self._note) for n in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        signal.signal(number, self._previous[signal.Signals(number)])


class _Interrupted(Exception):
    """An evaluation was cut short by a signal."""


class Loop:
    """A run from where its workdir left it to its end.

    Attributes:
      results: the last evaluation, of all views once the run has ended; see `make_evaluate`.
      bad: the training images that could not be read and were replaced.
    """

    def __init__(
        self,
        config: Config,
        mesh: jax.sharding.Mesh,
        splits: sources.Splits,
        plan: Durations,
        workdir: Path,
        stop: Stop,
    ) -> None:
        self._config, self._mesh, self._splits = config, mesh, splits
        self._plan, self._stop = plan, stop
        self.results: dict[str, float] = {}
        self.bad = loader.Bad(splits.train, config.loader.skip_bad)
        self._reading = loader.Reading.of(config)
        self._constants = place_constants(config, mesh, splits, self.bad)
        self._train_step, self._evaluation = (
            make_train_step(config, mesh),
            make_evaluate(config, mesh),
        )
        self._checkpoints = Checkpoints(workdir / 'checkpoints', config.checkpoint.keep)
        restored = self._checkpoints.restore(state_shapes(config, mesh))
        self.state, self._position = restored or (place_initial_state(config, mesh), Position())
        self._writer = log.Writer(workdir, self._position.step, self._position.evaluated)
        self._line = log.ProgressLine(self._plan)

    def run(self) -> bool:
        """Trains to the end; False if a signal stopped it before. Either way all is saved.

        Raises:
          UserError: the loss is not finite, or the disk does not take a checkpoint.
        """
        first = self._position.step
        try:
            if first == 0:
                self._show_filters()
            else:
                self._evaluate_and_save()  # makes up for what a signal cut short
            batches, pending = self._batches(first), None
            batch = next(batches)
            if first < self._plan.steps:
                self._line.begin()
            for step in range(first, self._plan.steps):
                epoch = self._plan.epoch(step)
                rate = rates(self._config, epoch, self._position.progress)
                self.state, coming = self._train_step(
                    self.state,
                    batch,
                    self._constants,
                    Rates(*(jnp.float32(x) for x in rate)),
                    jnp.float32(self._config.augmentation.colour.deviation_at(epoch)),
                )
                batch, trouble = self._fetch(batches)  # is copied while the step runs
                self._note(pending)  # of the step before: waiting for this one would idle the host
                pending = step + 1, rate.weights, coming
                if self._due(step + 1) or self._stop.signal or trouble:
                    self._note(pending)
                    pending = None
                    self._evaluate_and_save(save=trouble is not None)
                    if trouble:
                        raise trouble
                    if self._stop.signal:
                        break
            self._checkpoints.wait()
            return self._position.evaluated == self._plan.steps
        finally:
            self._line.close()
            self._checkpoints.close()
            self._writer.close()

    def _fetch(self, batches: Iterator[Any]) -> tuple[Any, Exception | None]:
        """The next batch, or what went wrong; neither once the run is to stop."""
        try:
            return (None if self._stop.signal else next(batches)), None
        except Exception as error:
            # The signal that stops this process may have ended those that read for it, too.
            return None, None if self._stop.signal else error

    @property
    def step(self) -> int:
        """Training steps done."""
        return self._position.step

    @property
    def images_per_second(self) -> float:
        """Of the steps since this start, compilation and evaluation left out; 0 if none."""
        return self._line.speed

    def _batches(self, first_step: int) -> Iterator[dict[str, Array]]:
        config = self._config
        batches = loader.training_batches(
            self._splits.train,
            self._reading,
            config.seed,
            config.optimizer.batch_size,
            first_step,
            reshuffle=config.dataset.reshuffle,
            rows=towers.rows_of_process(self._mesh, config.optimizer.batch_size),
            bad=self.bad,
        )
        return (towers.put_batch(self._mesh, batch) for batch in batches)

    def _due(self, step: int) -> bool:
        return step == self._plan.steps or not (
            step % self._plan.evaluate_every and step % self._plan.save_every
        )

    def _note(self, pending: tuple[int, float, dict[str, Array]] | None) -> None:
        """Takes in the metrics of a step that was dispatched before."""
        if pending is None:
            return
        step, rate, on_device = pending
        values = {name: float(x) for name, x in jax.device_get(on_device).items()}
        if not np.isfinite(values['loss']):
            raise UserError(
                f'the loss is {values["loss"]} at step {step}: lower learning_rate.initial (now '
                f'{self._config.learning_rate.initial:g}); the checkpoints before it are intact'
            )
        self._position = self._position.after_step(step, values)
        speed = self._line.step(step, values, rate)
        if step % self._config.log.every_steps == 0 or step == self._plan.steps:
            means, self._position = self._position.take_means()
            self._writer.scalars(
                step,
                {f'train/{name}': x for name, x in means.items()}
                | {'learning_rate': rate, 'epoch': self._plan.epoch(step)}
                | ({'images_per_second': speed} if speed else {}),
            )

    def _evaluate_and_save(self, save: bool = False) -> None:
        """Does what is due at this step, or saves anyway; a signal cuts the evaluation short."""
        step = self._position.step
        last = step == self._plan.steps
        if last or (step % self._plan.evaluate_every == 0 and self._position.evaluated < step):
            with contextlib.suppress(_Interrupted):
                self._evaluate(self._config.views if last else 1)
        if last or save or step % self._plan.save_every == 0 or self._stop.signal:
            self._checkpoints.save(self.state, self._position)

    def _evaluate(self, views: int) -> None:
        step = self._position.step
        with self._line.pause():
            results = self._evaluation(
                self.state.params,
                self._constants.mean_HWC,
                self._test_batches(),
                views,
                len(self._splits.eval),
            )
        self.results = results
        named = log.named(results, self._config.views)
        if self._position.evaluated < step:
            plateau = self._config.learning_rate.plateau
            progress = self._position.progress.after_evaluation(plateau, results['top1_error'])
            self._position = dataclasses.replace(self._position, progress=progress, evaluated=step)
            self._writer.scalars(step, named)
            self._show_filters()
        self._line.evaluated(results)

    def _test_batches(self) -> Iterator[loader.Batch]:
        batch_size = self._config.evaluation.batch_size
        rows = towers.rows_of_process(self._mesh, batch_size)
        batches = loader.evaluation_batches(self._splits.eval, self._reading, batch_size, rows)
        while True:
            batch, trouble = self._fetch(batches)
            if isinstance(trouble, StopIteration):
                return
            if trouble:
                raise trouble
            if self._stop.signal:
                raise _Interrupted
            yield batch

    def _show_filters(self) -> None:
        kernel_THWIO = jax.device_get(self.state.params['conv1']['kernel_THWIO'])
        self._writer.filters(self._position.step, kernel_THWIO)
