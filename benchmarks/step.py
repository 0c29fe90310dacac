"""Times a training step of the full net, beside PyTorch's.

    python benchmarks/step.py [--batch=32] [--devices=1,2] [--what=step,gradient,forward]
        [--dtype=float32,bfloat16] [--forms=unrolled,vmapped,grouped] [--repeats=7] [--out=FILE]

Ours is the net of configs/ilsvrc2012.py and the step that training runs, with both towers on one
device and with one on each of two. It reads random uint8 images of 256x256, put on the devices once
before the clock starts; each step draws crops, reflections and colour noise, subtracts the mean
image and draws the dropout masks. 'gradient' is forward and backward of the net alone, 'forward'
the logits without dropout, both of ready central crops.

PyTorch has the same layers (their number of parameters is checked), cross entropy, backward,
momentum and weight decay, on the same cores or the same GPU; in bfloat16 by autocast. It gets ready
float images, 224x224 and the 3 zero pixels that our conv1 adds itself, hence no crop and no mean to
do. It has the fastest of what we tried: the update by `SGD(fused=True)`, by far; conv2, conv4 and
conv5 as two convolutions each, level with `groups=2` within the noise. --torch names its rows:
eager, channels_last, compiled (torch.compile), compiled_channels_last; none leaves it out.

In each round every contender does one step, in turn. The table has the medians of the rounds;
'speed' is the median of eager PyTorch's time over the contender's, round by round. 'bound' is the
share of the least time that counted operations and bytes allow on this device (roofline.py). Busy
spells do not hit all alike (PyTorch's threads wait for each other and lose more), so the share of
the cores that other processes took meanwhile is told. Both programs run in this process, in which
freed memory is kept for the next step as in training (model/towers.py); PyTorch gains from that
too.
"""

import dataclasses
import importlib.util
import runpy
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import roofline
from measuring import Contender, Others, circumstances, heading, measure, write
from torch_net import VARIANTS, PyTorch, check_finite
from tower_forms import FORMS, form

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, dropout, towers
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.optimizer import Rates
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.step import make_train_step

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    'step': 'training step',
    'gradient': 'forward and backward',
    'forward': 'forward pass',
}

_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_DEVICES = flags.DEFINE_list('devices', ['1', '2'], 'Over how many devices the towers are spread.')
_DTYPE = flags.DEFINE_list('dtype', ['float32'], f'Of {", ".join(schema.DTYPES)}.')
_FORMS = flags.DEFINE_list(
    'forms', ['unrolled'], f'How a device runs its towers: {", ".join(FORMS)}.'
)
_WHAT = flags.DEFINE_list('what', ['step', 'forward'], f'What to time: {", ".join(TITLES)}.')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds.', lower_bound=1)
_TORCH = flags.DEFINE_list('torch', ['eager'], f'PyTorch too: {", ".join(VARIANTS)}, or none.')
_OUT = flags.DEFINE_string('out', None, 'File for the result as JSON, each round by itself.')

flags.register_validator(
    'devices', lambda names: names and all(n.isdigit() and int(n) for n in names), 'e.g. 1,2'
)
for _flag, _known in (
    (_WHAT, TITLES),
    (_DTYPE, schema.DTYPES),
    (_FORMS, FORMS),
    (_TORCH, (*VARIANTS, 'none')),
):
    flags.register_validator(
        _flag.name,
        lambda names, known=frozenset(_known): names and set(names) <= known,
        f'of {", ".join(_known)}',
    )


@dataclasses.dataclass(frozen=True)
class Result:
    """The times of one contender.

    Attributes:
      what: of TITLES.
      contender: its name.
      seconds: one for each round.
      speed: in units of eager PyTorch's; None where that was not timed.
      bound: the least time over the median.
    """

    what: str
    contender: str
    seconds: list[float]
    speed: float | None
    bound: float

    def rates(self, batch: int) -> dict[str, float]:
        """What follows from the median."""
        images = batch / statistics.median(self.seconds)
        return {'images_per_second': images, 'gflop_per_second': images * roofline.GFLOP[self.what]}


def make_config(devices: int, batch: int, dtype: str = 'float32') -> schema.Config:
    """The full net's settings, with its towers on so many devices."""
    raw = runpy.run_path(str(ROOT / 'configs' / 'ilsvrc2012.py'))['get_config']()
    raw.mesh.tower, raw.mesh.data = devices, 1
    raw.model.dtype = dtype
    raw.optimizer.batch_size = raw.evaluation.batch_size = batch
    return resolve(raw.to_dict())


