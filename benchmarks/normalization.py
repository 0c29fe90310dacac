"""Times local response normalization (§3.3): formula and kernels, beside PyTorch's.

    python benchmarks/normalization.py [--batch=32] [--dtype=float32,bfloat16] [--repeats=9]
    python benchmarks/normalization.py --check  # only: do the kernels agree with the formula?
    python benchmarks/normalization.py --tune   # the kernel's constants, on a GPU

The arrays are what one tower normalizes after conv1 and after conv2; forward alone, and forward and
backward with a random cotangent. The contenders:

- formula: alexnet_jax/normalization.py in plain JAX, with the derivative written by hand.
- Pallas: the kernels of alexnet_jax/normalization_pallas.py, on GPUs and TPUs.
- automatic derivative: slices and a power in plain JAX, in the dtype of x, derived by JAX.
- PyTorch: eager nn.LocalResponseNorm, maps before rows and columns, on the same kind of device.

'ReLU +' is with max(x, 0) before it. In each round every contender takes its turn, after a round
that is not counted. The tables have medians of the rounds; ratios are medians of those of rounds.
'GB/s' counts what must be moved: forward reads x and writes y, backward reads x and the cotangent
and writes dx. 'of copy' compares that with the copy in the same table, which reads an array of the
same size and writes it plus one; what fits into a cache, such as small batches, may go faster than
memory. 'speed' is in units of PyTorch's.

Off the CPU a call takes less time than starting it: there one measurement is many calls, several
of them compiled as one program, in which each takes what the one before it gave.

On GPUs and TPUs the kernels are compared with the formula first; where they fail, they are not
timed and the exit code is 1. What PyTorch does not have, such as bfloat16 on CPUs, is left out.
"""

import concurrent.futures
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measuring

from alexnet_jax import config as settings
from alexnet_jax import files, tables, towers
from alexnet_jax import normalization_pallas as kernels
from alexnet_jax.errors import first_line
from alexnet_jax.normalization import response_normalization

SIZE, K, ALPHA, BETA = PAPER = (5, 2.0, 1e-4, 0.75)
# Arrays that are read or written.
MOVES = {'forward': 2, 'backward': 3, 'forward + backward': 5}
COPY, RELU, TORCH = 'copy', 'ReLU + ', 'PyTorch'

# One measurement off the CPU: programs started one after the other, and calls in each.
PROGRAMS, CHAIN = 4, 10
TUNING_PROGRAMS, TUNING_CHAIN = 10, 4  # there are many to compile
TORCH_CALLS = 5  # each is many kernels

# The check: numbers of maps with segments of all lengths, and more than one block; values as large
# as conv1's, so that alpha times a square is not small beside k.
CHECKED = [(3, 5, 7, maps) for maps in (48, 128, 96, 5, 4, 1)] + [(2, 55, 55, 48)]
CHECKED_STD = 100
TOLERANCE = {'float32': 1e-5, 'bfloat16': 2**-8}

TUNED = {
    'SEGMENTS': [(1,), (2, 1), (4, 2, 1), (8, 4, 2, 1)],
    'BLOCK': [128, 256, 512, 1024],
    'NUM_WARPS': [4, 8],
}

_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_DTYPE = flags.DEFINE_list('dtype', list(settings.DTYPES), f'Of {", ".join(settings.DTYPES)}.')
_LAYERS = flags.DEFINE_list('layers', list(kernels.SHAPES), f'Of {", ".join(kernels.SHAPES)}.')
_REPEATS = flags.DEFINE_integer('repeats', 9, 'Rounds.', lower_bound=1)
_OUT = flags.DEFINE_string('out', None, 'File for the result as JSON, each round by itself.')
_TORCH = flags.DEFINE_bool('torch', True, 'Time PyTorch too, where it is installed.')
_CHECK = flags.DEFINE_bool('check', False, 'Only compare the kernels with the formula.')
_TUNE = flags.DEFINE_bool('tune', False, "Time the GPU kernel's constants instead.")

