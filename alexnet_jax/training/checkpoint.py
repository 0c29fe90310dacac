"""Checkpoints of a run, written and read by Orbax.

A checkpoint holds the state (parameters, velocity and step, as arrays with their shardings) and the
position (JSON: the memory of the learning-rate schedule, and the running means of the log). The
order of the data and all random numbers follow from the seed and the step, so nothing else is
needed for a resumed run to end with the same bits as an uninterrupted one. A run may be resumed on
another mesh.
"""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from alexnet_jax.model.parameters import shapes_by_name
from alexnet_jax.runtime.user_errors import UserError, first_line
from alexnet_jax.training.optimizer import Progress


@dataclasses.dataclass(frozen=True)
class Position:
    """The part of a run's progress that is on the host.

    Attributes:
      step: training steps that are done and whose metrics have been added.
      evaluated: the step of the newest evaluation.
      progress: the memory of the plateau schedule.
      steps: the steps since the last line of the log.
      sums: the sums of the metrics of these steps, by name.
    """

    step: int = 0
    evaluated: int = 0
    progress: Progress = dataclasses.field(default_factory=Progress)
    steps: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def after_step(self, step: int, values: dict[str, float]) -> 'Position':
        """Returns the position after one more step with these metrics."""
        sums = {name: self.sums.get(name, 0.0) + x for name, x in values.items()}
        return dataclasses.replace(self, step=step, steps=self.steps + 1, sums=sums)

    def take_means(self) -> tuple[dict[str, float], 'Position']:
        """Returns the means since the last line of the log, and the position without them."""
        means = {name: x / self.steps for name, x in self.sums.items()}
        return means, dataclasses.replace(self, steps=0, sums={})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> 'Position':
        """Converts the result of `dataclasses.asdict` back to a position."""
        return cls(**values | {'progress': Progress(**values['progress'])})


class Checkpoints:
    """The newest checkpoints in a folder. Leaving its `with` block, or `close`, ends its threads.

    Args:
      folder: the folder of all checkpoints, with one folder for each step.
      keep: how many of the newest checkpoints are kept; None opens the folder for reading only.

    Raises:
      UserError: from every method, where a checkpoint cannot be written or read.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        self._folder = folder
        handlers = dict(state=ocp.StandardCheckpointHandler(), position=ocp.JsonCheckpointHandler())
        with _no_warnings():
            self._manager = ocp.CheckpointManager(
                folder.absolute(), item_handlers=handlers, options=_manager_options(keep)
            )

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, state: Any, position: Position) -> None:
        """Copies the state, and writes it in the background; skips a step that is already saved."""
        if position.step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            position=ocp.args.JsonSave(dataclasses.asdict(position)),
        )
        with self._explain_write_errors():
            self._manager.save(position.step, args=arguments)

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None where there is no checkpoint."""
        return self._manager.latest_step()

    def restore(self, shapes: Any) -> tuple[Any, Position] | None:
        """Restores the newest state and position.

        Args:
          shapes: the shapes, dtypes and shardings of the state.

        Returns:
          The state on the devices, and the position; None where there is no checkpoint.
        """
        step = self.newest
        if step is None:
            return None
        self._check_shapes(step, shapes.params)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes._asdict()), position=ocp.args.JsonRestore()
        )
        with self._explain_read_errors(step):
            restored = self._manager.restore(step, args=arguments)
        state = type(shapes)(**restored['state'])
        return jax.block_until_ready(state), Position.from_json(restored['position'])

    def restore_params(self) -> dict[str, Any] | None:
        """Restores the newest parameters alone, whatever their shapes are.

        This is for nets that differ from the one that was saved.

        Returns:
          A nested dict of NumPy arrays; None where there is no checkpoint.
        """
        step = self.newest
        if step is None:
            return None
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with self._explain_read_errors(step):
            metadata = self._manager.item_metadata(step)['state'].tree
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), metadata
            )
            arguments = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
            restored = self._manager.restore(step, args=arguments)
        return jax.device_get(restored['state']['params'])

    def _check_shapes(self, step: int, params: Any) -> None:
        """Checks the shapes of the parameters, which Orbax does only after it has begun to read."""
        with self._explain_read_errors(step):
            stored = shapes_by_name(self._manager.item_metadata(step)['state'].tree['params'])
        expected = shapes_by_name(params)
        for name in sorted(stored.keys() | expected.keys()):
            if stored.get(name) != expected.get(name):
                raise UserError(
                    f'checkpoint {step} in {self._folder} is of another net: {name} has the shape '
                    f'{stored.get(name)}, not {expected.get(name)}'
                )

    def wait(self) -> None:
        """Waits for pending writes."""
        with self._explain_write_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends the background threads."""
        self._manager.close()

    @contextmanager
    def _explain_read_errors(self, step: int) -> Iterator[None]:
        """Raises what goes wrong while reading as a UserError."""
        try:
            yield
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f'checkpoint {step} in {self._folder} cannot be read: {first_line(error)}; if the '
                f'folder {self._folder / str(step)} is moved elsewhere, the checkpoint before it '
                'is used'
            ) from error

    @contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        """Raises what goes wrong while writing as a UserError."""
        try:
            yield
        except (ValueError, OSError) as error:
            raise UserError(
                f'cannot write a checkpoint to {self._folder}: {first_line(error)}; '
                'the checkpoints before it are intact'
            ) from error


def _manager_options(keep: int | None) -> ocp.CheckpointManagerOptions:
    if keep is None:
        # It also leaves temporary folders alone: another process may be writing a checkpoint.
        return ocp.CheckpointManagerOptions(read_only=True)
    return ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
    )


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silences absl's warnings: Orbax warns about every option that a read-only manager ignores."""
    logger, is_error = logging.getLogger('absl'), lambda record: record.levelno > logging.WARNING
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)