class Ours:
    """The net on the devices of a mesh, with a batch of noise."""

    def __init__(self, config: schema.Config) -> None:
        self._config, self._mesh = config, towers.choose_mesh(config)
        self._graph = alexnet.graph(config)
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
        take = make_train_step(self._config, self._mesh)
        state = place_initial_state(self._config, self._mesh)
        rate = Rates.equal(self._config.learning_rate.initial)
        deviation = jnp.float32(self._config.augmentation.colour.deviation)

        def run() -> None:
            nonlocal state
            state, metrics = take(state, self._batch, self._known, rate, deviation)
            jax.block_until_ready((state, metrics))
            check_finite(float(metrics['loss']))

        return run

    def forward(self) -> Contender:
        """The logits of the central crops, without dropout."""
        run = self._on_crops(lambda params, x, labels, key: self._logits(params, x, None))
        return lambda: jax.block_until_ready(run())

    def gradient(self) -> Contender:
        """The loss of the central crops, with dropout, by every parameter."""

        def of(params: Any, x: Array, labels: Array, key: Array) -> Any:
            masks = dropout.Masks(key, self._config.optimizer.batch_size)

            def loss(params: Any) -> Array:
                logits_BK = self._logits(params, x, masks)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels)
                return losses.sum() / self._config.optimizer.batch_size

            return jax.grad(loss)(params)

        run = self._on_crops(of, gives_params=True)
        return lambda: jax.block_until_ready(run())

    def memory(self) -> float | None:
        """Bytes: the most that the step had on one device; None where the device does not tell."""
        stats = self._mesh.devices.flat[0].memory_stats()
        return stats and stats.get('peak_bytes_in_use')

    def planned_memory(self) -> tuple[int, int]:
        """Bytes on one device by the compiler: of the state and the batch, and beside them."""
        take: Any = make_train_step(self._config, self._mesh)
        state = state_shapes(self._config, self._mesh)
        number = jax.ShapeDtypeStruct((), jnp.float32)
        rates = Rates(*[number] * 4)
        plan = take.lower(state, self._batch, self._known, rates, number).compile()
        analysis = plan.memory_analysis()
        return analysis.argument_size_in_bytes, analysis.temp_size_in_bytes

    def _logits(self, params: Any, x: Array, masks: Any) -> Array:
        return alexnet.apply(self._graph, params, x, masks)

    def _on_crops(self, of: Callable[..., Any], gives_params: bool = False) -> Callable[[], Any]:
        config, mesh = self._config, self._mesh
        params = place_initial_state(config, mesh).params
        count, crop = config.optimizer.batch_size, config.augmentation.crop
        noise = np.random.default_rng(1).normal(0, 60, (count, crop, crop, 3)).astype(np.float32)
        x = towers.put_batch(mesh, {'x': noise})['x']
        images, everywhere = towers.spec(mesh, 'images'), towers.spec(mesh, 'constants')
        specs = alexnet.partitions(config, mesh)
        function = jax.jit(
            jax.shard_map(
                of,
                mesh=mesh,
                in_specs=(specs, images, images, everywhere),
                out_specs=specs if gives_params else images,
            )
        )
        return lambda: function(params, x, self._batch['label'], jax.random.key(0))


def compare(
    what: str, seconds: Mapping[str, list[float]], least: Mapping[str, float]
) -> list[Result]:
    """Each contender's speed in units of eager PyTorch's in its dtype, round by round."""

    def speed(name: str) -> float | None:
        reference = seconds.get(f'PyTorch eager, {name.rpartition(", ")[2]}')
        if reference is None:
            return None
        return statistics.median(r / s for r, s in zip(reference, seconds[name], strict=True))

    return [
        Result(what, name, own, speed(name), least[name] / statistics.median(own))
        for name, own in seconds.items()
    ]


def table(what: str, results: Sequence[Result], batch: int) -> str:
    """What a person reads."""
    header = (TITLES[what], 'ms', 'fastest', 'slowest', 'images/s', 'GFLOP/s', 'speed', 'bound')
    rows: list[tuple[str, ...]] = [header]
    for result in results:
        times, rates = result.seconds, result.rates(batch)
        milliseconds = (statistics.median(times), min(times), max(times))
        rows.append(
            (
                result.contender,
                *(f'{1000 * s:.4g}' for s in milliseconds),
                f'{rates["images_per_second"]:.1f}',
                f'{rates["gflop_per_second"]:.1f}',
                '-' if result.speed is None else f'{result.speed:.2f}',
                f'{result.bound:.0%}',
            )
        )
    return align_columns(rows)


