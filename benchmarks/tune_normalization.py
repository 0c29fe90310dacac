"""Times the GPU kernels of response normalization (§3.3) with different constants.

    python benchmarks/tune_normalization.py [--batch=128] [--dtype=float32,bfloat16] [--repeats=5]
    python benchmarks/tune_normalization.py --kernels=pooled_forward,pooled_backward

The constants are those at the top of alexnet_jax/ops/triton/segments.py, and DOWN of the kernel
that also pools (normalized_pooling.py there). The arrays are those that one tower normalizes after
conv1 and after conv2, with a ReLU before, as in the net. Each kernel has a table of its own, in
which the best constants come first: the order is by the geometric mean of a row's times over the
best times of the columns. The kernels that pool compute what training needs: forward the mask too,
and backward the sums for the gradient of the bias.

--interpret runs the kernels interpreted, on any device: to try the program. The times mean nothing.
"""

import dataclasses
import functools
import itertools
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measuring
from programs import compile_all, draw, start

from alexnet_jax.config import schema
from alexnet_jax.ops.formula import PAPER, SHAPES
from alexnet_jax.ops.triton import normalized_pooling, response_normalization, segments
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import parse_flags

CALLS = 40  # in one measurement, started one after the other

WINDOW, STRIDE = 3, 2

# For each kernel, the values of the constants that are tried.
BLOCKS = {'LONGEST': [1, 2, 4, 8], 'BLOCK': [128, 256, 512, 1024], 'NUM_WARPS': [4, 8]}
# Of 32 warps a thread has at most 64 registers, so that half of the warps fit.
POOLED_BLOCKS = {'LONGEST': [4, 8], 'BLOCK': [128, 256, 1024], 'NUM_WARPS': [4, 8, 32]}
TUNED: dict[str, dict[str, list[int]]] = {
    'forward': BLOCKS,
    'backward': BLOCKS,
    'pooled_forward': POOLED_BLOCKS | {'DOWN': [1, 2, 4]},
    'pooled_backward': POOLED_BLOCKS | {'MOST_STEPS': [4, 16]},
}
MODULES = {'DOWN': normalized_pooling}  # of the constants that are not in segments.py

_KERNELS = flags.DEFINE_list(
    'kernels', ['forward', 'backward'], f'Kernels to tune: {", ".join(TUNED)}.'
)
_BATCH = flags.DEFINE_integer('batch', 128, 'Images in a batch.', lower_bound=1)
_DTYPE = flags.DEFINE_list('dtype', list(schema.DTYPES), f'Dtypes: {", ".join(schema.DTYPES)}.')
_LAYERS = flags.DEFINE_list('layers', list(SHAPES), f'Layers: {", ".join(SHAPES)}.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Rounds.', lower_bound=1)
_INTERPRET = flags.DEFINE_bool('interpret', False, 'Interpret the kernels, to try the program.')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result.')

for _flag, _values in ((_KERNELS, TUNED), (_DTYPE, schema.DTYPES), (_LAYERS, SHAPES)):
    measuring.validate_choices(_flag, _values)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A kernel with one choice of the constants.

    Attributes:
      constants: values for the kernel's names in TUNED.
      column: the arrays, e.g. 'conv1 float32'.
    """

    constants: tuple[Any, ...]
    column: str


def trials(kernel: str) -> Iterator[tuple[Trial, Any, tuple[Array, ...]]]:
    """Yields a kernel with each choice of its constants, lowered, and its arguments."""
    for layer, dtype in itertools.product(_LAYERS.value, _DTYPE.value):
        arrays = arguments(kernel, (_BATCH.value, *SHAPES[layer]), dtype)
        for constants in choices(kernel):
            set_constants(kernel, constants)
            jax.clear_caches()  # traced functions have the previous constants
            lowered = jax.jit(functools.partial(run_kernel, kernel)).lower(*arrays)
            yield Trial(constants, f'{layer} {dtype}'), lowered, arrays


def choices(kernel: str) -> Iterator[tuple[int, ...]]:
    """Yields the values of a kernel's constants that leave each thread one to four segments."""
    for values in itertools.product(*TUNED[kernel].values()):
        constants = dict(zip(TUNED[kernel], values, strict=True))
        if 1 <= constants['BLOCK'] / (32 * constants['NUM_WARPS']) <= 4:
            yield values


def set_constants(kernel: str, values: Sequence[Any]) -> None:
    """Sets the constants of a kernel, in the order of TUNED."""
    for name, value in zip(TUNED[kernel], values, strict=True):
        setattr(MODULES.get(name, segments), name, value)


