"""Times what the training loop itself costs at each step, with a net that computes nothing.

    python benchmarks/loop.py [--steps=2000] [--batch=128] [--devices=1] [--log=100] [--repeats=7]
        [--out=FILE.json]

The loop is that of training, with the recipe of configs/ilsvrc2012.py: its schedules, its log with
a line every --log steps, its progress line (which is discarded), its checks for signals and for
what is due. Each row adds a part of a real step:

loop: the step is a Python function that returns at once; the same batch stays on the device.
and dispatch: the step is a compiled program with the arguments and results of the real one (state,
    batch, constants, hyperparameters, metrics; it reuses the memory of the state) that computes
    nothing; its metrics are copied to the host.
and copy: the images of each batch, 72x72 pixels, are copied from the host's memory.
and loader: the batches come from the loader, which makes synthetic images in its threads.

No row contains the net, decoding, evaluations, checkpoints, compilation or the first steps. On a
GPU, the copies of batches and metrics take other times; the first row is the same.

'ms' is the time per step by the clock, 'main thread' the CPU time of the thread that runs the loop,
'process' that of all threads. The table has the medians of the rounds; in each round every
contender does --steps steps, in turn. Where other processes are running, compare the CPU times.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import Others, run_benchmark

from alexnet_jax.config import loading, schema
from alexnet_jax.config.durations import Durations
from alexnet_jax.data import sources
from alexnet_jax.model import towers
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import parse_flags
from alexnet_jax.training.loop import Loop
from alexnet_jax.training.state import State, partitions
from alexnet_jax.training.workdir import Workdir

_STEPS = flags.DEFINE_integer('steps', 2000, 'Steps of each contender in a round.', 1)
_BATCH = flags.DEFINE_integer('batch', 128, 'Images in a batch.', 1)
_DEVICES = flags.DEFINE_integer('devices', 1, 'Devices to spread the towers over.', 1)
_LOG = flags.DEFINE_integer('log', 100, 'Steps between two lines of the log.', 1)
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds.', 1)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result, with the time of each round.')

FIRST_STEPS = 100  # before the clock starts
COLUMNS = ('ms', 'main thread', 'process')
METRICS = {'loss': 1.0, 'top1_error': 0.5}


@dataclasses.dataclass
class Clock:
    """Measures the time between two steps of a run.

    Attributes:
      steps: steps that are measured.
      times: readings at the first and after the last one: by the clock, of the CPU in the main
        thread and of the CPU in all threads, seconds.
    """

    steps: int
    times: list[tuple[float, float, float]] = dataclasses.field(default_factory=list)
    _calls: int = 0

    def tick(self) -> None:
        """Reads the clocks at the first and after the last measured step; called at each step."""
        if self._calls in (FIRST_STEPS, FIRST_STEPS + self.steps):
            self.times.append((time.perf_counter(), time.thread_time(), time.process_time()))
        self._calls += 1

    def milliseconds(self) -> dict[str, float]:
        """Returns milliseconds per step by the name of the column."""
        start, end = self.times
        spent = (1000 * (b - a) / self.steps for a, b in zip(start, end, strict=True))
        return dict(zip(COLUMNS, spent, strict=True))


class BareLoop(Loop):
    """The training loop with another step and other batches, without evaluation and checkpoints.

    Args:
      step: replaces the training step; it has the same arguments and results.
      batches: the batches on the devices; None for those of the loader.
      arguments: the arguments of `Loop`.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        batches: Iterator[dict[str, Array]] | None,
        *arguments: Any,
    ) -> None:
        super().__init__(*arguments)
        self._train_step, self._constant_batches = step, batches
        self._evaluation = lambda *_: {**METRICS, 'top5_error': 0.1, 'images': 1.0}

    def _batches(self, first_step: int) -> Iterator[Any]:
        return self._constant_batches or super()._batches(first_step)

    def _place(self, item: Any) -> Any:
        return item if self._constant_batches else super()._place(item)

    def _save(self) -> None:
        """Saves nothing."""


def make_config(batch: int, devices: int, log: int) -> schema.Config:
    """Returns the settings of the full net's recipe, for a narrow net and small images."""
    return loading.load_config(
        'ilsvrc2012',
        model__width=0.03125,
        mesh__tower=devices,
        mesh__data=1,
        optimizer__batch_size=batch,
        log__every_steps=log,
        dataset__name='synthetic',
        dataset__image_size=72,
        augmentation__crop=64,
        augmentation__positions=0,
        augmentation__mean='colour',  # so that no image is read before the first step
        augmentation__constants='2012',
    )


