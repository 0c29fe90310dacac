"""Times the training step fed by images in device memory, beside the step on a constant batch.

    python benchmarks/resident.py [--batch=1024] [--dtype=float32] [--images=65536]
        [--config=ilsvrc2012] [--width=1] [--tower=1] [--data=1] [--repeats=7] [--seconds=1]
        [--trace=FOLDER] [--out=FILE.json]
    python benchmarks/resident.py --config=digits --loader --tower=2

constant: the step reads the same batch, which is on the devices, again and again.
resident: before each step, the host computes which images are in its batch, and the devices gather
    them from --images made images in their memory, as in training with loader.resident.
gather: the second row without the step.
loader: with --loader, which takes the images of --config in place of made ones: each batch is read
    and decoded by the loader.

The step is that of training, with the settings of --config; it is compiled once and used by all
rows. As in training, the host dispatches some steps ahead. The rows take turns; a round of each
lasts about --seconds. Medians of the rounds; 'ratio' is the median, round by round, of the time on
a constant batch over the time of the row.

--trace writes a profile of three steps on the constant batch to FOLDER, for TensorBoard or
Perfetto, and prints the GPU kernels that take the most time in it.

--width=0.0625 --batch=8 --images=64 tries the program in seconds on a CPU.
"""

import collections
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import Array
from jax.sharding import NamedSharding

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kernel_times
from measuring import Others, run_benchmark

from alexnet_jax.config import loading, schema
from alexnet_jax.data import augmentation, sources
from alexnet_jax.data.loading import loader
from alexnet_jax.data.loading.unreadable_images import UnreadableImages
from alexnet_jax.data.synthetic import Synthetic
from alexnet_jax.model import towers
from alexnet_jax.model.placement.mesh_table import describe_mesh
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import parse_flags
from alexnet_jax.training.batches import filling, memory_plan, resident_images
from alexnet_jax.training.batches.feeds import Feed, ResidentFeed
from alexnet_jax.training.loop import STEPS_BEHIND, STEPS_BEHIND_ON_CPU
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.step import Hyperparameters, make_train_step

_BATCH = flags.DEFINE_integer('batch', None, 'Images in a batch; by default that of --config.', 1)
_DTYPE = flags.DEFINE_enum('dtype', 'float32', schema.DTYPES, 'Dtype of activations and products.')
_IMAGES = flags.DEFINE_integer('images', 65_536, 'Images in device memory.', 1)
_CONFIG = flags.DEFINE_string('config', 'ilsvrc2012', 'A recipe, or the path of a config file.')
_WIDTH = flags.DEFINE_float('width', None, 'Multiplies the maps and units of the net.', 1e-3)
_TOWER = flags.DEFINE_integer('tower', 1, 'Devices that the towers are spread over.', 1)
_DATA = flags.DEFINE_integer('data', 1, 'Replicas that share each batch.', 1)
_LOADER = flags.DEFINE_bool('loader', False, "The images of --config, beside the loader's batches.")
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds.', 1)
_SECONDS = flags.DEFINE_float('seconds', 1.0, 'Seconds of each row in a round, about.', 0.0)
_TRACE = flags.DEFINE_string('trace', None, 'A folder for a profile of three steps.')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result, with the time of each round.')

TRACED_STEPS = 3


def make_config() -> schema.Config:
    """Returns the settings of --config, with the overrides that the flags state."""
    overrides: dict[str, Any] = {
        'mesh.tower': _TOWER.value,
        'mesh.data': _DATA.value,
        'model.dtype': _DTYPE.value,
    }
    if _BATCH.value:
        overrides |= {'optimizer.batch_size': _BATCH.value, 'evaluation.batch_size': _BATCH.value}
    if _WIDTH.value:
        overrides['model.width'] = _WIDTH.value
    return loading.load_config(_CONFIG.value, overrides)