flags.register_validator(
    'dtype', lambda names: names and set(names) <= {*settings.DTYPES}, 'see --help'
)
flags.register_validator(
    'layers', lambda names: names and set(names) <= kernels.SHAPES.keys(), 'see --help'
)


class WrongKernelError(Exception):
    """A kernel that does not compute the formula."""


Layer = Callable[[Array], Array]  # x to y
Step = Callable[..., tuple[Array, ...]]  # arrays to those that take the place of the last of them


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
class Result:
    """The times of one contender.

    Attributes:
      layer, dtype, what, contender: what was timed; `what` is of MOVES.
      seconds: of one call, for each round.
      gigabytes_per_second: counted bytes by the median.
      of_copy: share of the copy's bandwidth.
      speed: in units of PyTorch's; None where that was not timed.
    """

    layer: str
    dtype: str
    what: str
    contender: str
    seconds: list[float]
    gigabytes_per_second: float
    of_copy: float
    speed: float | None


def draw(shape: Sequence[int], dtype: Any, seed: int, std: float = 1.0) -> Array:
    """Normal numbers on the device."""
    return (std * jax.random.normal(jax.random.key(seed), shape)).astype(dtype)


def by(way: str, rectify: bool) -> Layer:
    """Our layer, computed in this way."""
    return lambda x: response_normalization(x, *PAPER, rectify=rectify, by=way)


