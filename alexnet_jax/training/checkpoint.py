"""What a restart needs, kept by Orbax.

A checkpoint holds the state (parameters, velocity, step; written by Orbax as arrays with their
shardings) and the position (JSON: the schedule's memory, the running means of the log). The order
of the data and all random numbers follow from the seed and the step, so nothing else is needed for
an end that is equal bit for bit. A checkpoint may go on on another mesh.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from alexnet_jax.runtime.user_errors import UserError, first_line
from alexnet_jax.training.optimizer import Progress


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands, as far as the host knows it.

    Attributes:
      step: training steps done and noted.
      evaluated: the step of the newest evaluation.
      progress: the plateau schedule's memory.
      steps, sums: since the last line of the log, how many and the sums of their metrics.
    """

    step: int = 0
    evaluated: int = 0
    progress: Progress = dataclasses.field(default_factory=Progress)
    steps: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def after_step(self, step: int, values: dict[str, float]) -> 'Position':
        """With one more step's metrics."""
        sums = {name: self.sums.get(name, 0.0) + x for name, x in values.items()}
        return dataclasses.replace(self, step=step, steps=self.steps + 1, sums=sums)

    def take_means(self) -> tuple[dict[str, float], 'Position']:
        """The means since the last line of the log, and the position without them."""
        means = {name: x / self.steps for name, x in self.sums.items()}
        return means, dataclasses.replace(self, steps=0, sums={})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> 'Position':
        """The inverse of `dataclasses.asdict`."""
        return cls(**values | {'progress': Progress(**values['progress'])})


class Checkpoints:
    """The newest `keep` checkpoints in a folder; with None they are only read.

    Raises:
      UserError: from every method, where the disk does not take or give what it should.
    """

    def __init__(self, folder: Path, keep: int | None) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=keep is not None,  # another process may be writing one
            read_only=keep is None,
        )
        handlers = dict(state=ocp.StandardCheckpointHandler(), position=ocp.JsonCheckpointHandler())
        self._manager = ocp.CheckpointManager(
            folder.absolute(), item_handlers=handlers, options=options
        )

    def save(self, state: Any, position: Position) -> None:
        """Copies the state, then writes it in the background."""
        if position.step in self._manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            position=ocp.args.JsonSave(dataclasses.asdict(position)),
        )
        with self._explained():
            self._manager.save(position.step, args=arguments)

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def restore(self, shapes: Any) -> tuple[Any, Position] | None:
        """The newest state and position; None where there is none.

        Args:
          shapes: the state's shapes, dtypes and the shardings to place it by.
        """
        step = self.newest
        if step is None:
            return None
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes._asdict()), position=ocp.args.JsonRestore()
        )
        with self._readable(step):
            restored = self._manager.restore(step, args=arguments)
        state = type(shapes)(**restored['state'])
        return jax.block_until_ready(state), Position.from_json(restored['position'])

    def restore_params(self) -> dict[str, Any] | None:
        """The newest parameters alone, whatever their shapes, on the host; None where are none.

        For another net than the one that was saved: a nested dict of NumPy arrays.
        """
        step = self.newest
        if step is None:
            return None
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with self._readable(step):
            known = self._manager.item_metadata(step)['state'].tree
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), known
            )
            arguments = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
            restored = self._manager.restore(step, args=arguments)
        return jax.device_get(restored['state']['params'])

    def wait(self) -> None:
        """Until all is written."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends the background threads."""
        self._manager.close()

    @contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        """Turns what goes wrong while reading into one line."""
        try:
            yield
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f'checkpoint {step} in {self._folder} cannot be read: {first_line(error)}; '
                'delete that folder to go on from the one before it'
            ) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what goes wrong while writing into one line."""
        try:
            yield
        except (ValueError, OSError) as error:
            raise UserError(
                f'cannot write a checkpoint to {self._folder}: {first_line(error)}; '
                'the ones before it are intact'
            ) from error
