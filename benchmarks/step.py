"""Times a training step, and the forward pass alone, of the full net: ours beside PyTorch's.

    python benchmarks/step.py [--batch=32] [--devices=1,2] [--what=step,forward] [--repeats=7]

Ours is the net of configs/ilsvrc2012.py and the step that training runs, with both towers on one
device and with one on each of two. It reads random uint8 images of 256x256, put on the devices once
before the clock starts; each step draws crops and reflections, subtracts the mean image and draws
the dropout masks. The forward pass is that of the central crop, without dropout, up to the logits.

PyTorch is eager, in float32, on the same cores: the same layers (their number of parameters is
checked), cross entropy, backward, momentum and weight decay. It gets ready float images, 224x224
and the 3 zero pixels that our conv1 adds itself, hence no crop and no mean to do. Of what we tried,
it has the fastest: the update by `SGD(fused=True)`, by far; conv2, conv4 and conv5 as two
convolutions each, level with `groups=2` within the noise; `channels_last` made no difference.

In each round every contender does one step, in turn. The table has the medians of the rounds;
'speed' is the median of PyTorch's time over the contender's, round by round. Busy spells do not hit
all alike (PyTorch's threads wait for each other and lose more), so the share of the cores that
other processes took meanwhile is told.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import runpy
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch_net import Contender, PyTorch, check_finite

from alexnet_jax import augmentation, model, tables, towers, train
from alexnet_jax import config as settings
from alexnet_jax.errors import UserError
from alexnet_jax.resolve import resolve

ROOT = Path(__file__).resolve().parent.parent

# Floating-point operations per image: two for each multiply-add of a convolution or matrix product.
# Training does three times the forward pass's, less the gradient by the image.
GFLOP = {'step': 4.136, 'forward': 1.449}
TITLES = {'step': 'training step', 'forward': 'forward pass'}

_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_DEVICES = flags.DEFINE_list('devices', ['1', '2'], 'Over how many devices the towers are spread.')
_WHAT = flags.DEFINE_list('what', list(GFLOP), f'What to time, of {", ".join(GFLOP)}.')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds.', lower_bound=1)
_TORCH = flags.DEFINE_bool('torch', True, 'Time PyTorch too, where it is installed.')
_OUT = flags.DEFINE_string('out', None, 'File for the result as JSON, each round by itself.')

flags.register_validator(
    'devices', lambda names: names and all(n.isdigit() and int(n) for n in names), 'e.g. 1,2'
)
flags.register_validator('what', lambda names: names and set(names) <= GFLOP.keys(), 'see --help')


@dataclasses.dataclass(frozen=True)
class Result:
    """The times of one contender.

    Attributes:
      what: of GFLOP.
      contender: its name.
      seconds: one for each round.
      speed: in units of PyTorch's; None where PyTorch was not timed.
    """

    what: str
    contender: str
    seconds: list[float]
    speed: float | None

    def rates(self, batch: int) -> dict[str, float]:
        """What follows from the median."""
        images = batch / statistics.median(self.seconds)
        return {'images_per_second': images, 'gflop_per_second': images * GFLOP[self.what]}


def make_config(devices: int, batch: int) -> settings.Config:
    """The full net's settings, with its towers on so many devices."""
    raw = runpy.run_path(str(ROOT / 'configs' / 'ilsvrc2012.py'))['get_config']()
    raw.mesh.tower, raw.mesh.data = devices, 1
    raw.optimizer.batch_size = raw.evaluation.batch_size = batch
    return resolve(raw.to_dict())


class Ours:
    """The net on the devices of a mesh, with a batch of noise."""

    def __init__(self, config: settings.Config) -> None:
        self._config, self._mesh = config, towers.choose_mesh(config)
        count, size = config.optimizer.batch_size, config.dataset.image_size
        rng = np.random.default_rng(0)
        images = rng.integers(256, size=(count, size, size, 3), dtype=np.uint8)
        labels = rng.integers(config.dataset.classes, size=count, dtype=np.int32)
        self._batch = towers.put_batch(self._mesh, {'image': images, 'label': labels})
        everywhere = towers.shardings(self._mesh, towers.spec(self._mesh, 'constants'))
        grey = np.full((size, size, 3), 127.5, np.float32)
        known = augmentation.Constants(grey, np.eye(3, dtype=np.float32))
        self._known = jax.device_put(known, everywhere)

    def step(self) -> Contender:
        """The step of `train`, which changes its own state."""
        take = train.make_train_step(self._config, self._mesh)
        state = train.place_initial_state(self._config, self._mesh)
        rate = jnp.float32(self._config.learning_rate.initial)
        deviation = jnp.float32(self._config.augmentation.colour.deviation)

        def run() -> None:
            nonlocal state
            state, metrics = take(state, self._batch, self._known, rate, deviation)
            jax.block_until_ready((state, metrics))
            check_finite(float(metrics['loss']))

        return run

    def forward(self) -> Contender:
        """The logits of the central crops, as `evaluate` computes them."""
        config, mesh, graph = self._config, self._mesh, model.graph(self._config)
        params = train.place_initial_state(config, mesh).params
        size, crop = config.dataset.image_size, config.augmentation.crop
        view = augmentation.test_views(size, crop, mirror=False)[0]
        images, everywhere = towers.spec(mesh, 'images'), towers.spec(mesh, 'constants')

        @jax.jit
        @functools.partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(towers.specs(mesh, params), images, everywhere, everywhere, everywhere),
            out_specs=images,
        )
        def logits(params: Any, images_BHWC: Any, mean: Any, top: Any, left: Any) -> Any:
            x = augmentation.take_view(images_BHWC, mean, crop, top, left, jnp.bool(False))
            return model.apply(graph, params, x)

        top, left = jnp.int32(view.top), jnp.int32(view.left)
        return lambda: jax.block_until_ready(
            logits(params, self._batch['image'], self._known.mean_HWC, top, left)
        )


