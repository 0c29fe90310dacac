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
the median. On a GPU, the last table's 'bound' is the same from the bytes that the compiled program
of the step moves (ahead_of_time/instructions.py). Other processes do not slow all contenders alike
(PyTorch's threads wait for each other and lose more), so the fraction of the cores that they took
meanwhile is printed. Both programs run in this process, in which freed memory is kept for the next
step as in training (runtime/cpu_devices.py); PyTorch gains from that too.

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
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import roofline
import xla_options
from full_net import make_config
from jax_net import Ours
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
from torch_net import VARIANTS, PyTorch
from tower_forms import FORMS, OURS

from alexnet_jax.config import schema
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError, first_line, parse_flags

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
_OPTIONS = flags.DEFINE_multi_string(
    'options',
    [],
    'Options of the compiler, NAME=VALUE;NAME=VALUE: one more row, for the training step. May be '
    'repeated.',
)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result, with the time of each round.')

xla_options.validate(_OPTIONS)
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
        config = make_config(int(_DEVICES.value[0]), batch, dtype, width)
        for text in _OPTIONS.value:
            net = Ours(config, options=xla_options.parse(text))
            yield f'alexnet_jax with {text}, {dtype}', config, net
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
        runs = start(what, nets)
        others = Others()
        results = compare(what, measure(runs, repeats), least)
        about['others'][what] = fraction = others.fraction()
        print(f'\n{table(what, results, largest)}')
        if fraction is not None:
            print(f'other processes took {fraction:.0%} of the cores meanwhile', flush=True)
        about['results'] += [dataclasses.asdict(r) | r.rates(largest) for r in results]
        del runs
    about['memory'] = dict(plans(nets, about['results'], peaks))
    if importlib.util.find_spec('torch') is None:
        print(f'\n{NO_TORCH}')
    if _OUT.value:
        write(_OUT.value, about)


def start(what: str, nets: Sequence[tuple[str, schema.Config, Any]]) -> dict[str, Contender]:
    """Compiles the contenders and runs each once.

    A net is left out where XLA refuses its options, and in the tables of the forward pass and of
    the gradient, to which options do not apply.

    Args:
      what: one of TITLES.
      nets: name, settings and net of each contender.
    """
    runs = {}
    for name, _, net in nets:
        has_options = isinstance(net, Ours) and net.has_options
        if has_options and what != 'step':
            continue
        start_time = time.monotonic()
        try:
            run = getattr(net, what)()
            run()
        except jax.errors.JaxRuntimeError as error:
            if not has_options:
                raise
            print(f'{name} is left out: {first_line(error)}')
            continue
        print(
            f'{name}: {what} compiled and run in {time.monotonic() - start_time:.1f} s', flush=True
        )
        runs[name] = run
    return runs


def plans(
    nets: Sequence[tuple[str, schema.Config, Any]],
    results: Sequence[Mapping[str, Any]],
    peaks: Mapping[str, roofline.Peaks],
) -> Iterator[tuple[str, Any]]:
    """Prints and yields the memory that our training steps need, and what their programs move.

    Args:
      nets: name, settings and net of each contender.
      results: what was timed, for the time of the step over the least time that its program needs.
      peaks: the rates of the device by dtype.
    """
    header = ('state and batch', 'beside them', 'peak so far', 'launches', 'MB an image', 'bound')
    rows: list[tuple[str, ...]] = [('program of the step, GB a device', *header)]
    times = {r['contender']: r['seconds'] for r in results if r['what'] == 'step'}
    for name, config, net in nets:
        if not isinstance(net, Ours) or (net.has_options and name not in times):
            continue
        plan, peak = net.plan(), net.peak_memory()
        images, bound = config.optimizer.batch_size / config.mesh.data, None
        if plan.moved and name in times:
            rates = peaks[config.model.dtype]
            operations = roofline.operations_per_image(config, 'step') * images / config.mesh.tower
            least = plan.moved / rates.bandwidth + operations / rates.flops
            bound = least / statistics.median(times[name])
        yield name, plan._asdict() | {'peak': peak, 'bound': bound}
        memory = ['-' if x is None else f'{x / 1e9:.2f}' for x in (plan.held, plan.beside, peak)]
        moved = '-' if plan.moved is None else f'{plan.moved / images / 1e6:.2f}'
        fraction = '-' if bound is None else f'{bound:.0%}'
        rows.append((name, *memory, str(plan.launches or '-'), moved, fraction))
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
