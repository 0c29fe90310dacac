"""Times response normalization (§3.3), alone and with pooling: kernels, plain JAX, PyTorch.

    python benchmarks/normalization.py [--batch=32] [--dtype=float32,bfloat16] [--repeats=9]
    python benchmarks/normalization.py --check  # only checks what the kernels compute

The arrays are those that one tower normalizes after conv1 and after conv2; forward alone, and
forward and backward with a random cotangent. The contenders:

- formula: alexnet_jax/ops/response_normalization.py in plain JAX, with a hand-written derivative.
- Pallas: the kernels of response normalization in alexnet_jax/ops/triton/ (GPUs) and tpu/ (TPUs).
- Mosaic GPU: the kernels of alexnet_jax/ops/mosaic_gpu/response_normalization.py, on GPUs.
- one kernel: on GPUs, alexnet_jax/ops/triton/normalized_pooling.py, which pools too.
- automatic derivative: slices and a power in plain JAX, in the dtype of x, differentiated by JAX.
- PyTorch: eager nn.LocalResponseNorm, maps before rows and columns, on the same kind of device.

'ReLU +' has max(x, 0) before the normalization. 'with ReLU and pooling' has all three in turn, as
the net does: ReLU, normalization, and windows of 3, two apart; there formula, Pallas and Mosaic GPU
are followed by alexnet_jax/ops/max_pooling.py, PyTorch's layer by its nn.MaxPool2d.

In each round every contender runs once, in turn, after a round that is not counted. The tables have
the medians of the rounds; ratios are medians of the ratios in the rounds. 'GB/s' counts the bytes
that any implementation must move: forward reads x and writes y, backward reads x and the cotangent
of y and writes dx. (The mask of 'one kernel' is not counted: twice a quarter of x in bfloat16, half
of that in float32.) 'of copy' compares this with the copy in the same table, which reads an array
like x and writes it plus one; arrays that fit into a cache, as for small batches, may be moved
faster than memory allows. 'speed' is PyTorch's time over the contender's.

On accelerators a call takes less time than starting it: there one measurement is many calls,
several of them compiled as one program, in which each call reads the result of the one before it,
or an array of its own.

On GPUs and TPUs the kernels are checked first (kernel_check.py; --nocheck_first leaves that out);
those that fail are not timed, and the exit code is 1. After a kernel has touched an address outside
its arrays, the process can no longer use the GPU: run --kernels=pallas and --kernels=mosaic_gpu in
processes of their own. What PyTorch does not have, such as bfloat16 on CPUs, is left out.
"""

import dataclasses
import functools
import importlib
import importlib.util
import itertools
import os
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kernel_check
import measuring
from normalization_layers import (
    ALPHA,
    BETA,
    COPY,
    FUNCTIONS,
    MOSAIC,
    POOL,
    POOLED,
    RELU,
    SIZE,
    TORCH,
    K,
    Layer,
    has_mosaic_gpu,
    layers,
)
from programs import Step, compile_all, draw, lower, lower_each, start

from alexnet_jax.config import schema
from alexnet_jax.ops.formula import SHAPES
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import first_line, parse_flags

WHATS = ('forward', 'forward + backward')
KERNELS = ('pallas', 'mosaic_gpu')

# One measurement on an accelerator: programs started one after the other, and calls in each.
PROGRAMS, CHAIN = 4, 10
TORCH_CALLS = 5  # each runs many kernels

_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_DTYPE = flags.DEFINE_list('dtype', list(schema.DTYPES), f'Dtypes: {", ".join(schema.DTYPES)}.')
_LAYERS = flags.DEFINE_list('layers', list(SHAPES), f'Layers: {", ".join(SHAPES)}.')
_REPEATS = flags.DEFINE_integer('repeats', 9, 'Rounds.', lower_bound=1)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result, with the time of each round.')
_TORCH = flags.DEFINE_bool('torch', True, 'Time PyTorch too, where it is installed.')
_KERNELS = flags.DEFINE_list(
    'kernels', [*KERNELS], f'Kernels to check and to time: {", ".join(KERNELS)}.'
)
_CHECK = flags.DEFINE_bool('check', False, 'Check the kernels and time nothing.')
_CHECK_FIRST = flags.DEFINE_bool('check_first', True, 'Check the kernels before they are timed.')

