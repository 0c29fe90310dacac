"""The training loop (§5): steps, the log, evaluations, checkpoints, and stopping on a signal."""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.config.durations import Durations, check_length
from alexnet_jax.config.schema import Config
from alexnet_jax.data import sources
from alexnet_jax.data.loading import loader, unreadable_images
from alexnet_jax.model import towers
from alexnet_jax.processes import group
from alexnet_jax.processes.turns import Turns
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import log, progress_line
from alexnet_jax.training.batches import feeds
from alexnet_jax.training.checkpoint import Position
from alexnet_jax.training.pictures import training_sheet
from alexnet_jax.training.run_files.divergence import Diverged, advise
from alexnet_jax.training.state import (
    State,
    find_nonfinite,
    place_constants,
    place_initial_state,
    read_or_write_inputs,
    state_shapes,
)
from alexnet_jax.training.step import Hyperparameters, make_train_step
from alexnet_jax.training.validation import make_evaluate
from alexnet_jax.training.workdir import Workdir

# The metrics of a step are read after this many later steps have been dispatched, or earlier if
# something is evaluated or saved. So an accelerator has work while the host writes a line of the
# log or waits for a batch. But a signal is answered only after all dispatched steps, which are one
# more than this number; on CPUs one is enough, since a step takes longer than the work of the host.
# All processes have the same number, so that all end after the same step if a loss is not finite.
STEPS_BEHIND, STEPS_BEHIND_ON_CPU = 4, 1

# How long a turn may take before the process counts as hanging, in seconds: a turn in which it
# compiles a program, and one in which it saves a checkpoint and reads another one back.
COMPILING_SECONDS, SAVING_SECONDS = 1800, 900


class _Interrupted(Exception):
    """A signal that ended an evaluation early."""


class _UnreadStep(NamedTuple):
    """A step that has been dispatched and whose metrics have not been read.

    Attributes:
      step: the number of training steps up to and including this one.
      learning_rate: the learning rate of the weights.
      metrics: by name, () float32 arrays on the devices.
    """

    step: int
    learning_rate: float
    metrics: dict[str, jax.Array]


