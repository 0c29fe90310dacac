"""Times a training step of the full net, beside PyTorch's.

    python benchmarks/step.py [--batch=32] [--devices=1,2] [--what=step,gradient,forward]
        [--dtype=float32,bfloat16] [--precision=default,highest] [--deterministic]
        [--forms=unrolled,vmapped,grouped] [--repeats=7] [--out=FILE]

Ours is the net of configs/ilsvrc2012.py and the step that training runs, with both towers on one
device and with one on each of two. It reads random uint8 images of 256x256, which are put on the
devices once, before the clock starts; each step draws crops, horizontal flips and colour noise,
subtracts the mean image and draws the dropout masks. 'gradient' is forward and backward of the net
alone, 'forward' computes the logits without dropout, both from central crops that are ready.

PyTorch has the same layers (their number of parameters is checked), cross entropy, backward,
momentum and weight decay, on the same cores or the same GPU; in bfloat16 by autocast. It reads
float images that are ready, 224x224 and the 3 zero pixels that our conv1 adds itself, hence it
neither crops nor subtracts a mean. It uses the fastest of what we tried: the update by
`SGD(fused=True)`, by far; conv2, conv4 and conv5 as two convolutions each, which takes as long as
`groups=2` within the noise. --torch names its rows: eager, channels_last, compiled (torch.compile),
compiled_channels_last; none leaves it out.

In each round every contender does one step, in turn. The table has the medians of the rounds;
'speed' is the median of eager PyTorch's time over the contender's, round by round. 'bound' is the
least time that counted operations and bytes allow on this device (roofline.py), as a fraction of
the median. Other processes do not slow all contenders alike (PyTorch's threads wait for each other
and lose more), so the fraction of the cores that they took meanwhile is printed. Both programs run
in this process, in which freed memory is kept for the next step as in training
(runtime/cpu_devices.py); PyTorch gains from that too.

--precision times our net with each `model.precision`; PyTorch and the large matrix product behind
'bound' keep the fastest (TF32 on a GPU). --deterministic gives all of our programs the setting
`deterministic`. It is not timed beside programs without it, because XLA would give it what it has
measured for them in the same process.

--width=0.0625 times a net with a sixteenth of the maps and units, to try the program in seconds.
"""

import dataclasses
import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import app, flags, logging
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import roofline
from full_net import make_config
from measuring import (
    NO_TORCH,
    Contender,
    Others,
    circumstances,
    heading,
    measure,
    validate_choices,
    write,
)
from torch_net import VARIANTS, PyTorch, check_finite
from tower_forms import FORMS, OURS, Apply, make_apply

from alexnet_jax.config import schema
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, dropout, towers
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError, parse_flags
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.step import ApplyTraining, Hyperparameters, StepFunction, make_train_step

TITLES = {
    'step': 'training step',
    'gradient': 'forward and backward',
    'forward': 'forward pass',
}

_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_DEVICES = flags.DEFINE_list('devices', ['1', '2'], 'Numbers of devices to spread the towers over.')
_DTYPE = flags.DEFINE_list('dtype', ['float32'], f'Dtypes: {", ".join(schema.DTYPES)}.')
_PRECISION = flags.DEFINE_list(
    'precision', ['default'], f'Precisions: {", ".join(schema.PRECISIONS)}.'
)
_DETERMINISTIC = flags.DEFINE_bool('deterministic', False, 'Deterministic algorithms alone.')
_FORMS = flags.DEFINE_list('forms', [OURS], f'How one device runs its towers: {", ".join(FORMS)}.')
_WHAT = flags.DEFINE_list('what', ['step', 'forward'], f'What to time: {", ".join(TITLES)}.')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Rounds.', lower_bound=1)
_WIDTH = flags.DEFINE_float('width', 1.0, 'Multiplies the maps and units of the net.', 1e-3)
_TORCH = flags.DEFINE_list('torch', ['eager'], f'Rows of PyTorch: {", ".join(VARIANTS)}, or none.')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result, with the time of each round.')

flags.register_validator(
    'devices', lambda names: names and all(n.isdigit() and int(n) for n in names), 'e.g. 1,2'
)
for _flag, _values in (
    (_WHAT, TITLES),
    (_DTYPE, schema.DTYPES),
    (_PRECISION, schema.PRECISIONS),
    (_FORMS, FORMS),
    (_TORCH, (*VARIANTS, 'none')),
):
    validate_choices(_flag, _values)


@dataclasses.dataclass(frozen=True)
class Result:
    """The times of one contender.

    Attributes:
      what: one of TITLES.
      contender: its name.
      seconds: the time of each round.
      speed: eager PyTorch's time over this one's; None where PyTorch was not timed.
      bound: the least time over the median.
    """

    what: str
    contender: str
    seconds: list[float]
    speed: float | None
    bound: float

    def rates(self, config: schema.Config) -> dict[str, float]:
        """Returns the images and the GFLOP per second that follow from the median."""
        images = config.optimizer.batch_size / statistics.median(self.seconds)
        gflop = roofline.operations_per_image(config, self.what) / 1e9
        return {'images_per_second': images, 'gflop_per_second': images * gflop}