def contenders(batch: int) -> Iterator[tuple[str, schema.Config, Any, str]]:
    """Name, settings, net, and the form of the towers, of each."""
    for dtype in _DTYPE.value:
        for n in map(int, _DEVICES.value):
            config = make_config(n, batch, dtype)
            for name in _FORMS.value if n == 1 else ['unrolled']:
                where = f'{n} device{"s" if n > 1 else ""}'
                said = where if name == 'unrolled' else f'{where} {name}'
                yield f'alexnet_jax {said}, {dtype}', config, Ours(config), name
        if importlib.util.find_spec('torch'):
            for variant in _TORCH.value:
                if variant != 'none':
                    config = make_config(1, batch, dtype)
                    name = f'PyTorch {variant.replace("_", " ")}, {dtype}'
                    yield name, config, PyTorch(config, variant), 'unrolled'


def benchmark(batch: int, repeats: int) -> None:
    """Times, prints, and writes what was asked for."""
    largest = make_config(max(map(int, _DEVICES.value)), batch)
    cpu_devices.prepare_cpu_devices(largest.mesh.tower, largest.mesh.data)
    with_torch = _TORCH.value != ['none'] and importlib.util.find_spec('torch') is not None
    packages = ['jax', 'jaxlib', 'flax', 'optax', *(['torch'] if with_torch else [])]
    about = circumstances(packages)
    print(heading(about))
    peaks = {dtype: roofline.measure_peaks(dtype) for dtype in _DTYPE.value}
    for dtype, peak in peaks.items():
        print(
            f'{dtype}: a large matrix product runs at {peak.flops / 1e9:,.0f} GFLOP/s, copying at '
            f'{peak.bandwidth / 1e9:,.1f} GB/s'
        )
    print(f'batch {batch}, {repeats} rounds', flush=True)
    nets = list(contenders(batch))
    about |= {'batch': batch, 'repeats': repeats, 'others': {}, 'results': [], 'memory': {}}
    about['peaks'] = {dtype: dataclasses.asdict(peak) for dtype, peak in peaks.items()}
    for what in _WHAT.value:
        least = {
            name: roofline.bound(config, what, batch, peaks[config.model.dtype])
            for name, config, *_ in nets
        }
        runs = {}
        for name, _, net, towers_form in nets:
            with form(towers_form):
                runs[name] = getattr(net, what)()
                runs[name]()  # compiles, in this form
        others = Others()
        these = compare(what, measure(runs, repeats), least)
        about['others'][what] = share = others.share()
        print(f'\n{table(what, these, batch)}')
        if share is not None:
            print(f'other processes took {share:.0%} of the cores meanwhile', flush=True)
        about['results'] += [dataclasses.asdict(r) | r.rates(batch) for r in these]
        del runs
    about['memory'] = dict(memory(nets))
    if importlib.util.find_spec('torch') is None:
        print('\nPyTorch is not installed: pip install torch, and its rows come too')
    if _OUT.value:
        write(_OUT.value, about)


def memory(nets: Sequence[tuple[str, schema.Config, Any, str]]) -> Iterator[tuple[str, Any]]:
    """Prints and gives what the step needs on one device, of ours."""
    rows: list[tuple[str, ...]] = [
        ('memory of the step, GB a device', 'state and batch', 'beside them', 'peak so far')
    ]
    for name, _, net, towers_form in nets:
        if not isinstance(net, Ours):
            continue
        with form(towers_form):
            held, beside = net.planned_memory()
        peak = net.memory()
        yield name, {'held': held, 'beside': beside, 'peak': peak}
        rows.append((name, *('-' if x is None else f'{x / 1e9:.2f}' for x in (held, beside, peak))))
    print(f'\n{align_columns(rows)}')


def main(_: Sequence[str]) -> None:
    """Reads the flags."""
    logging.set_verbosity(logging.ERROR)
    try:
        benchmark(_BATCH.value, _REPEATS.value)
    except UserError as error:
        sys.exit(f'step.py: {error}')


if __name__ == '__main__':
    app.run(main)
