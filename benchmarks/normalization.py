"""Times local response normalization (§3.3), and pooling with it: kernels, formula, PyTorch.

    python benchmarks/normalization.py [--batch=32] [--dtype=float32,bfloat16] [--repeats=9]
    python benchmarks/normalization.py --check  # only: do the kernels compute what they should?

The arrays are what one tower normalizes after conv1 and after conv2; forward alone, and forward and
backward with a random cotangent. The contenders:

- formula: alexnet_jax/ops/response_normalization.py in plain JAX, with the derivative written by
  hand.
- Pallas: the kernels of alexnet_jax/ops/response_normalization_pallas.py, on GPUs and TPUs.
- one kernel: on GPUs, alexnet_jax/ops/normalized_pooling_pallas.py, which pools too.
- automatic derivative: slices and a power in plain JAX, in the dtype of x, derived by JAX.
- PyTorch: eager nn.LocalResponseNorm, maps before rows and columns, on the same kind of device.

'ReLU +' is with max(x, 0) before it. 'with ReLU and pooling' is the three in turn, as the net has
them: ReLU, normalization, and windows of 3, two apart; formula and Pallas are followed by
alexnet_jax/ops/max_pooling.py there, PyTorch's by its nn.MaxPool2d.

In each round every contender takes its turn, after a round that is not counted. The tables have
medians of the rounds; ratios are medians of those of rounds. 'GB/s' counts what must be moved,
whoever computes it: forward reads x and writes y, backward reads x and the cotangent of y and
writes dx. (The one kernel's mask is not counted: twice a quarter of x in bfloat16, half of that in
float32.) 'of copy' compares that with the copy in the same table, which reads an array like x and
writes it plus one; what fits into a cache, such as small batches, may go faster than memory.
'speed' is in units of PyTorch's.

Off the CPU a call takes less time than starting it: there one measurement is many calls, several
of them compiled as one program, in which each takes what the one before it gave, or an array of its
own.

On GPUs and TPUs the kernels are checked first; those that fail are not timed, and the exit code is
1. What PyTorch does not have, such as bfloat16 on CPUs, is left out.
"""

import dataclasses
import functools
import importlib
import importlib.util
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measuring
from programs import Step, compile_all, draw, lower, lower_each, start

from alexnet_jax.config import schema
from alexnet_jax.ops import response_normalization_pallas as kernels
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.ops.response_normalization import response_normalization
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import first_line

SIZE, K, ALPHA, BETA = PAPER = (5, 2.0, 1e-4, 0.75)
POOL = (3, 2)
WHATS = ('forward', 'forward + backward')
FUNCTIONS = ALONE, POOLED = ('normalization', 'ReLU, normalization, pooling')
COPY, RELU, TORCH = 'copy', 'ReLU + ', 'PyTorch'

# One measurement off the CPU: programs started one after the other, and calls in each.
PROGRAMS, CHAIN = 4, 10
TORCH_CALLS = 5  # each is many kernels

# The check: numbers of maps with segments of all lengths, and more than one block; values as large
# as conv1's, so that alpha times a square is not small beside k.
CHECKED = [(3, 5, 7, maps) for maps in (48, 128, 96, 5, 4, 1)] + [(2, 55, 55, 48)]
CHECKED_STD = 100
TOLERANCE = {'float32': 1e-5, 'bfloat16': 2**-8}
# Where rounding decides which pixels tie in a pool, its cotangent may go elsewhere.
ELSEWHERE = 1e-3

_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_DTYPE = flags.DEFINE_list('dtype', list(schema.DTYPES), f'Of {", ".join(schema.DTYPES)}.')
_LAYERS = flags.DEFINE_list('layers', list(kernels.SHAPES), f'Of {", ".join(kernels.SHAPES)}.')
_REPEATS = flags.DEFINE_integer('repeats', 9, 'Rounds.', lower_bound=1)
_OUT = flags.DEFINE_string('out', None, 'File for the result as JSON, each round by itself.')
_TORCH = flags.DEFINE_bool('torch', True, 'Time PyTorch too, where it is installed.')
_CHECK = flags.DEFINE_bool('check', False, 'Only check the kernels.')