def make_images(
    config: schema.Config, mesh: jax.sharding.Mesh, number: int
) -> resident_images.ResidentImages:
    """Makes images of noise in the memory of the devices."""
    size, sharding = config.dataset.image_size, NamedSharding(mesh, resident_images.ALL_DEVICES)
    rows = filling.rows_of_shard(number, mesh.size) * mesh.size
    shape = rows, resident_images.row_bytes(size)

    def noise() -> Array:
        """Computes each byte from its place alone, so that nothing else is in memory."""
        row, column = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, 1))
        mixed = (row * jnp.uint32(2_654_435_761)) ^ (column * jnp.uint32(2_246_822_519))
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(3_266_489_917)
        return (mixed >> 24).astype(jnp.uint8)

    def labels() -> Array:
        return jnp.arange(rows, dtype=jnp.int32) % max(2, config.dataset.classes)

    images, classes = (jax.jit(f, out_shardings=sharding)() for f in (noise, labels))
    jax.block_until_ready(images)
    return resident_images.ResidentImages(mesh, size, images, classes)


class Rows:
    """The rows of the table, which train one state.

    Args:
      config: the settings.
      mesh: the devices.
      step: the compiled training step.
      feeds: gives the batches of each row that reads any, by its name; 'resident' is one.
    """

    def __init__(
        self,
        config: schema.Config,
        mesh: jax.sharding.Mesh,
        step: Callable[..., Any],
        feeds: Mapping[str, Feed],
    ) -> None:
        on_cpu = mesh.devices.flat[0].platform == 'cpu'
        self._step, self._behind = step, STEPS_BEHIND_ON_CPU if on_cpu else STEPS_BEHIND
        self._state = place_initial_state(config, mesh)
        size, replicated = config.dataset.image_size, towers.spec(mesh, 'constants')
        grey = np.full((size, size, 3), 127.5, np.float32)
        constants = augmentation.Constants(grey, np.eye(3, dtype=np.float32))
        self._constants = towers.put(constants, NamedSharding(mesh, replicated))
        numbers = Hyperparameters.at(config, 0.0, Progress()).pack()
        self._numbers = towers.put_replicated(mesh, numbers)
        takes = {name: _take_from(feed) for name, feed in feeds.items()}
        batch = takes['resident']()
        takes = {'constant': lambda: batch, **takes}
        self.runs: dict[str, Callable[[int], Any]] = {
            name: functools.partial(self._train, take) for name, take in takes.items()
        }
        self.runs['gather'] = functools.partial(self._run, takes['resident'])

    def _train(self, take: Callable[[], Any], steps: int) -> None:
        def train() -> Any:
            self._state, metrics = self._step(self._state, take(), self._constants, self._numbers)
            return metrics

        metrics = self._run(train, steps)
        if not np.isfinite(float(metrics['loss'])):
            raise SystemExit('resident.py: the loss is not finite: choose other settings')

    def _run(self, act: Callable[[], Any], steps: int) -> Any:
        """Runs an action as far ahead of the devices as training; returns the last result."""
        results: collections.deque[Any] = collections.deque()
        for _ in range(steps):
            results.append(act())
            if len(results) > self._behind:
                jax.block_until_ready(results.popleft())
        return jax.block_until_ready(results)[-1]


def _take_from(feed: Feed) -> Callable[[], dict[str, Array]]:
    """Returns a function that places the next batch on the devices."""
    items = feed.batches(0)
    return lambda: feed.place(next(items))


def open_feeds(config: schema.Config, mesh: jax.sharding.Mesh) -> dict[str, Feed]:
    """Places images on the devices; returns what gives the batches of each row."""
    start = time.perf_counter()
    if _LOADER.value:
        splits = sources.open_splits(config.dataset)
        images = filling.fill(mesh, splits.train, loader.Reading.from_config(config))
    else:
        images = make_images(config, mesh, _IMAGES.value)
        noise = Synthetic(_IMAGES.value, config.dataset.image_size, config.dataset.classes)
        splits = sources.Splits(noise, noise, '')  # their number is all that is used
    print(f'images on the devices in {time.perf_counter() - start:.1f} s', flush=True)
    unreadable = UnreadableImages(splits.train, config.loader.skip_bad)
    feeds: dict[str, Feed] = {'resident': ResidentFeed(config, mesh, splits, unreadable, images)}
    if _LOADER.value:
        feeds['loader'] = Feed(config, mesh, splits, unreadable)
    return feeds