def plain(x: Array) -> Array:
    """The layer as one writes it down at first, whose derivative is JAX's to find."""
    maps = x.shape[-1]
    padded = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(SIZE // 2, SIZE - 1 - SIZE // 2)])
    squares = sum(padded[..., i : i + maps] for i in range(SIZE))
    return x * (K + ALPHA * squares) ** -BETA


def layers(with_kernels: bool) -> dict[str, Layer]:
    """The contenders in JAX, by name."""
    ways = {'formula': 'formula'} | ({'Pallas': 'pallas'} if with_kernels else {})
    ours = {name: by(way, rectify=False) for name, way in ways.items()}
    rectifying = {RELU + name: by(way, rectify=True) for name, way in ways.items()}
    return ours | {'automatic derivative': plain} | rectifying


def step_of(layer: Layer, what: str) -> Step:
    """`layer` forward, or forward and backward; called with (x,) or (x, cotangent)."""

    def forward(x: Array) -> tuple[Array, ...]:
        return (layer(x),)

    def both(x: Array, cotangent: Array) -> tuple[Array, ...]:
        y, pull_back = jax.vjp(layer, x)
        return y, *pull_back(cotangent)

    return {'forward': forward, 'forward + backward': both}[what]


def lower(step: Step, arrays: tuple[Array, ...], chain: int) -> Any:
    """`chain` steps as one program, not yet compiled; each gets what the one before it gave."""
    once = jax.jit(step)  # traced once, not for each step of the chain

    def program(*arrays: Array) -> tuple[Array, ...]:
        given: tuple[Array, ...] = ()
        for _ in range(chain):
            # Without the barrier XLA might compute two steps in one pass.
            given = jax.lax.optimization_barrier(once(*arrays))
            arrays = arrays[: len(arrays) - len(given)] + given
        return given

    return jax.jit(program).lower(*arrays)


def start(compiled: Any, arrays: tuple[Array, ...], programs: int) -> Callable[[], None]:
    """Runs a compiled program so many times, and waits once."""

    def run() -> None:
        result = None
        for _ in range(programs):
            result = compiled(*arrays)
        jax.block_until_ready(result)

    return run


def compile_all(lowered: Sequence[Any]) -> list[Any]:
    """On all cores; for what does not compile, the exception."""

    def attempt(program: Any) -> Any:
        try:
            return program.compile()
        except jax.errors.JaxRuntimeError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(files.processors()) as pool:
        return list(pool.map(attempt, lowered))


def ours(what: str, x: Array, cotangent: Array, with_kernels: bool) -> dict[str, Contender]:
    """The copy and the contenders in JAX, compiled."""
    programs, chain = (1, 1) if measuring.on_cpu() else (PROGRAMS, CHAIN)
    arrays = (x,) if what == 'forward' else (x, cotangent)
    steps: dict[str, tuple[Step, tuple[Array, ...]]] = {COPY: (lambda x: (x + 1,), (x,))}
    steps |= {name: (step_of(layer, what), arrays) for name, layer in layers(with_kernels).items()}
    compiled = compile_all([lower(step, given, chain) for step, given in steps.values()])
    contenders = {}
    for (name, (_, given)), program in zip(steps.items(), compiled, strict=True):
        if isinstance(program, Exception):
            raise program
        contenders[name] = Contender(start(program, given, programs), programs * chain)
    return contenders


def pytorch(what: str, shape: Sequence[int], dtype: str) -> dict[str, Contender]:
    """PyTorch's layer, alone and after its ReLU, on the kind of device that JAX uses."""
    torch: Any = importlib.import_module('torch')
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    device, calls = ('cpu', 1) if measuring.on_cpu() else ('cuda', TORCH_CALLS)
    count, rows, columns, maps = shape
    options = dict(dtype=getattr(torch, dtype), device=device)
    x, cotangent = (torch.randn(count, maps, rows, columns, **options) for _ in range(2))
    # It divides alpha by the size.
    norm = torch.nn.LocalResponseNorm(size=SIZE, alpha=SIZE * ALPHA, beta=BETA, k=K)
    rectified = torch.nn.Sequential(torch.nn.ReLU(), norm)

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

    variable = x.detach().requires_grad_()
    step = {'forward': forward, 'forward + backward': both}[what]
    try:
        step(norm)
    except NotImplementedError as error:  # as for bfloat16 on CPUs
        print(f'\nPyTorch is left out: {first_line(error)}')
        return {}
    named = {TORCH: norm, RELU + TORCH: rectified}
    return {n: Contender(functools.partial(run, layer), calls) for n, layer in named.items()}


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


def measure(
    layer: str, dtype: str, what: str, with_kernels: bool, with_torch: bool
) -> list[Result]:
    """All contenders for one table."""
    shape = (_BATCH.value, *kernels.SHAPES[layer])
    x, cotangent = (draw(shape, dtype, seed) for seed in range(2))
    contenders = ours(what, x, cotangent, with_kernels)
    if with_torch:
        contenders |= pytorch(what, shape, dtype)
    runs = {name: contender.run for name, contender in contenders.items()}
    seconds = {
        name: [s / contenders[name].calls for s in rounds]
        for name, rounds in measuring.measure(runs, _REPEATS.value).items()
    }
    return [
        compare(name, seconds, layer, dtype, what, x.nbytes) for name in sorted(seconds, key=order)
    ]


def order(name: str) -> tuple[bool, bool]:
    """The copy, the layer alone, the layer after a ReLU; else as they came."""
    return name.startswith(RELU), name != COPY


def compare(
    name: str, seconds: Mapping[str, list[float]], layer: str, dtype: str, what: str, nbytes: int
) -> Result:
    """One contender beside the copy and PyTorch, round by round; `nbytes` are those of x."""
    moves = MOVES['forward' if name == COPY else what]

    def ratio(rival: str) -> float:
        pairs = zip(seconds[rival], seconds[name], strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)

    rival = (RELU if name.startswith(RELU) else '') + TORCH
    speed = ratio(rival) if rival in seconds and name != COPY else None
    of_copy = ratio(COPY) * moves / MOVES['forward']
    rate = moves * nbytes / statistics.median(seconds[name]) / 1e9
    return Result(layer, dtype, what, name, seconds[name], rate, of_copy, speed)


def three_digits(value: float) -> str:
    """All digits before the point, and of the others so many that there are three."""
    return f'{value:.0f}' if value >= 99.95 else f'{value:#.3g}'


def table(results: Sequence[Result]) -> str:
    """What a person reads."""
    first = results[0]
    title = f'{first.layer}, {first.dtype}, {first.what}'
    rows: list[tuple[str, ...]] = [(title, 'ms', 'fastest', 'slowest', 'GB/s', 'of copy', 'speed')]
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
    return tables.aligned(rows)


def benchmark(about: dict[str, Any], with_kernels: bool, missing: str) -> None:
    """Times and prints each table; `missing` says why PyTorch is not timed."""
    results, others = [], measuring.Others()
    whats = ('forward', 'forward + backward')
    for layer, dtype, what in itertools.product(_LAYERS.value, _DTYPE.value, whats):
        these = measure(layer, dtype, what, with_kernels, with_torch=not missing)
        print(f'\n{table(these)}', flush=True)
        results += these
    share = others.share()
    if share is not None:
        print(f'\nother processes took {share:.0%} of the cores meanwhile')
    if missing:
        print(f'\n{missing}')
    about |= {'others': share, 'results': [dataclasses.asdict(result) for result in results]}


def check() -> dict[str, float]:
    """The largest error of the kernels in each dtype, which it prints.

    An error is divided by the largest value of its array. The formula gets the same numbers in
    float32. On a CPU the kernels are interpreted.

    Raises:
      WrongKernelError: it is too large.
    """
    errors = dict.fromkeys(settings.DTYPES, 0.0)
    for shape, dtype, rectify in itertools.product(CHECKED, settings.DTYPES, (False, True)):
        x, cotangent = (draw(shape, dtype, seed, CHECKED_STD) for seed in range(2))
        results = jax.jit(step_of(by('pallas', rectify), 'forward + backward'))(x, cotangent)
        exact = jax.jit(step_of(by('formula', rectify), 'forward + backward'))(
            x.astype(jnp.float32), cotangent.astype(jnp.float32)
        )
        for name, own, right in zip(('forward', 'backward'), results, exact, strict=True):
            own, right = np.asarray(own, np.float64), np.asarray(right, np.float64)
            error = float(np.max(abs(own - right)) / np.max(abs(right)))
            if not error <= TOLERANCE[dtype]:  # NaN is not
                case = f'{name}, {dtype}, {shape}, rectify={rectify}'
                raise WrongKernelError(f'kernel and formula differ by {error:.2g}: {case}')
            errors[dtype] = max(errors[dtype], error)
    largest = ', '.join(f'{error:.1e} in {dtype}' for dtype, error in errors.items())
    how = ', interpreted' if measuring.on_cpu() else ''
    print(f'kernels agree with the formula: largest relative error {largest}{how}', flush=True)
    return errors


@dataclasses.dataclass(frozen=True)
class Trial:
    """A kernel with some constants.

    Attributes:
      constants: values for the names in TUNED.
      column: what it computes, e.g. 'conv1 float32 forward'.
    """

    constants: tuple[Any, ...]
    column: str


def trials() -> Iterator[tuple[Trial, Any, tuple[Array, ...]]]:
    """Each kernel with all constants, lowered, and its arguments."""
    for layer, dtype in itertools.product(_LAYERS.value, _DTYPE.value):
        shape = (_BATCH.value, *kernels.SHAPES[layer])
        arrays = tuple(draw(shape, dtype, seed) for seed in range(2))
        for constants, what in itertools.product(
            itertools.product(*TUNED.values()), ('forward', 'backward')
        ):
            for name, value in zip(TUNED, constants, strict=True):
                setattr(kernels, name, value)
            jax.clear_caches()  # what was traced has the constants of before
            given = arrays[:1] if what == 'forward' else arrays
            lowered = lower(functools.partial(kernel_step, what), given, TUNING_CHAIN)
            yield Trial(constants, f'{layer} {dtype} {what}'), lowered, given


def kernel_step(what: str, *arrays: Array) -> tuple[Array, ...]:
    """The kernel forward, or backward alone, as training uses it: after a ReLU."""
    kernel: Any = {'forward': kernels.forward, 'backward': kernels.backward}[what]
    return (kernel(*arrays, *PAPER, rectify=True, target='gpu'),)


def tune(about: dict[str, Any]) -> None:
    """Times the kernel with each choice of its constants, and prints the best."""
    now = tuple(getattr(kernels, name) for name in TUNED)
    try:
        tried = list(trials())
    finally:
        for name, value in zip(TUNED, now, strict=True):
            setattr(kernels, name, value)
    programs = compile_all([lowered for _, lowered, _ in tried])
    microseconds: dict[tuple[Any, ...], dict[str, float]] = {}
    failures = []
    for (trial, _, arrays), program in zip(tried, programs, strict=True):
        row = microseconds.setdefault(trial.constants, {})
        if isinstance(program, Exception):
            failures.append(f'{trial.constants} {trial.column}: {str(program).splitlines()[0]}')
            continue
        runs = {trial.column: start(program, arrays, TUNING_PROGRAMS)}
        try:
            seconds = measuring.measure(runs, _REPEATS.value)[trial.column]
        except jax.errors.JaxRuntimeError as error:
            failures.append(f'{trial.constants} {trial.column}: {str(error).splitlines()[0]}')
            continue
        row[trial.column] = 1e6 * statistics.median(seconds) / (TUNING_PROGRAMS * TUNING_CHAIN)
    print(f'\n{tuning_table(microseconds, now)}')
    for failure in failures:
        print(f'failed: {failure}')
    rows = [
        dict(zip(TUNED, constants, strict=True)) | {'microseconds': row}
        for constants, row in microseconds.items()
    ]
    about |= {'failures': failures, 'tuning': rows}


def tuning_table(
    microseconds: Mapping[tuple[Any, ...], Mapping[str, float]], now: tuple[Any, ...]
) -> str:
    """Best first: by the geometric mean of a row's times over the best ones of the columns."""
    columns = sorted({column for row in microseconds.values() for column in row})
    best = {c: min(row[c] for row in microseconds.values() if c in row) for c in columns}

    def overall(constants: tuple[Any, ...]) -> float:
        row = microseconds[constants]
        if len(row) < len(columns) or not row:
            return float('inf')
        return statistics.geometric_mean([row[c] / best[c] for c in columns])

    def cell(row: Mapping[str, float], column: str) -> str:
        if column not in row:
            return '-'
        return ('* ' if row[column] == best[column] else '') + f'{row[column]:.1f}'

    rows = [(', '.join(TUNED), 'overall', *(str(i + 1) for i in range(len(columns))))]
    for constants in sorted(microseconds, key=overall):
        name = ', '.join(str(value) for value in constants)
        name += ' (set now)' if constants == now else ''
        cells = (cell(microseconds[constants], column) for column in columns)
        rows.append((name, f'{overall(constants):.3f}', *cells))
    legend = [f'{i + 1}: {column}' for i, column in enumerate(columns)]
    note = 'microseconds; * is the best of its column; overall is how many times the best ones'
    return '\n'.join([tables.aligned(rows), note, *legend])


def main(_: Sequence[str]) -> None:
    """Reads the flags."""
    logging.set_verbosity(logging.ERROR)
    towers.prepare_cpu_devices(settings.Mesh(tower=1, data=1))  # as in training, PyTorch too
    if _TUNE.value and jax.default_backend() != 'gpu':
        sys.exit('normalization.py: --tune needs a GPU')
    only_kernels = _CHECK.value or _TUNE.value
    missing = without_torch()
    packages = ['jax', 'jaxlib', *([] if missing or only_kernels else ['torch'])]
    about = measuring.circumstances(packages)
    about |= {'batch': _BATCH.value, 'repeats': _REPEATS.value}
    print(measuring.heading(about))
    if not _CHECK.value:
        print('batch {batch}, {repeats} rounds'.format(**about), flush=True)
    problem, with_kernels = '', not measuring.on_cpu()
    if with_kernels or _CHECK.value:
        try:
            about['errors'] = check()
        except Exception as error:  # also whatever the compiler says
            problem, with_kernels = f'{type(error).__name__}: {error}', False
            if only_kernels:
                sys.exit(f'normalization.py: {problem}')
            print(f'the kernels are left out: {problem}', flush=True)
    if _TUNE.value:
        tune(about)
    elif not _CHECK.value:
        benchmark(about, with_kernels, missing)
    if _OUT.value:
        measuring.write(_OUT.value, about | {'problem': problem})
    sys.exit(1 if problem else 0)


if __name__ == '__main__':
    app.run(main)