class Ours:
    """The net on the devices of a mesh, with a batch of noise.

    Args:
      config: the settings, which name the number of devices.
      form: how the towers of one device are run, one of tower_forms.FORMS.
    """

    def __init__(self, config: schema.Config, form: str = OURS) -> None:
        self._config, self._mesh = config, towers.choose_mesh(config)
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

    def step(self) -> Contender:
        """Returns the training step, which changes its own state."""
        train_step = self._train_step()
        state = place_initial_state(self._config, self._mesh)
        numbers = Hyperparameters.at(self._config, 0.0, Progress()).pack()

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

    def planned_memory(self) -> tuple[int, int]:
        """Returns what the compiler plans for the step on one device.

        Returns:
          Bytes of the state and the batch; bytes of everything else.
        """
        train_step: Any = self._train_step()
        state = state_shapes(self._config, self._mesh)
        numbers = Hyperparameters.at(self._config, 0.0, Progress()).pack()
        plan = train_step.lower(state, self._batch, self._constants, numbers).compile()
        analysis = plan.memory_analysis()
        return analysis.argument_size_in_bytes, analysis.temp_size_in_bytes

    def _train_step(self) -> StepFunction:
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


def without_moments(apply: Apply) -> ApplyTraining:
    """Returns the net in the shape that training expects: without batch normalization."""
    return lambda params, images, masks: (apply(params, images, masks), {})


def compare(
    what: str, seconds: Mapping[str, list[float]], least: Mapping[str, float]
) -> list[Result]:
    """Compares each contender with eager PyTorch in the same dtype, round by round.

    Args:
      what: one of TITLES.
      seconds: by the contender's name, the time of each round.
      least: by the contender's name, the least time that its device allows.
    """

    def speed(name: str) -> float | None:
        reference = seconds.get(f'PyTorch eager, {name.rpartition(", ")[2]}')
        if reference is None:
            return None
        return statistics.median(r / s for r, s in zip(reference, seconds[name], strict=True))

    return [
        Result(what, name, own, speed(name), least[name] / statistics.median(own))
        for name, own in seconds.items()
    ]


def table(what: str, results: Sequence[Result], config: schema.Config) -> str:
    """Formats the results for the terminal."""
    header = (TITLES[what], 'ms', 'fastest', 'slowest', 'images/s', 'GFLOP/s', 'speed', 'bound')
    rows: list[tuple[str, ...]] = [header]
    for result in results:
        times, rates = result.seconds, result.rates(config)
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


def contenders(batch: int, width: float) -> Iterator[tuple[str, schema.Config, Any]]:
    """Yields the name, the settings and the net of each contender."""
    for dtype in _DTYPE.value:
        for n, precision in itertools.product(map(int, _DEVICES.value), _PRECISION.value):
            config = make_config(n, batch, dtype, width, precision, _DETERMINISTIC.value)
            for form in _FORMS.value if n == 1 else [OURS]:
                label = f'{n} device{"s" if n > 1 else ""}'
                label += '' if form == OURS else f' {form}'
                label += '' if precision == 'default' else f' {precision}'
                yield f'alexnet_jax {label}, {dtype}', config, Ours(config, form)
        if importlib.util.find_spec('torch'):
            for variant in _TORCH.value:
                if variant != 'none':
                    config = make_config(1, batch, dtype, width)
                    name = f'PyTorch {variant.replace("_", " ")}, {dtype}'
                    yield name, config, PyTorch(config, variant)


def benchmark(batch: int, repeats: int, width: float) -> None:
    """Times, prints and writes what the flags ask for."""
    largest = make_config(max(map(int, _DEVICES.value)), batch, width=width)
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
    narrowed = '' if width == 1 else f', width {width:g}'
    deterministic = ', deterministic' if _DETERMINISTIC.value else ''
    print(f'batch {batch}, {repeats} rounds{narrowed}{deterministic}', flush=True)
    nets = list(contenders(batch, width))
    about |= {'batch': batch, 'repeats': repeats, 'others': {}, 'results': [], 'memory': {}}
    about |= {} if width == 1 else {'width': width}
    about['deterministic'] = _DETERMINISTIC.value
    about['peaks'] = {dtype: dataclasses.asdict(peak) for dtype, peak in peaks.items()}
    for what in _WHAT.value:
        least = {
            name: roofline.bound(config, what, batch, peaks[config.model.dtype])
            for name, config, _ in nets
        }
        runs = {name: getattr(net, what)() for name, _, net in nets}
        for run in runs.values():
            run()  # compiles
        others = Others()
        results = compare(what, measure(runs, repeats), least)
        about['others'][what] = fraction = others.fraction()
        print(f'\n{table(what, results, largest)}')
        if fraction is not None:
            print(f'other processes took {fraction:.0%} of the cores meanwhile', flush=True)
        about['results'] += [dataclasses.asdict(r) | r.rates(largest) for r in results]
        del runs
    about['memory'] = dict(memory(nets))
    if importlib.util.find_spec('torch') is None:
        print(f'\n{NO_TORCH}')
    if _OUT.value:
        write(_OUT.value, about)


def memory(nets: Sequence[tuple[str, schema.Config, Any]]) -> Iterator[tuple[str, Any]]:
    """Prints and yields the memory that our nets' training steps need on one device."""
    rows: list[tuple[str, ...]] = [
        ('memory of the step, GB a device', 'state and batch', 'beside them', 'peak so far')
    ]
    for name, _, net in nets:
        if not isinstance(net, Ours):
            continue
        held, beside = net.planned_memory()
        peak = net.peak_memory()
        yield name, {'held': held, 'beside': beside, 'peak': peak}
        rows.append((name, *('-' if x is None else f'{x / 1e9:.2f}' for x in (held, beside, peak))))
    print(f'\n{align_columns(rows)}')


def main(_: Sequence[str]) -> None:
    """Runs the benchmark that the flags describe."""
    logging.set_verbosity(logging.ERROR)
    try:
        benchmark(_BATCH.value, _REPEATS.value, _WIDTH.value)
    except UserError as error:
        sys.exit(f'step.py: {error}')


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
