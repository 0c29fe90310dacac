"""Prints what the training step exchanges and needs on many GPUs, and how long 90 epochs take.

    python benchmarks/scaling.py [--dtype=bfloat16] [--gpus=1,8,64] [--batches=128,1024]
        [--within=370] [--between=40] [--hidden=0] [--measured=128:2.798,1024:14.365]
        [--output=FILE] [--out=FILE.json] [--plot=FILE.svg]

Nothing is run: it is a model, and each of its assumptions is a flag. Each table says whether its
numbers are counted (by the sizes of the layers, or in compiled programs), measured, or modelled.
scaling_model.py has the formulas. Four schemes of spreading the paper's net are compared:

- replicas: plain data parallelism, with both towers of each replica on one GPU;
- towers: each replica on two GPUs, with a tower on each;
- weird trick: the convolutional layers as with replicas, the dense layers spread over all GPUs
  (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014);
- towers, weird trick: the convolutional layers as with towers, the dense layers over all GPUs.

Sources of the default values:

- --measured: the training step on a constant batch on one H100 (JAX 0.11.2,
  results/2026-11-26_h100). The model is the straight line through the two batches. In float32 one
  batch was measured, before conv1 was folded, and the line has the constant of bfloat16. Outside
  of 128 to 1,024 images for each GPU it is extrapolated.
- --flops, --bandwidth: a large product of cuBLAS in bfloat16 and a copy, measured on that H100; in
  float32 the data sheet's rate of TF32 products.
- --within: NCCL's effective bandwidth over NVLink, 370 GB/s of 450 in each direction (its authors
  in NVIDIA/nccl-tests, issue 212).
- --between: a network card of 400 Gb/s for each GPU, as in a DGX H100, at 80 % of its rate.
- --latency, --latency_between, --hidden: assumed.
- temporaries: the memory plans of compiled programs in --plans (benchmarks/compile_for.py). There
  are none of the towers in float32 yet, so these rows are left out.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scaling_plot
from ahead_of_time.devices import DEVICES
from full_net import make_config
from measuring import run_benchmark
from roofline import Peaks
from scaling_model import (
    SCHEMES,
    Estimate,
    Line,
    Machine,
    Model,
    Scheme,
    break_even,
    fit,
    image_bytes,
)

from alexnet_jax.config import schema
from alexnet_jax.data.preparation.layouts.imagenet_tars import IMAGES_2012
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError, parse_flags

PLANS = Path(__file__).resolve().parent / 'results' / '2026-11-26_h100_compiled' / 'after'
MEASURED = {'bfloat16': {128: 2.798, 1024: 14.365}, 'float32': {128: 7.83}}  # ms, by batch
FLOPS = {'bfloat16': 790.0, 'float32': DEVICES['h100'].rates.default / 1e12}  # 10^12 a second

# X. Jia et al., arXiv 1807.11205: 95 epochs within 4 minutes on 1,024 Tesla P40, batches of 65,536.
RECORD_EPOCHS, RECORD_MINUTES, RECORD_BATCH = 95, 4, 65_536

_DTYPE = flags.DEFINE_enum('dtype', 'bfloat16', schema.DTYPES, 'Dtype of the activations.')
_GPUS = flags.DEFINE_list('gpus', ['1', '2', '4', '8', '16', '64', '256', '1024'], 'GPUs.')
_BATCHES = flags.DEFINE_list(
    'batches',
    ['128', '256', '512', '1024', '2048', '4096', '8192', str(RECORD_BATCH)],
    'Images in a batch of all GPUs.',
)
_MEASURED = flags.DEFINE_list(
    'measured', None, 'Milliseconds of a step of one GPU, as BATCH:MS,BATCH:MS.'
)
_CONSTANT = flags.DEFINE_float(
    'constant', None, 'Milliseconds of a step of no images, where one batch is measured.', 0.0
)
_FLOPS = flags.DEFINE_float('flops', None, 'Rate of products, 10^12 a second.', 1e-3)
_BANDWIDTH = flags.DEFINE_float('bandwidth', 2.5, 'Rate of a copy, TB/s.', 1e-6)
_EFFICIENCY = flags.DEFINE_float(
    'efficiency', 1.0, 'Factor of the measured rate of one GPU, for other GPUs.', 1e-6
)
_MEMORY = flags.DEFINE_float(
    'memory', DEVICES['h100'].memory / 2**30, 'Memory of a GPU, GiB.', 1e-3
)
_PER_HOST = flags.DEFINE_integer('per_host', 8, 'GPUs in a host, an even number.', 2)
_WITHIN = flags.DEFINE_float('within', 370.0, 'GB/s that a GPU sends within its host.', 1e-3)
_BETWEEN = flags.DEFINE_float('between', 40.0, 'GB/s that a GPU sends to other hosts.', 1e-3)
_LATENCY = flags.DEFINE_float('latency', 20.0, 'Microseconds of each collective operation.', 0.0)
_LATENCY_BETWEEN = flags.DEFINE_float(
    'latency_between', 20.0, 'Microseconds that each doubling of the hosts adds to them.', 0.0
)
_HIDDEN = flags.DEFINE_float(
    'hidden',
    0.0,
    'Fraction of the exchange of gradients that takes place during the backward pass.',
    0.0,
    1.0,
)
_EPOCHS = flags.DEFINE_float('epochs', 90.0, 'Passes over the training set.', 1e-3)
_IMAGES = flags.DEFINE_integer('images', IMAGES_2012['train'], 'Images in the training set.', 1)
_PLANS = flags.DEFINE_string('plans', str(PLANS), 'Folder of the reports of compile_for.py.')
_OUTPUT = flags.DEFINE_string('output', None, 'A text file for the output.')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result.')
_PLOT = flags.DEFINE_string('plot', None, 'An SVG file for a plot of the times.')

_PLAN = re.compile(
    r'data (\d+) x tower (\d+), step of .*, batch (\d+), (float32|bfloat16).*\n'
    r'memory: .* ([\d,]+) MiB of temporaries'
)
_MEASURED_IMAGES = (128, 1024)  # for each GPU: outside of this range the model is extrapolated
Estimates = dict[tuple[Scheme, int, int], Estimate]
Cell = Callable[[Scheme, int, int], str]


def _are_counts(texts: list[str]) -> bool:
    return bool(texts) and all(x.isdigit() and int(x) for x in texts)


def _are_points(texts: list[str] | None) -> bool:
    number = r'\d+:\d+(\.\d+)?'
    return texts is None or (bool(texts) and all(re.fullmatch(number, x) for x in texts))


for _flag in (_GPUS, _BATCHES):
    flags.register_validator(_flag.name, _are_counts, 'e.g. 128,1024')
flags.register_validator(_MEASURED.name, _are_points, 'e.g. 128:2.798,1024:14.365')
flags.register_validator(_PER_HOST.name, lambda number: number % 2 == 0, 'an even number')


def read_plans(folder: Path, dtype: str) -> dict[int, dict[int, float]]:
    """Reads the bytes of the temporaries from reports of compile_for.py.

    Returns:
      By the devices of a replica: the bytes on a device by the images of the replica, at least two.

    Raises:
      UserError: there is no report for one device and this dtype.
    """
    plans: dict[int, dict[int, float]] = {}
    for file in sorted(folder.glob('*.txt')):
        match = _PLAN.search(file.read_text())
        if match and match[4] == dtype:
            data, tower, batch = (int(x) for x in match.groups()[:3])
            plans.setdefault(tower, {})[batch // data] = 2**20 * float(match[5].replace(',', ''))
    if len(plans.get(1, {})) < 2:
        raise UserError(
            f'{folder} has fewer than two reports of a step in {dtype} on one device: '
            'benchmarks/compile_for.py prints them'
        )
    return {tower: plan for tower, plan in plans.items() if len(plan) > 1}


def make_model() -> Model:
    """Makes the model that the flags describe."""
    dtype = _DTYPE.value
    measured = MEASURED[dtype]
    if _MEASURED.value:
        pairs = (text.split(':') for text in _MEASURED.value)
        measured = {int(batch): float(ms) for batch, ms in pairs}
    constant = fit(MEASURED['bfloat16']).constant if _CONSTANT.value is None else _CONSTANT.value
    line = fit(measured, constant)
    machine = Machine(
        per_host=_PER_HOST.value,
        within=_WITHIN.value * 1e9,
        between=_BETWEEN.value * 1e9,
        latency=_LATENCY.value / 1e6,
        latency_between=_LATENCY_BETWEEN.value / 1e6,
        hidden=_HIDDEN.value,
        peaks=Peaks(1e12 * (_FLOPS.value or FLOPS[dtype]), 1e12 * _BANDWIDTH.value),
    )
    slower = 1e-3 / _EFFICIENCY.value
    return Model(
        make_config(1, 128, dtype),
        machine,
        Line(slower * line.constant, slower * line.per_image),
        {tower: fit(plan) for tower, plan in read_plans(Path(_PLANS.value), dtype).items()},
    )


def tables(model: Model, estimates: Estimates) -> str:
    """Formats one table for each quantity: a row for GPUs and scheme, a column for a batch."""
    limit = 2**30 * _MEMORY.value

    def mark(gpus: int, batch: int) -> str:
        first, last = _MEASURED_IMAGES
        return '' if first * gpus <= batch <= last * gpus else '~'

    def rate(scheme: Scheme, gpus: int, batch: int) -> str:
        return f'{mark(gpus, batch)}{estimates[scheme, gpus, batch].rate:,.0f}'

    def time(scheme: Scheme, gpus: int, batch: int) -> str:
        return mark(gpus, batch) + _duration(_seconds(estimates[scheme, gpus, batch].rate))

    def size(scheme: Scheme, gpus: int, batch: int) -> str:
        memory = estimates[scheme, gpus, batch].memory
        return f'{memory / 2**30:.1f}{"!" if memory > limit else ""}'

    def megabytes(scheme: Scheme, gpus: int, batch: int) -> str:
        within, between, *_ = estimates[scheme, gpus, batch]
        return f'{within / 1e6:,.1f}' + (f' + {between / 1e6:,.1f}' if between else '')

    def bound(scheme: Scheme, gpus: int, batch: int) -> str:
        return f'{estimates[scheme, gpus, batch].bound:,.0f}'

    def exposed(scheme: Scheme, gpus: int, batch: int) -> str:
        estimate = estimates[scheme, gpus, batch]
        return f'{1e3 * estimate.exposed:.2f} of {1e3 * estimate.step:.2f}'

    titles: dict[str, Cell] = {
        'MB that each GPU sends in a step, counted: within its host (+ to other hosts)': megabytes,
        'GiB on each GPU, counted but for the straight line of the temporaries over the images '
        '(!: more than its memory)': size,
        'images/s, bound, modelled: every product and copy at its best rate, all exchanges during '
        'them': bound,
        'ms that a GPU waits for exchanges, of the ms of a step, modelled': exposed,
        'images/s, modelled (~: extrapolated beyond the batches of one GPU that were measured)': (
            rate
        ),
        f'time of {_EPOCHS.value:g} epochs of {_IMAGES.value:,} images, modelled; without '
        'evaluations and waiting for images': time,
    }
    parts = [f'{title}\n{_table(cell, estimates)}' for title, cell in titles.items()]
    return '\n\n'.join(
        [*parts, _break_even(model), _record(estimates), _sharded_updates(model), _resident(model)]
    )


def _table(cell: Cell, estimates: Estimates) -> str:
    batches = [int(x) for x in _BATCHES.value]
    rows = [['GPUs, scheme', *(f'{batch:,}' for batch in batches)]]
    for gpus, scheme in {(gpus, scheme): None for scheme, gpus, _ in estimates}:
        cells = [
            cell(scheme, gpus, batch) if (scheme, gpus, batch) in estimates else ''
            for batch in batches
        ]
        rows.append([f'{gpus:,} {scheme.name}' if gpus > 1 else '1', *cells])
    return align_columns(rows)


def _seconds(rate: float) -> float:
    return _EPOCHS.value * _IMAGES.value / rate


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f'{seconds / 3600:.1f} h'
    return f'{seconds / 60:.1f} min' if seconds >= 60 else f'{seconds:.0f} s'


def _break_even(model: Model) -> str:
    """Says up to which batch the weird trick exchanges fewer bytes."""
    gpus = max(int(x) for x in _GPUS.value)
    towers = [scheme for scheme in SCHEMES if not scheme.spreads_dense and gpus % scheme.tower == 0]
    texts = (
        f'{break_even(model.config, gpus, scheme.tower, _PER_HOST.value):,.0f} ({scheme.name})'
        for scheme in towers
        if gpus > scheme.tower
    )
    numbers = ', '.join(texts)
    return f'The weird trick exchanges fewer bytes up to a batch of, counted: {numbers or "none"}.'


def _record(estimates: Estimates) -> str:
    """Compares with the record of 1,024 GPUs, where its batch is among the columns."""
    fastest: dict[int, tuple[float, str]] = {}
    for (scheme, gpus, batch), estimate in estimates.items():
        if batch == RECORD_BATCH:
            name = f' ({scheme.name})' if gpus > 1 else ''
            seconds = RECORD_EPOCHS * _IMAGES.value / estimate.rate
            fastest[gpus] = min(fastest.get(gpus, (seconds, name)), (seconds, name))
    texts = [f'{gpus:,}: {_duration(x)}{name}' for gpus, (x, name) in fastest.items()]
    return (
        f'The record: {RECORD_EPOCHS} epochs within {RECORD_MINUTES} minutes on 1,024 Tesla P40 in '
        f'batches of {RECORD_BATCH:,} (arXiv 1807.11205). The same by the model, on so many '
        f'GPUs: {", ".join(texts) or "that batch is not among --batches"}.'
    )


def _sharded_updates(model: Model) -> str:
    """Says what dividing velocities and updates among the replicas would save."""
    texts = []
    for gpus in (int(x) for x in _GPUS.value):
        for scheme in SCHEMES:
            if gpus > scheme.tower and gpus % scheme.tower == 0:
                memory, seconds = model.sharded_update(scheme, gpus)
                saving = f'{memory / 2**20:,.0f} MiB and {1e3 * seconds:.2f} ms'
                texts.append(f'{gpus:,} {scheme.name}: {saving}')
    lines = '\n  '.join(texts) or 'nothing'
    return (
        'If the replicas divided velocities and updates among them (ZeRO), each GPU would save '
        f'this memory (counted) and time of a step (modelled), with the same exchange:\n  {lines}'
    )


def _resident(model: Model) -> str:
    """Says what the training set takes in the memory of the GPUs."""
    size = image_bytes(model.config) * _IMAGES.value
    texts = (f'{size / int(gpus) / 2**30:,.1f} on each of {int(gpus):,}' for gpus in _GPUS.value)
    return f'GiB of the training images as RGB, spread over all GPUs, counted: {", ".join(texts)}.'


def assumptions(model: Model) -> str:
    """Formats what the model assumes."""
    machine, step_time = model.machine, model.step_time
    points = ','.join(_MEASURED.value or (f'{n}:{ms}' for n, ms in MEASURED[_DTYPE.value].items()))
    return (
        f'{_DTYPE.value}; one GPU: {1e3 * step_time.constant:.2f} ms + '
        f'{1e3 * step_time.per_image:.5f} ms for each image, from measured batches of {points} ms\n'
        f'products at {machine.peaks.flops / 1e12:g} TFLOP/s, copies at '
        f'{machine.peaks.bandwidth / 1e12:g} TB/s; {machine.per_host} GPUs to a host; '
        f'{machine.within / 1e9:g} GB/s within a host, {machine.between / 1e9:g} between hosts; '
        f'{1e6 * machine.latency:g} us for each collective operation and '
        f'{1e6 * machine.latency_between:g} for each doubling of the hosts; '
        f'{machine.hidden:.0%} of the gradients are exchanged during the backward pass'
    )


def benchmark(about: dict[str, Any]) -> None:
    """Estimates all steps, adds them to the circumstances, and prints and plots them."""
    model = make_model()
    keys = [
        (scheme, gpus, batch)
        for gpus in (int(x) for x in _GPUS.value)
        for scheme in (SCHEMES if gpus > 1 else SCHEMES[:1])
        for batch in (int(x) for x in _BATCHES.value)
        if scheme.suits(gpus, batch) and scheme.tower in model.temporaries
    ]
    estimates = {key: model.estimate(*key) for key in keys}
    about |= {
        'dtype': _DTYPE.value,
        'machine': dataclasses.asdict(model.machine),
        'step_time': model.step_time._asdict(),
        'temporaries': {tower: line._asdict() for tower, line in model.temporaries.items()},
        'estimates': [
            {'scheme': scheme.name, 'gpus': gpus, 'batch': batch} | estimate._asdict()
            for (scheme, gpus, batch), estimate in estimates.items()
        ],
    }
    text = f'{assumptions(model)}\n\n{tables(model, estimates)}\n'
    print(f'\n{text}', end='')
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(f'{about["command"]}\n{about["date"]}\n{text}')
    if _PLOT.value:
        points = {
            key: _seconds(estimate.rate) / 60
            for key, estimate in estimates.items()
            if key[2] in scaling_plot.BATCHES
        }
        Path(_PLOT.value).write_text(scaling_plot.draw(points, _EPOCHS.value))


def main(_: Sequence[str]) -> None:
    """Prints the tables, and writes them where that is asked for."""
    run_benchmark('scaling.py', ('jax', 'numpy'), benchmark, _OUT.value)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