class Loop:
    """A run, from its newest checkpoint or from another state to its end.

    Args:
      config: the settings of the run.
      mesh: the devices.
      splits: the images.
      plan: the durations of these settings.
      workdir: the folder of the run, claimed by this process.
      stop: records the signals that ask the run to stop.

    Attributes:
      best: the step and the top-1 error, a fraction, of the checkpoint with the lowest error; None
        before the run has ended.
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
        self._plan, self._workdir, self._turns = plan, workdir.path, Turns(stop)
        self._group = group.current()
        self.results: dict[str, float] = {}
        self.best: tuple[int, float] | None = None
        self.unreadable = unreadable_images.UnreadableImages(splits.train, config.loader.skip_bad)
        inputs = self._group.first_before_others(
            'computes the mean image',
            lambda: read_or_write_inputs(workdir, config, splits, self.unreadable),
        )
        self._constants = place_constants(config, mesh, inputs)
        self._train_step = make_train_step(config, mesh)
        self._last_hyperparameters: tuple[Hyperparameters, jax.Array] | None = None
        on_cpu = mesh.devices.flat[0].platform == 'cpu'
        self._steps_behind = STEPS_BEHIND_ON_CPU if on_cpu else STEPS_BEHIND
        self._unread: collections.deque[_UnreadStep] = collections.deque()
        self._evaluation = make_evaluate(config, mesh)
        self._feed = feeds.Feed(config, mesh, splits, self.unreadable)
        with contextlib.ExitStack() as stack:
            self._checkpoints = stack.enter_context(
                workdir.open_checkpoints(config.checkpoint.keep)
            )
            self.state, self._position = self._restore(workdir)
            check_length(plan, workdir.path, self.step)
            stack.pop_all()  # from here on, `run` closes the checkpoints
        self._time_of_save, self._error = time.monotonic(), math.inf
        self._writer = log.open_writer(workdir, self._position.step, self._position.evaluated)
        self._line = progress_line.ProgressLine(self._plan, config.dataset.name_of_eval_split)

    def _restore(self, workdir: Workdir) -> tuple[State, Position]:
        """Returns the state and the position to begin with.

        They are those of the newest checkpoint; where there is none, those of the run that the
        workdir was started from, which are saved at once; else the initial ones.
        """
        shapes = state_shapes(self._config, self._mesh)
        restored = self._checkpoints.restore(shapes)
        if restored is not None:
            return restored
        source = workdir.source()
        if source is None:
            return place_initial_state(self._config, self._mesh), Position()
        other, step = source
        state, position = other.restore(shapes, step)
        position = dataclasses.replace(position, steps=0, sums={})
        self._checkpoints.save(state, position)
        self._checkpoints.wait()
        return state, position

    def run(self) -> bool:
        """Trains to the end, or until a signal stops the run; saves a checkpoint in both cases.

        Returns:
          Whether the run has reached its end.

        Raises:
          UserError: the loss, the parameters or the test error are not finite, or a checkpoint
            cannot be written.
        """
        try:
            with self._turns.agree():
                self._train()
            self._checkpoints.wait()
            best, error = self._checkpoints.best, self._checkpoints.best_error
            self.best = None if best is None or error is None else (best, error)
            # A signal may have ended the evaluation that a finished run repeats: no results.
            return self._position.evaluated == self._plan.steps and bool(self.results)
        finally:
            self._line.close()
            self._writer.close()  # first, because a failed save is raised by the next line
            self._checkpoints.close()

    def _train(self) -> None:
        """Makes all steps, or those until a signal."""
        first = self._position.step
        self._group.expect_progress(COMPILING_SECONDS)
        if first == 0:
            self._writer.filters(0, towers.fetch(self._mesh, self._filters))
        else:
            self._evaluate_and_save()  # the evaluation that a signal may have ended early
            self._turns.raise_error()
            if self._turns.signal:
                return
        batches = self._turns.read_ahead(self._batches(first), self._steps_behind)
        item = batches.take()
        batch = self._place(item)
        if batches.error:  # nothing has been trained that could be saved
            raise batches.error
        if item is not None and first < self._plan.steps:
            self._show_images(self._feed.on_host(item, batch))
            self._line.begin()
        for step in range(first, self._plan.steps):
            if step == first:
                self._group.expect_progress(COMPILING_SECONDS)
            numbers, on_devices = self._place_hyperparameters(step)
            self.state, metrics = self._train_step(self.state, batch, self._constants, on_devices)
            jax.copy_to_host_async(metrics)
            self._unread.append(_UnreadStep(step + 1, numbers.rates.weights, metrics))
            batch = self._place(batches.take())  # it is copied while this step runs
            # Waiting for the step that was just dispatched would leave the devices idle.
            self._record_all_but(self._steps_behind)
            notices = self._turns.end(batches, self._take_time_to_save())
            if self._due(step + 1) or notices:
                self._record_all_but(0)
                self._evaluate_and_save()
                self._turns.raise_error()
                if self._turns.signal:
                    break

    def _show_images(self, batch: loader.Batch) -> None:
        """Writes a sheet of the first images as the net sees them, if the run has none yet."""
        config, step = self._config, self.step
        if not self._writer.lacks_sheet(step):
            return
        rows = towers.rows_of_process(self._mesh, config.optimizer.batch_size)
        deviation = config.augmentation.colour.deviation_at(self._plan.epoch(step))
        views = training_sheet.training_views(
            config, batch, self._constants, step, rows.start, deviation
        )
        pictures = training_sheet.as_pictures(config, views, np.asarray(self._constants.mean_HWC))
        names = training_sheet.class_names(batch['label'], self._splits.train.classes)
        self._writer.sheet(step, training_sheet.draw_sheet(pictures, names))

    def _place(self, item: Any) -> Any:
        return None if item is None else self._feed.place(item)

    @property
    def step(self) -> int:
        """The number of training steps that are done."""
        return self._position.step

    @property
    def signal(self) -> str:
        """The name of the signal that all processes have stopped for; '' for none."""
        return self._turns.signal

    @property
    def _filters(self) -> jax.Array:
        return self.state.params['conv1']['kernel_THWIO']

    @property
    def images_per_second(self) -> float:
        """Images per second since the start, without compilation and evaluation; 0 if unknown."""
        return self._line.speed

    def _batches(self, first_step: int) -> Iterator[Any]:
        """Chooses where the batches come from; yields what `_place` needs for each of them."""
        if first_step < self._plan.steps:
            self._feed = feeds.choose(
                self._config,
                self._mesh,
                self._splits,
                self.unreadable,
                self._train_step,
                first_step,
                self._plan,
            )
        return self._feed.batches(first_step)

    def _place_hyperparameters(self, step: int) -> tuple[Hyperparameters, jax.Array]:
        """Returns the numbers of the schedules after `step` steps, as floats and on the devices.

        They are copied to the devices only when they change, which is rare.
        """
        epoch = self._plan.epoch(step)
        numbers = Hyperparameters.at(self._config, epoch, self._position.progress)
        if self._last_hyperparameters is None or self._last_hyperparameters[0] != numbers:
            on_devices = towers.put_replicated(self._mesh, numbers.pack())
            self._last_hyperparameters = numbers, on_devices
        return self._last_hyperparameters

    def _due(self, step: int) -> bool:
        return step == self._plan.steps or not (
            step % self._plan.evaluate_every and step % self._plan.save_every
        )

    def _take_time_to_save(self) -> bool:
        """Returns whether checkpoint.every_minutes have passed, by the clock of process 0.

        If so, they begin anew, so that each call asks for a checkpoint of its own.
        """
        seconds, now = 60 * self._config.checkpoint.every_minutes, time.monotonic()
        is_time = self._group.is_first and 0 < seconds <= now - self._time_of_save
        if is_time:
            self._time_of_save = now
        return is_time

    def _record_all_but(self, number: int) -> None:
        """Waits for the metrics of all steps except the newest ones, and records them in order.

        Args:
          number: the number of newest steps whose metrics are left unread.

        Raises:
          UserError: a loss is not finite.
        """
        while len(self._unread) > number:
            self._record(*self._unread.popleft())

    def _record(self, step: int, learning_rate: float, metrics: dict[str, jax.Array]) -> None:
        """Waits for the metrics of a step, checks the loss, and logs what is due."""
        values = {name: float(np.asarray(x)) for name, x in metrics.items()}
        if not math.isfinite(values['loss']):
            raise self._diverged(f'the loss is {values["loss"]}', step)
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

    def _diverged(self, problem: str, step: int) -> UserError:
        """Returns the error for a value that is not finite, with what can be done about it."""
        rate, checkpoints = self._config.learning_rate.initial, self._checkpoints
        advice = advise(problem, step, rate, checkpoints, self._workdir)
        return Diverged(f'{problem} at step {step}', advice)

    def _evaluate_and_save(self) -> None:
        """Evaluates and saves as is due at this step; a signal ends the evaluation early."""
        self._group.expect_progress(COMPILING_SECONDS)
        step, best = self._position.step, self._checkpoints.best_error
        last = step == self._plan.steps
        self._error = math.inf
        if last or (step % self._plan.evaluate_every == 0 and self._position.evaluated < step):
            try:
                self._evaluate(self._config.views if last else 1)
            except _Interrupted:
                pass
            except Exception as error:  # such as a test image that cannot be read
                # Where the error is not that of all, the others do not come to this save.
                if self._turns.concerns_all and not isinstance(error, Diverged):
                    self._save()
                raise
        improved = self._error < (math.inf if best is None else best)
        due = last or step % self._plan.save_every == 0
        self._turns.end(save=self._take_time_to_save())
        if due or improved or self._turns.save:
            self._save()

    def _save(self) -> None:
        """Saves a checkpoint, unless the state holds values that are not finite."""
        self._group.expect_progress(SAVING_SECONDS)
        nonfinite = find_nonfinite(self.state)
        if nonfinite:
            problem = f'{nonfinite[0]} holds values that are not finite'
            if len(nonfinite) > 1:
                problem = f'{problem}, as do {len(nonfinite) - 1} more arrays,'
            raise self._diverged(problem, self.step)
        self._writer.flush()  # no checkpoint without the lines of the log before it
        error = self._error if math.isfinite(self._error) else None
        self._checkpoints.save(self.state, self._position, error)
        self._turns.mark_saved()
        self._time_of_save = time.monotonic()

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
        if not math.isfinite(results['loss']):
            raise self._diverged(f'the test loss is {results["loss"]}', step)
        self.results, self._error = results, results['top1_error']
        is_new = self._position.evaluated < step
        if is_new:
            plateau = self._config.learning_rate.plateau
            progress = self._position.progress.after_evaluation(plateau, results['top1_error'])
            self._position = dataclasses.replace(self._position, progress=progress, evaluated=step)
        kernel_THWIO = towers.fetch(self._mesh, self._filters)  # by all processes
        if is_new or not self._writer.has_evaluation(step):  # or metrics.jsonl has lost it
            self._writer.scalars(step, log.name_metrics(results, self._config.views))
            self._writer.filters(step, kernel_THWIO)
        self._line.evaluated(results)

    def _test_batches(self) -> Iterator[dict[str, jax.Array]]:
        images = self._feed.test_batches(self._config.evaluation.batch_size)
        batches, seconds = self._turns.read_ahead(images, 0), COMPILING_SECONDS
        self._turns.check_first('the first test images', batches, seconds)
        while True:
            batch = batches.take()
            self._turns.end(batches)
            self._turns.raise_error()
            if self._turns.signal:
                raise _Interrupted
            if batch is None:
                return
            self._group.expect_progress(seconds)
            yield self._feed.place_test(batch)
            seconds = 0  # the first batch has compiled the evaluation