def arguments(kernel: str, shape: tuple[int, ...], dtype: str) -> tuple[Array, ...]:
    """Draws the arguments of a kernel; the mask of a pool has any bits."""
    x = draw(shape, dtype, 0)
    match kernel:
        case 'backward':
            return x, draw(shape, dtype, 1)
        case 'pooled_backward':
            y, mask = jax.eval_shape(functools.partial(run_kernel, 'pooled_forward'), x)
            bits = jax.random.randint(jax.random.key(2), mask.shape, 0, 2 ** (WINDOW**2))
            return x, bits.astype(mask.dtype), draw(y.shape, dtype, 1)
        case _:
            return (x,)


def run_kernel(kernel: str, *arrays: Array) -> Any:
    """Runs one of the kernels as training does: with a ReLU before it."""
    options: Any = dict(interpret=_INTERPRET.value)
    pooled: Any = *arrays, PAPER, WINDOW, STRIDE
    match kernel:
        case 'forward':
            return response_normalization.forward(*arrays, PAPER, **options)
        case 'backward':
            return response_normalization.backward(*arrays, PAPER, **options)
        case 'pooled_forward':
            return normalized_pooling.forward(*pooled, with_mask=True, **options)
        case _:
            return normalized_pooling.backward(*pooled, with_sums=True, **options)


def tune(kernel: str, about: dict[str, Any]) -> None:
    """Times a kernel with each choice of its constants, and prints the table."""
    names = [*TUNED[kernel]]
    current = tuple(getattr(MODULES.get(name, segments), name) for name in names)
    try:
        lowered_trials = list(trials(kernel))
    finally:
        set_constants(kernel, current)
    programs = compile_all([lowered for _, lowered, _ in lowered_trials])
    microseconds: dict[tuple[Any, ...], dict[str, float]] = {}
    failures = []
    for (trial, _, arrays), program in zip(lowered_trials, programs, strict=True):
        row = microseconds.setdefault(trial.constants, {})
        if isinstance(program, Exception):
            failures.append(f'{trial.constants} {trial.column}: {str(program).splitlines()[0]}')
            continue
        runs = {trial.column: start(program, arrays, CALLS)}
        try:
            seconds = measuring.measure(runs, _REPEATS.value)[trial.column]
        except jax.errors.JaxRuntimeError as error:
            failures.append(f'{trial.constants} {trial.column}: {str(error).splitlines()[0]}')
            continue
        row[trial.column] = 1e6 * statistics.median(seconds) / CALLS
    print(f'\n{kernel}\n{tuning_table(names, microseconds, current)}')
    for failure in failures:
        print(f'failed: {failure}')
    about['failures'] += [f'{kernel} {failure}' for failure in failures]
    about['tuning'] += [
        {'kernel': kernel, **dict(zip(names, constants, strict=True)), 'microseconds': row}
        for constants, row in microseconds.items()
    ]


def tuning_table(
    names: Sequence[str],
    microseconds: Mapping[tuple[Any, ...], Mapping[str, float]],
    current: tuple[Any, ...],
) -> str:
    """Formats the times, the best constants first.

    Args:
      names: of the constants.
      microseconds: by the constants' values, and by the arrays.
      current: the values that are set in the kernels' files.
    """
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

    rows = [(', '.join(names), 'overall', *(str(i + 1) for i in range(len(columns))))]
    for constants in sorted(microseconds, key=overall):
        name = ', '.join(str(value) for value in constants)
        name += ' (set now)' if constants == current else ''
        cells = (cell(microseconds[constants], column) for column in columns)
        rows.append((name, f'{overall(constants):.3f}', *cells))
    legend = [f'{i + 1}: {column}' for i, column in enumerate(columns)]
    note = 'microseconds; * is the best of its column; overall is the mean ratio to the best times'
    return '\n'.join([align_columns(rows), note, *legend])


def main(_: Sequence[str]) -> None:
    """Tunes the kernels and layers that the flags name."""
    logging.set_verbosity(logging.ERROR)
    if jax.default_backend() != 'gpu' and not _INTERPRET.value:
        sys.exit('tune_normalization.py: there is no GPU to time its kernels on')
    about = measuring.circumstances(['jax', 'jaxlib'])
    about |= {'batch': _BATCH.value, 'repeats': _REPEATS.value}
    print(measuring.heading(about))
    print('batch {batch}, {repeats} rounds'.format(**about), flush=True)
    about |= {'failures': [], 'tuning': []}
    for kernel in _KERNELS.value:
        tune(kernel, about)
    if _OUT.value:
        measuring.write(_OUT.value, about)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