for _flag, _values in ((_DTYPE, schema.DTYPES), (_LAYERS, SHAPES), (_KERNELS, KERNELS)):
    measuring.validate_choices(_flag, _values)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A function that is timed.

    Attributes:
      run: calls the function `calls` times, and waits for its end.
      calls: the number of calls.
    """

    run: measuring.Contender
    calls: int


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of results: what its contenders compute.

    Attributes:
      function: one of FUNCTIONS.
      layer: the layer whose maps are normalized.
      dtype: of the maps.
      what: one of WHATS.
    """

    function: str
    layer: str
    dtype: str
    what: str

    @property
    def title(self) -> str:
        """The title, as printed."""
        pooled = ' with ReLU and pooling' if self.function == POOLED else ''
        return f'{self.layer}{pooled}, {self.dtype}, {self.what}'


@dataclasses.dataclass(frozen=True)
class Result:
    """The times of one contender.

    Attributes:
      table: what was computed.
      contender: by which contender.
      seconds: of one call, in each round.
      gigabytes_per_second: counted bytes over the median.
      of_copy: the bandwidth as a fraction of the copy's.
      speed: PyTorch's time over this one's; None where PyTorch was not timed.
    """

    table: Table
    contender: str
    seconds: list[float]
    gigabytes_per_second: float
    of_copy: float
    speed: float | None


def step_of(layer: Layer, what: str) -> Step:
    """Returns the layer forward, called with (x,), or both ways, called with (x, cotangent).

    Where y has the shape of x, the step returns (y,) or (y, dx); where it is smaller, (dx, y).
    """

    def forward(x: Array) -> tuple[Array, ...]:
        return (layer(x),)

    def both(x: Array, cotangent: Array) -> tuple[Array, ...]:
        y, pull_back = jax.vjp(layer, x)
        (dx,) = pull_back(cotangent)
        return (y, dx) if y.shape == x.shape else (dx, y)

    return {'forward': forward, 'forward + backward': both}[what]


def arguments(table: Table) -> tuple[Array, Array]:
    """Draws x and the cotangent of y."""
    x = draw((_BATCH.value, *SHAPES[table.layer]), table.dtype, seed=0)
    y = jax.eval_shape(layers(table.function, ())['formula'], x)
    return x, draw(y.shape, table.dtype, seed=1)


def ours(
    table: Table, x: Array, cotangent: Array, checked: Collection[str]
) -> dict[str, Contender]:
    """Compiles the copy and the contenders in JAX.

    Args:
      table: what they compute.
      x: the maps.
      cotangent: of y.
      checked: the functions whose kernels are right, and MOSAIC.
    """
    programs, chain = (1, 1) if measuring.on_cpu() else (PROGRAMS, CHAIN)
    arguments = (x,) if table.what == 'forward' else (x, cotangent)
    inputs: tuple[Array, ...] = ()
    if table.function == POOLED and table.what == 'forward':  # y cannot take the place of x
        inputs = tuple(x + n for n in range(chain))
    lowered = {COPY: lower(lambda x: (x + 1,), (x,), chain)}
    for name, layer in layers(table.function, checked).items():
        step = step_of(layer, table.what)
        lowered[name] = lower_each(step, inputs) if inputs else lower(step, arguments, chain)
    contenders = {}
    for name, program in zip(lowered, compile_all([*lowered.values()]), strict=True):
        if isinstance(program, Exception):
            raise program
        arrays = (x,) if name == COPY else inputs or arguments
        contenders[name] = Contender(start(program, arrays, programs), programs * chain)
    return contenders