def compile_nothing(config: schema.Config, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """Compiles a step that takes and returns what the training step does, and computes nothing."""
    specs, images = partitions(config, mesh), towers.spec(mesh, 'images')
    everywhere = towers.spec(mesh, 'metrics')

    def step(state: State, batch: Any, constants: Any, numbers: Array) -> tuple[State, Any]:
        del batch, constants, numbers
        metrics = {name: jnp.float32(x) for name, x in METRICS.items()}
        return state._replace(step=state.step + 1), metrics

    in_specs, out_specs = (specs, images, everywhere, everywhere), (specs, everywhere)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    return jax.jit(sharded, donate_argnums=0, keep_unused=True)


def return_nothing(config: schema.Config, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """Returns a step that returns its state and the same metrics each time."""
    del config
    everywhere = towers.shardings(mesh, towers.spec(mesh, 'metrics'))
    metrics = jax.device_put({name: np.float32(x) for name, x in METRICS.items()}, everywhere)
    return lambda state, *_: (state, metrics)


def run(
    config: schema.Config,
    mesh: jax.sharding.Mesh,
    step: Callable[..., Any],
    make_batches: Callable[[], Iterator[dict[str, Array]] | None],
    steps: int,
) -> dict[str, float]:
    """Trains in a new folder, and returns milliseconds per step by the name of the column."""
    clock = Clock(steps)
    total = FIRST_STEPS + steps + 1
    plan = Durations(total * config.optimizer.batch_size, config.optimizer.batch_size, *[total] * 3)

    def timed(state: State, *arguments: Any) -> Any:
        clock.tick()
        return step(state, *arguments)

    splits = sources.open_splits(config.dataset)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        Workdir(Path(folder) / 'run').claim(config, mesh, splits.identity()) as workdir,
        StopSignal() as stop,
    ):
        BareLoop(timed, make_batches(), config, mesh, splits, plan, workdir, stop).run()
    return clock.milliseconds()


def contenders(
    config: schema.Config, mesh: jax.sharding.Mesh, steps: int
) -> dict[str, Callable[[], dict[str, float]]]:
    """Returns a function for each row that does the steps and returns milliseconds per step."""
    count, size = config.optimizer.batch_size, config.dataset.image_size
    batch = {
        'image': np.random.default_rng(0).integers(
            256, size=(count, size, size, 3), dtype=np.uint8
        ),
        'label': np.zeros(count, np.int32),
    }
    placed = towers.put_batch(mesh, batch)
    function, program = return_nothing(config, mesh), compile_nothing(config, mesh)

    def copies() -> Iterator[dict[str, Array]]:
        return (towers.put_batch(mesh, batch) for _ in itertools.repeat(None))

    def stays() -> Iterator[dict[str, Array]]:
        return itertools.repeat(placed)

    kinds: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
        'loop': (function, stays),
        'and dispatch': (program, stays),
        'and copy': (program, copies),
        'and loader': (program, lambda: None),
    }
    return {
        name: functools.partial(run, config, mesh, step, make, steps)
        for name, (step, make) in kinds.items()
    }


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Formats the medians of all rounds for the terminal."""
    rows: list[tuple[str, ...]] = [('one step', *COLUMNS, 'fastest', 'slowest')]
    for name, rounds in results.items():
        values = [statistics.median(each[column] for each in rounds) for column in COLUMNS]
        times = [each['ms'] for each in rounds]
        rows.append((name, *(f'{x:.3f}' for x in (*values, min(times), max(times)))))
    return align_columns(rows)


def benchmark(about: dict[str, Any]) -> None:
    """Measures, prints and adds the results to `about`."""
    config = make_config(_BATCH.value, _DEVICES.value, _LOG.value)
    mesh = towers.choose_mesh(config)
    print(f'batch {_BATCH.value}, {_REPEATS.value} rounds of {_STEPS.value} steps', flush=True)
    runs = contenders(config, mesh, _STEPS.value)
    others = Others()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(_REPEATS.value):
        for name, measure in runs.items():
            results[name].append(measure())
    print(f'\n{table(results)}')
    fraction = others.fraction()
    if fraction is not None:
        print(f'other processes took {fraction:.0%} of the cores meanwhile')
    about |= {'batch': _BATCH.value, 'steps': _STEPS.value, 'log_every_steps': _LOG.value}
    about |= {'devices': _DEVICES.value, 'others': fraction, 'results': results}


def main(_: Sequence[str]) -> None:
    """Runs the benchmark that the flags describe."""
    logging.set_verbosity(logging.ERROR)
    cpu_devices.prepare_cpu_devices(_DEVICES.value)
    run_benchmark('loop.py', ('jax', 'jaxlib', 'numpy', 'grain'), benchmark, _OUT.value)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