class Others:
    """How busy other processes keep the cores, where the system tells it (Linux)."""

    def __init__(self) -> None:
        self._start = self._read()

    def share(self) -> float | None:
        """Of all cores' time since the start; None where it is not known."""
        if self._start is None or (now := self._read()) is None:
            return None
        total, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, busy - own) / total

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds: of all cores, of those the busy ones, of those our own."""
        file = Path('/proc/stat')
        if not file.exists():
            return None
        ticks = [int(field) for field in file.read_text().splitlines()[0].split()[1:9]]
        total, idle = sum(ticks), sum(ticks[3:5])  # idle, and idle with a disk to wait for
        per_second = os.sysconf('SC_CLK_TCK')
        return total / per_second, (total - idle) / per_second, time.process_time()


def measure(contenders: Mapping[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one that is not counted (compilation)."""
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(what: str, seconds: Mapping[str, list[float]]) -> list[Result]:
    """Each contender's speed in units of PyTorch's, round by round."""
    reference = seconds.get('PyTorch')

    def speed(own: list[float]) -> float | None:
        if reference is None:
            return None
        return statistics.median(r / s for r, s in zip(reference, own, strict=True))

    return [Result(what, name, own, speed(own)) for name, own in seconds.items()]


def table(what: str, results: Sequence[Result], batch: int) -> str:
    """What a person reads."""
    header = (TITLES[what], 'ms', 'fastest', 'slowest', 'images/s', 'GFLOP/s', 'speed')
    rows: list[tuple[str, ...]] = [header]
    for result in results:
        times, rates = result.seconds, result.rates(batch)
        milliseconds = (statistics.median(times), min(times), max(times))
        rows.append(
            (
                result.contender,
                *(f'{1000 * s:.0f}' for s in milliseconds),
                f'{rates["images_per_second"]:.1f}',
                f'{rates["gflop_per_second"]:.1f}',
                '-' if result.speed is None else f'{result.speed:.2f}',
            )
        )
    return tables.aligned(rows)


def circumstances(with_torch: bool) -> dict[str, Any]:
    """Under what the result was measured."""
    packages = ('jax', 'jaxlib', 'flax', 'optax', *(['torch'] if with_torch else []))
    return {
        'command': shlex.join(['python', 'benchmarks/step.py', *sys.argv[1:]]),
        'date': datetime.date.today().isoformat(),
        'device': _processor() if _on_cpu() else jax.devices()[0].device_kind,
        'cores': os.cpu_count(),
        'versions': {'python': platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
    }


def _on_cpu() -> bool:
    return jax.devices()[0].platform == 'cpu'


def _processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def _without_torch() -> str:
    """Why PyTorch is not timed; '' if it is."""
    if not _TORCH.value:
        return 'PyTorch is left out (--torch=false)'
    if importlib.util.find_spec('torch') is None:
        return 'PyTorch is not installed: pip install torch, and its row comes too'
    return '' if _on_cpu() else 'PyTorch is timed on the CPU only, where JAX runs here on another'


def benchmark(devices: Sequence[int], batch: int, repeats: int) -> None:
    """Times, prints, and writes what was asked for."""
    configs = [make_config(n, batch) for n in devices]
    towers.prepare_cpu_devices(max((c.mesh for c in configs), key=lambda mesh: mesh.tower))
    missing = _without_torch()
    about = circumstances(not missing)
    print('{command}\n{date}, {device}, {cores} cores'.format(**about))
    print(', '.join(f'{name} {version}' for name, version in about['versions'].items()))
    print(f'float32, batch {batch}, {repeats} rounds', flush=True)
    nets: dict[str, Ours | PyTorch] = {
        f'alexnet_jax, {n} device{"s" if n > 1 else ""}': Ours(config)
        for n, config in zip(devices, configs, strict=True)
    }
    if not missing:
        nets['PyTorch'] = PyTorch(configs[0])
    results, about['others'] = [], {}
    for what in _WHAT.value:
        contenders = {name: getattr(net, what)() for name, net in nets.items()}
        others = Others()
        these = compare(what, measure(contenders, repeats))
        about['others'][what] = share = others.share()
        print(f'\n{table(what, these, batch)}')
        if share is not None:
            print(f'other processes took {share:.0%} of the cores meanwhile', flush=True)
        results += these
    if missing:
        print(f'\n{missing}')
    if _OUT.value:
        rows = [dataclasses.asdict(r) | r.rates(batch) for r in results]
        about |= {'batch': batch, 'repeats': repeats, 'results': rows}
        file = Path(_OUT.value)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(about, indent=2) + '\n')


def main(_: Sequence[str]) -> None:
    """Reads the flags."""
    logging.set_verbosity(logging.ERROR)
    try:
        benchmark([int(n) for n in _DEVICES.value], _BATCH.value, _REPEATS.value)
    except UserError as error:
        sys.exit(f'step.py: {error}')


if __name__ == '__main__':
    app.run(main)