def pytorch(
    table: Table, shape: Sequence[int], pooled_shape: Sequence[int]
) -> dict[str, Contender]:
    """Returns PyTorch's layers, on the kind of device that JAX uses."""
    torch: Any = importlib.import_module('torch')
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    device, calls = ('cpu', 1) if measuring.on_cpu() else ('cuda', TORCH_CALLS)
    options = dict(dtype=getattr(torch, table.dtype), device=device)
    x, cotangent = (
        torch.randn(count, maps, rows, columns, **options)
        for count, rows, columns, maps in (shape, pooled_shape)
    )
    variable = x.detach().requires_grad_()

    def forward(layer: Any) -> None:
        with torch.inference_mode():
            layer(x)

    def both(layer: Any) -> None:
        torch.autograd.grad(layer(variable), variable, cotangent)

    def run(layer: Any) -> None:
        for _ in range(calls):
            step(layer)
        if device == 'cuda':
            torch.cuda.synchronize()

    step = {'forward': forward, 'forward + backward': both}[table.what]
    modules = torch_layers(torch, table.function)
    try:
        step(modules[TORCH])
    except NotImplementedError as error:  # as for bfloat16 on CPUs
        print(f'\nPyTorch is left out: {first_line(error)}')
        return {}
    return {n: Contender(functools.partial(run, layer), calls) for n, layer in modules.items()}


def torch_layers(torch: Any, function: str) -> dict[str, Any]:
    """Returns the layer alone and after a ReLU; or ReLU, layer and pooling."""
    # PyTorch divides alpha by the size.
    norm = torch.nn.LocalResponseNorm(size=SIZE, alpha=SIZE * ALPHA, beta=BETA, k=K)
    if function == POOLED:
        pool = torch.nn.MaxPool2d(*POOL, ceil_mode=True)
        return {TORCH: torch.nn.Sequential(torch.nn.ReLU(), norm, pool)}
    return {TORCH: norm, RELU + TORCH: torch.nn.Sequential(torch.nn.ReLU(), norm)}


def without_torch() -> str:
    """Returns the reason why PyTorch is not timed; '' if it is."""
    if not _TORCH.value:
        return 'PyTorch is left out (--notorch)'
    if importlib.util.find_spec('torch') is None:
        return measuring.NO_TORCH
    if measuring.on_cpu():
        return ''
    if jax.default_backend() != 'gpu':
        return 'PyTorch is timed on CPUs and GPUs only'
    has_gpu = importlib.import_module('torch').cuda.is_available()
    return (
        '' if has_gpu else 'PyTorch is installed without support for the GPU: its rows are left out'
    )


def measure(table: Table, checked: Collection[str], with_torch: bool) -> list[Result]:
    """Times all contenders of one table."""
    x, cotangent = arguments(table)
    contenders = ours(table, x, cotangent, checked)
    if with_torch:
        contenders |= pytorch(table, x.shape, cotangent.shape)
    runs = {name: contender.run for name, contender in contenders.items()}
    seconds = {
        name: [s / contenders[name].calls for s in rounds]
        for name, rounds in measuring.measure(runs, _REPEATS.value).items()
    }
    copied = 2 * x.nbytes
    moved = x.nbytes + cotangent.nbytes  # forward: x and y
    if table.what != 'forward':
        moved += 2 * x.nbytes + cotangent.nbytes
    return [compare(name, seconds, table, moved, copied) for name in sorted(seconds, key=order)]


def order(name: str) -> tuple[bool, bool]:
    """Sorts the copy first, then the layer alone, then the layer after a ReLU."""
    return name.startswith(RELU), name != COPY


