"""The training loop (§5): steps, the log, evaluations, checkpoints, and stopping on a signal."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax.config.durations import Durations
from alexnet_jax.config.schema import Config
from alexnet_jax.data import loader, sources
from alexnet_jax.model import towers
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import log, progress_line
from alexnet_jax.training.checkpoint import Position
from alexnet_jax.training.optimizer import Rates, rates
from alexnet_jax.training.state import place_constants, place_initial_state, state_shapes
from alexnet_jax.training.step import make_train_step
from alexnet_jax.training.validation import make_evaluate
from alexnet_jax.training.workdir import Workdir


class _Interrupted(Exception):
    """A signal that ended an evaluation early."""


class Loop:
    """A run, from its newest checkpoint or from the initial state to its end.

    Attributes:
      results: the last evaluation, of all views once the run has ended; see `make_evaluate`.
      unreadable: the training images that could not be read and were replaced.
    """

    def __init__(
        self,
        config: Config,
        mesh: jax.sharding.Mesh,
        splits: sources.Splits,
        plan: Durations,
        workdir: Workdir,
        stop: StopSignal,
    ) -> None:
        self._config, self._mesh, self._splits = config, mesh, splits
        self._plan, self._stop = plan, stop
        self.results: dict[str, float] = {}
        self.unreadable = loader.UnreadableImages(splits.train, config.loader.skip_bad)
        self._reading = loader.Reading.from_config(config)
        self._constants = place_constants(config, mesh, splits, self.unreadable)
        self._train_step, self._evaluation = (
            make_train_step(config, mesh),
            make_evaluate(config, mesh),
        )
        self._checkpoints = workdir.open_checkpoints(config.checkpoint.keep)
        restored = self._checkpoints.restore(state_shapes(config, mesh))
        self.state, self._position = restored or (place_initial_state(config, mesh), Position())
        self._writer = log.Writer(workdir, self._position.step, self._position.evaluated)
        self._line = progress_line.ProgressLine(self._plan)

    def run(self) -> bool:
        """Trains to the end, or until a signal stops the run; saves a checkpoint in both cases.

        Returns:
          Whether the run has reached its end.

        Raises:
          UserError: the loss is not finite, or a checkpoint cannot be written.
        """
        first = self._position.step
        try:
            if first == 0:
                self._show_filters()
            else:
                self._evaluate_and_save()  # the evaluation that a signal may have ended early
            batches, pending = self._batches(first), None
            batch = next(batches)
            if first < self._plan.steps:
                self._line.begin()
            for step in range(first, self._plan.steps):
                epoch = self._plan.epoch(step)
                rate = rates(self._config, epoch, self._position.progress)
                self.state, metrics = self._train_step(
                    self.state,
                    batch,
                    self._constants,
                    Rates(*(jnp.float32(x) for x in rate)),
                    jnp.float32(self._config.augmentation.colour.deviation_at(epoch)),
                )
                batch, error = self._fetch(batches)  # the next batch is copied while this step runs
                # The metrics of the step before: waiting for this one would leave the devices idle.
                self._record(pending)
                pending = step + 1, rate.weights, metrics
                if self._due(step + 1) or self._stop.signal or error:
                    self._record(pending)
                    pending = None
                    self._evaluate_and_save(save=error is not None)
                    if error:
                        raise error
                    if self._stop.signal:
                        break
            self._checkpoints.wait()
            return self._position.evaluated == self._plan.steps
        finally:
            self._line.close()
            self._writer.close()  # first, because a failed save is raised by the next line
            self._checkpoints.close()

    def _fetch(self, batches: Iterator[Any]) -> tuple[Any, Exception | None]:
        """Returns the next batch or the error that it raised.

        Both are None once a signal has arrived.
        """
        try:
            return (None if self._stop.signal else next(batches)), None
        except Exception as error:
            # The signal that stops this process may also have ended its reader processes.
            return None, None if self._stop.signal else error

    @property
    def step(self) -> int:
        """Training steps done."""
        return self._position.step

    @property
    def images_per_second(self) -> float:
        """Images per second since the start, without compilation and evaluation; 0 if unknown."""
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
            unreadable=self.unreadable,
        )
        return (towers.put_batch(self._mesh, batch) for batch in batches)

    def _due(self, step: int) -> bool:
        return step == self._plan.steps or not (
            step % self._plan.evaluate_every and step % self._plan.save_every
        )

    def _record(self, pending: tuple[int, float, dict[str, Array]] | None) -> None:
        """Waits for the metrics of a step, checks the loss, and logs what is due.

        Args:
          pending: the step, its learning rate and its metrics on the devices; None for none.
        """
        if pending is None:
            return
        step, learning_rate, metrics = pending
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        if not np.isfinite(values['loss']):
            raise UserError(
                f'the loss is {values["loss"]} at step {step}: lower learning_rate.initial (now '
                f'{self._config.learning_rate.initial:g}); the checkpoints from before this step '
                'are intact'
            )
        self._position = self._position.after_step(step, values)
        speed = self._line.step(step, values, learning_rate)
        if step % self._config.log.every_steps == 0 or step == self._plan.steps:
            means, self._position = self._position.take_means()
            self._writer.scalars(
                step,
                {f'train/{name}': x for name, x in means.items()}
                | {'learning_rate': learning_rate, 'epoch': self._plan.epoch(step)}
                | ({'images_per_second': speed} if speed else {}),
            )

    def _evaluate_and_save(self, save: bool = False) -> None:
        """Evaluates and saves as is due at this step; a signal ends the evaluation early.

        Args:
          save: whether to save a checkpoint that is not due.
        """
        step = self._position.step
        last = step == self._plan.steps
        if last or (step % self._plan.evaluate_every == 0 and self._position.evaluated < step):
            with contextlib.suppress(_Interrupted):
                self._evaluate(self._config.views if last else 1)
        if last or save or step % self._plan.save_every == 0 or self._stop.signal:
            self._writer.flush()
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
        if self._position.evaluated < step:
            plateau = self._config.learning_rate.plateau
            progress = self._position.progress.after_evaluation(plateau, results['top1_error'])
            self._position = dataclasses.replace(self._position, progress=progress, evaluated=step)
            self._writer.scalars(step, log.name_metrics(results, self._config.views))
            self._show_filters()
        self._line.evaluated(results)

    def _test_batches(self) -> Iterator[loader.Batch]:
        batch_size = self._config.evaluation.batch_size
        rows = towers.rows_of_process(self._mesh, batch_size)
        batches = loader.evaluation_batches(self._splits.eval, self._reading, batch_size, rows)
        while True:
            batch, error = self._fetch(batches)
            if isinstance(error, StopIteration):
                return
            if error:
                raise error
            if self._stop.signal:
                raise _Interrupted
            yield batch

    def _show_filters(self) -> None:
        kernel_THWIO = jax.device_get(self.state.params['conv1']['kernel_THWIO'])
        self._writer.filters(self._position.step, kernel_THWIO)