def compile_step(config: schema.Config, mesh: jax.sharding.Mesh) -> Any:
    """Compiles the training step, and prints how long that took and the memory that it needs."""
    start = time.perf_counter()
    step: Any = make_train_step(config, mesh)
    compiled = step.lower(*memory_plan.step_shapes(config, mesh)).compile()
    seconds, plan = time.perf_counter() - start, compiled.memory_analysis()
    print(
        f'the step was compiled in {seconds:.1f} s; it needs '
        f'{plan.argument_size_in_bytes / 1e9:.2f} GB of state and batch, and '
        f'{plan.temp_size_in_bytes / 1e9:.2f} GB beside them',
        flush=True,
    )
    return compiled


def measure(rows: Rows, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Returns the seconds of a step of each row, round by round; prints each round."""
    runs = rows.runs
    for name, run in runs.items():
        start = time.perf_counter()
        run(2)
        print(f'{name}: the first two took {time.perf_counter() - start:.1f} s', flush=True)
    start = time.perf_counter()
    runs['constant'](3)
    steps = max(2, round(3 * seconds / (time.perf_counter() - start)))
    print(f'{steps} steps of each row in a round', flush=True)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
        order = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in order:
            start = time.perf_counter()
            runs[name](steps)
            times[name].append((time.perf_counter() - start) / steps)
        shown = ', '.join(f'{name} {1000 * each[-1]:.3f} ms' for name, each in times.items())
        print(f'round {number + 1}: {shown}', flush=True)
    return times


def table(times: dict[str, list[float]], batch: int) -> str:
    """Formats the results for the terminal."""
    cells: list[tuple[str, ...]] = [('one step', 'ms', 'fastest', 'slowest', 'images/s', 'ratio')]
    for name, each in times.items():
        middle = statistics.median(each)
        pairs = zip(times['constant'], each, strict=True)
        ratio = '-' if name == 'gather' else f'{statistics.median(c / t for c, t in pairs):.4f}'
        numbers = (f'{1000 * x:.3f}' for x in (middle, min(each), max(each)))
        cells.append((name, *numbers, f'{batch / middle:,.0f}', ratio))
    return align_columns(cells)


def trace(rows: Rows, folder: str, program: str) -> None:
    """Writes a profile of steps on the constant batch, and prints the largest kernels."""
    try:
        with jax.profiler.trace(folder):
            rows.runs['constant'](TRACED_STEPS)
        print(f'the profile is in {folder}', flush=True)
        print(kernel_times.report(Path(folder), TRACED_STEPS, program), flush=True)
    except Exception as error:  # a profiler that is missing takes nothing from the other results
        print(f'no profile: {type(error).__name__}: {error}', flush=True)


def benchmark(about: dict[str, Any]) -> None:
    """Measures, prints and adds the results to `about`."""
    config = make_config()
    mesh, batch = towers.choose_mesh(config), config.optimizer.batch_size
    print(
        f'{describe_mesh(config, mesh)}; {towers.describe_arithmetic(config, mesh)}; batch {batch}',
        flush=True,
    )
    step = compile_step(config, mesh)
    rows, others = Rows(config, mesh, step, open_feeds(config, mesh)), Others()
    times = measure(rows, _REPEATS.value, _SECONDS.value)
    print(f'\n{table(times, batch)}', flush=True)
    fraction = others.fraction()
    if fraction is not None:
        print(f'other processes took {fraction:.0%} of the cores meanwhile', flush=True)
    stats = mesh.devices.flat[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use')
    if peak:
        print(f'peak memory of a device: {peak / 1e9:.2f} GB', flush=True)
    if _TRACE.value:
        trace(rows, _TRACE.value, step.as_text())
    images = None if _LOADER.value else _IMAGES.value
    about |= {'batch': batch, 'images': images, 'peak': peak, 'others': fraction, 'seconds': times}


def main(_: Sequence[str]) -> None:
    """Runs the benchmark that the flags describe."""
    logging.set_verbosity(logging.ERROR)
    cpu_devices.prepare_cpu_devices(_TOWER.value, _DATA.value)
    run_benchmark('resident.py', ('jax', 'jaxlib', 'flax', 'optax'), benchmark, _OUT.value)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