def compare(
    name: str, seconds: Mapping[str, list[float]], table: Table, moved: int, copied: int
) -> Result:
    """Compares one contender with the copy and PyTorch, round by round.

    Args:
      name: the contender.
      seconds: the seconds of each contender in each round.
      table: what they compute.
      moved: bytes that a contender must move.
      copied: bytes that the copy moves.
    """
    own = copied if name == COPY else moved

    def ratio(rival: str) -> float:
        pairs = zip(seconds[rival], seconds[name], strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)

    rival = (RELU if name.startswith(RELU) else '') + TORCH
    speed = ratio(rival) if rival in seconds and name != COPY else None
    rate = own / statistics.median(seconds[name]) / 1e9
    return Result(table, name, seconds[name], rate, ratio(COPY) * own / copied, speed)


def three_digits(value: float) -> str:
    """Formats a number with three digits, or with all those before the point."""
    return f'{value:.0f}' if value >= 99.95 else f'{value:#.3g}'


def table(results: Sequence[Result]) -> str:
    """Formats the results for the terminal."""
    rows: list[tuple[str, ...]] = [
        (results[0].table.title, 'ms', 'fastest', 'slowest', 'GB/s', 'of copy', 'speed')
    ]
    for result in results:
        times = result.seconds
        rows.append(
            (
                result.contender,
                *(
                    three_digits(1000 * s)
                    for s in (statistics.median(times), min(times), max(times))
                ),
                three_digits(result.gigabytes_per_second),
                f'{result.of_copy:.0%}',
                '-' if result.speed is None else f'{result.speed:.2f}',
            )
        )
    return align_columns(rows)


def benchmark(about: dict[str, Any], checked: Collection[str], missing: str) -> None:
    """Times and prints each table.

    Args:
      about: where the results are recorded.
      checked: the functions whose kernels are right.
      missing: why PyTorch is not timed; '' if it is.
    """
    results, others = [], measuring.Others()
    for each in itertools.product(FUNCTIONS, _LAYERS.value, _DTYPE.value, WHATS):
        rows = measure(Table(*each), checked, with_torch=not missing)
        print(f'\n{table(rows)}', flush=True)
        results += rows
    fraction = others.fraction()
    if fraction is not None:
        print(f'\nother processes took {fraction:.0%} of the cores meanwhile')
    if missing:
        print(f'\n{missing}')
    about |= {'others': fraction, 'results': [dataclasses.asdict(result) for result in results]}


def main(_: Sequence[str]) -> None:
    """Checks the kernels and runs the benchmark that the flags describe."""
    logging.set_verbosity(logging.ERROR)
    cpu_devices.prepare_cpu_devices(tower=1)  # as in training, PyTorch too
    missing = without_torch()
    packages = ['jax', 'jaxlib', *([] if missing or _CHECK.value else ['torch'])]
    about = measuring.circumstances(packages)
    about |= {'batch': _BATCH.value, 'repeats': _REPEATS.value, 'errors': {}, 'problems': []}
    print(measuring.heading(about))
    if not _CHECK.value:
        print('batch {batch}, {repeats} rounds'.format(**about), flush=True)
    for function in kernels_to_check():
        if not (_CHECK.value or _CHECK_FIRST.value):
            about['errors'][function] = None  # not measured
            continue
        try:
            about['errors'][function] = kernel_check.check(function)
        except Exception as error:  # the compiler's errors are of many types
            about['problems'].append(f'{type(error).__name__}: {first_line(error)}')
            print(f'left out: {about["problems"][-1]}', flush=True)
    if not _CHECK.value:
        benchmark(about, about['errors'], missing)
    if _OUT.value:
        measuring.write(_OUT.value, about)
    sys.exit(1 if about['problems'] else 0)


def kernels_to_check() -> Sequence[str]:
    """Returns the functions with kernels here; on a CPU, interpreted, only for --check."""
    platform = jax.default_backend()
    if platform == 'cpu':
        return FUNCTIONS if _CHECK.value else ()
    if platform != 'gpu':
        return FUNCTIONS[:1]
    mosaic = (MOSAIC,) if 'mosaic_gpu' in _KERNELS.value and has_mosaic_gpu() else ()
    return (*(FUNCTIONS if 'pallas' in _KERNELS.value else ()), *mosaic)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