flags.register_validator(
    'dtype', lambda names: names and set(names) <= {*schema.DTYPES}, 'see --help'
)
flags.register_validator(
    'layers', lambda names: names and set(names) <= kernels.SHAPES.keys(), 'see --help'
)


class WrongKernelError(Exception):
    """A kernel that does not compute the formula."""


Layer = Callable[[Array], Array]  # x to y


@dataclasses.dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
      run: does it `calls` times, and waits for its end.
      calls: how many times.
    """

    run: measuring.Contender
    calls: int


@dataclasses.dataclass(frozen=True)
class Table:
    """What its contenders compute.

    Attributes:
      function: of FUNCTIONS.
      layer, dtype: of which maps.
      what: of WHATS.
    """

    function: str
    layer: str
    dtype: str
    what: str

    @property
    def title(self) -> str:
        """For a person."""
        pooled = ' with ReLU and pooling' if self.function == POOLED else ''
        return f'{self.layer}{pooled}, {self.dtype}, {self.what}'


@dataclasses.dataclass(frozen=True)
class Result:
    """The times of one contender.

    Attributes:
      table, contender: what was timed.
      seconds: of one call, for each round.
      gigabytes_per_second: counted bytes by the median.
      of_copy: share of the copy's bandwidth.
      speed: in units of PyTorch's; None where that was not timed.
    """

    table: Table
    contender: str
    seconds: list[float]
    gigabytes_per_second: float
    of_copy: float
    speed: float | None


def by(way: str, rectify: bool) -> Layer:
    """Our layer, computed in this way."""
    return lambda x: response_normalization(x, *PAPER, rectify=rectify, by=way)


def plain(x: Array) -> Array:
    """The layer as one writes it down at first, whose derivative is JAX's to find."""
    maps = x.shape[-1]
    padded = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(SIZE // 2, SIZE - 1 - SIZE // 2)])
    squares = sum(padded[..., i : i + maps] for i in range(SIZE))
    return x * (K + ALPHA * squares) ** -BETA


def layers(function: str, sound: Collection[str]) -> dict[str, Layer]:
    """The contenders in JAX, by name; `sound` are the functions whose kernels are."""
    ways = {'formula': 'formula'} | ({'Pallas': 'pallas'} if ALONE in sound else {})
    if function == POOLED:
        one = {'one kernel': pooled('pallas', rectify=True)} if POOLED in sound else {}
        return {name: then_pooled(by(way, rectify=True)) for name, way in ways.items()} | one
    ours = {name: by(way, rectify=False) for name, way in ways.items()}
    rectifying = {RELU + name: by(way, rectify=True) for name, way in ways.items()}
    return ours | {'automatic derivative': plain} | rectifying


def then_pooled(layer: Layer) -> Layer:
    """The layer and max-pooling after it."""
    return lambda x: max_pooling(layer(x), *POOL)


def pooled(way: str, rectify: bool) -> Layer:
    """Normalization and pooling by one function of ours, computed in this way."""
    return lambda x: normalized_pooling(x, *PAPER, *POOL, rectify=rectify, by=way)


def step_of(layer: Layer, what: str) -> Step:
    """`layer` forward, or forward and backward; called with (x,) or (x, cotangent).

    Where y is like x, the step returns (y,) or (y, dx); where it is smaller, dx comes first.
    """

    def forward(x: Array) -> tuple[Array, ...]:
        return (layer(x),)

    def both(x: Array, cotangent: Array) -> tuple[Array, ...]:
        y, pull_back = jax.vjp(layer, x)
        (dx,) = pull_back(cotangent)
        return (y, dx) if y.shape == x.shape else (dx, y)

    return {'forward': forward, 'forward + backward': both}[what]


def arguments(table: Table) -> tuple[Array, Array]:
    """x and the cotangent of y."""
    x = draw((_BATCH.value, *kernels.SHAPES[table.layer]), table.dtype, seed=0)
    y = jax.eval_shape(layers(table.function, ())['formula'], x)
    return x, draw(y.shape, table.dtype, seed=1)


def ours(table: Table, x: Array, cotangent: Array, sound: Collection[str]) -> dict[str, Contender]:
    """The copy and the contenders in JAX, compiled."""
    programs, chain = (1, 1) if measuring.on_cpu() else (PROGRAMS, CHAIN)
    given = (x,) if table.what == 'forward' else (x, cotangent)
    each: tuple[Array, ...] = ()
    if table.function == POOLED and table.what == 'forward':  # y cannot take the place of x
        each = tuple(x + n for n in range(chain))
    lowered = {COPY: lower(lambda x: (x + 1,), (x,), chain)}
    for name, layer in layers(table.function, sound).items():
        step = step_of(layer, table.what)
        lowered[name] = lower_each(step, each) if each else lower(step, given, chain)
    contenders = {}
    for name, program in zip(lowered, compile_all([*lowered.values()]), strict=True):
        if isinstance(program, Exception):
            raise program
        arrays = (x,) if name == COPY else each or given
        contenders[name] = Contender(start(program, arrays, programs), programs * chain)
    return contenders


def pytorch(
    table: Table, shape: Sequence[int], pooled_shape: Sequence[int]
) -> dict[str, Contender]:
    """PyTorch's layers on the kind of device that JAX uses."""
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
    named = torch_layers(torch, table.function)
    try:
        step(named[TORCH])
    except NotImplementedError as error:  # as for bfloat16 on CPUs
        print(f'\nPyTorch is left out: {first_line(error)}')
        return {}
    return {n: Contender(functools.partial(run, layer), calls) for n, layer in named.items()}


def torch_layers(torch: Any, function: str) -> dict[str, Any]:
    """The layer alone and after its ReLU, or ReLU, layer and pooling."""
    # It divides alpha by the size.
    norm = torch.nn.LocalResponseNorm(size=SIZE, alpha=SIZE * ALPHA, beta=BETA, k=K)
    if function == POOLED:
        pool = torch.nn.MaxPool2d(*POOL, ceil_mode=True)
        return {TORCH: torch.nn.Sequential(torch.nn.ReLU(), norm, pool)}
    return {TORCH: norm, RELU + TORCH: torch.nn.Sequential(torch.nn.ReLU(), norm)}


def without_torch() -> str:
    """Why PyTorch is not timed; '' if it is."""
    if not _TORCH.value:
        return 'PyTorch is left out (--notorch)'
    if importlib.util.find_spec('torch') is None:
        return 'PyTorch is not installed: pip install torch, and its rows come too'
    if measuring.on_cpu():
        return ''
    if jax.default_backend() != 'gpu':
        return 'PyTorch is timed on CPUs and GPUs only'
    here = importlib.import_module('torch').cuda.is_available()
    return '' if here else 'PyTorch is installed without a GPU to use: its rows are left out'


def measure(table: Table, sound: Collection[str], with_torch: bool) -> list[Result]:
    """All contenders for one table."""
    x, cotangent = arguments(table)
    contenders = ours(table, x, cotangent, sound)
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
    """The copy, the layer alone, the layer after a ReLU; else as they came."""
    return name.startswith(RELU), name != COPY


def compare(
    name: str, seconds: Mapping[str, list[float]], table: Table, moved: int, copied: int
) -> Result:
    """One contender beside the copy and PyTorch, round by round; bytes that they move."""
    own = copied if name == COPY else moved

    def ratio(rival: str) -> float:
        pairs = zip(seconds[rival], seconds[name], strict=True)
        return statistics.median(theirs / mine for theirs, mine in pairs)

    rival = (RELU if name.startswith(RELU) else '') + TORCH
    speed = ratio(rival) if rival in seconds and name != COPY else None
    rate = own / statistics.median(seconds[name]) / 1e9
    return Result(table, name, seconds[name], rate, ratio(COPY) * own / copied, speed)


def three_digits(value: float) -> str:
    """All digits before the point, and of the others so many that there are three."""
    return f'{value:.0f}' if value >= 99.95 else f'{value:#.3g}'


def table(results: Sequence[Result]) -> str:
    """What a person reads."""
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


def benchmark(about: dict[str, Any], sound: Collection[str], missing: str) -> None:
    """Times and prints each table; `missing` says why PyTorch is not timed."""
    results, others = [], measuring.Others()
    for each in itertools.product(FUNCTIONS, _LAYERS.value, _DTYPE.value, WHATS):
        these = measure(Table(*each), sound, with_torch=not missing)
        print(f'\n{table(these)}', flush=True)
        results += these
    share = others.share()
    if share is not None:
        print(f'\nother processes took {share:.0%} of the cores meanwhile')
    if missing:
        print(f'\n{missing}')
    about |= {'others': share, 'results': [dataclasses.asdict(result) for result in results]}


def check(function: str) -> dict[str, float]:
    """The largest error of a function's kernels in each dtype, which it prints.

    An error is divided by the largest value of its array. On a CPU the kernels are interpreted.

    Raises:
      WrongKernelError: it is too large.
    """
    errors = dict.fromkeys(schema.DTYPES, 0.0)
    for shape, dtype, rectify in itertools.product(CHECKED, schema.DTYPES, (False, True)):
        results = values(function, shape, dtype, rectify)
        for name, (own, right) in zip(('y', 'dx'), results, strict=True):
            error = difference(own, right, ELSEWHERE if (function, name) == (POOLED, 'dx') else 0)
            if not error <= TOLERANCE[dtype]:  # NaN is not
                case = f'{name}, {dtype}, {shape}, rectify={rectify}'
                raise WrongKernelError(f'{function}: kernel differs by {error:.2g}: {case}')
            errors[dtype] = max(errors[dtype], error)
    largest = ', '.join(f'{error:.1e} in {dtype}' for dtype, error in errors.items())
    how = ', interpreted' if measuring.on_cpu() else ''
    print(f'{function}: kernels are right, largest relative error {largest}{how}', flush=True)
    return errors


def values(
    function: str, shape: Sequence[int], dtype: str, rectify: bool
) -> list[tuple[Array, Array]]:
    """y and dx, by the kernels and as they should be."""
    if function == ALONE:
        own, right, digits = by('pallas', rectify), by('formula', rectify), 'float32'
    else:  # whose ties depend on the digits
        own, right, digits = pooled('pallas', rectify), then_pooled(by('formula', rectify)), dtype
    x = draw(shape, dtype, 0, CHECKED_STD)
    cotangent = draw(jax.eval_shape(own, x).shape, dtype, 1, CHECKED_STD)

    def run(layer: Layer, x: Array, cotangent: Array) -> tuple[Array, Array]:
        y, pull_back = jax.vjp(layer, x)
        return y, pull_back(cotangent)[0]

    exact = jax.jit(functools.partial(run, right))(x.astype(digits), cotangent.astype(digits))
    return list(zip(jax.jit(functools.partial(run, own))(x, cotangent), exact, strict=True))


def difference(own: Array, right: Array, elsewhere: float) -> float:
    """The largest, over the largest value; of all but a part of the elements."""
    a, b = np.asarray(own, np.float64), np.asarray(right, np.float64)
    return float(np.quantile(abs(a - b), 1 - elsewhere, method='lower') / np.max(abs(b)))


def main(_: Sequence[str]) -> None:
    """Reads the flags."""
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
        try:
            about['errors'][function] = check(function)
        except Exception as error:  # also whatever the compiler says
            about['problems'].append(f'{type(error).__name__}: {first_line(error)}')
            print(f'left out: {about["problems"][-1]}', flush=True)
    if not _CHECK.value:
        benchmark(about, about['errors'], missing)
    if _OUT.value:
        measuring.write(_OUT.value, about)
    sys.exit(1 if about['problems'] else 0)


def kernels_to_check() -> Sequence[str]:
    """The functions that have kernels on this device; on a CPU, which interprets them, if asked."""
    platform = jax.default_backend()
    if platform == 'cpu':
        return FUNCTIONS if _CHECK.value else ()
    return FUNCTIONS if platform == 'gpu' else (ALONE,)


if __name__ == '__main__':
    app.run(main)
