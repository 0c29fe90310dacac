"""Times the GPU kernel of response normalization (§3.3) with different block sizes.

    python benchmarks/tune_normalization.py [--batch=128] [--dtype=float32,bfloat16] [--repeats=5]

The constants are those at the top of alexnet_jax/ops/triton/segments.py. The arrays
are those that one tower normalizes after conv1 and after conv2, with a ReLU before, as in the net;
forward and backward are timed separately. The best constants come first: the order is by the
geometric mean of a row's times over the best times of the columns.

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
from programs import compile_all, draw, lower, start

from alexnet_jax.config import schema
from alexnet_jax.ops.formula import PAPER, SHAPES
from alexnet_jax.ops.triton import response_normalization as kernels
from alexnet_jax.ops.triton import segments
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import parse_flags

# One measurement: programs started one after the other, and calls in each (few: there are many
# programs to compile).
PROGRAMS, CHAIN = 10, 4

TUNED = {
    'LONGEST': [1, 2, 4, 8],
    'BLOCK': [128, 256, 512, 1024],
    'NUM_WARPS': [4, 8],
}

_BATCH = flags.DEFINE_integer('batch', 128, 'Images in a batch.', lower_bound=1)
_DTYPE = flags.DEFINE_list('dtype', list(schema.DTYPES), f'Dtypes: {", ".join(schema.DTYPES)}.')
_LAYERS = flags.DEFINE_list('layers', list(SHAPES), f'Layers: {", ".join(SHAPES)}.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Rounds.', lower_bound=1)
_INTERPRET = flags.DEFINE_bool('interpret', False, 'Interpret the kernels, to try the program.')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result.')

for _flag, _values in ((_DTYPE, schema.DTYPES), (_LAYERS, SHAPES)):
    measuring.validate_choices(_flag, _values)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A kernel with one choice of the constants.

    Attributes:
      constants: values for the names in TUNED.
      column: what the kernel computes, e.g. 'conv1 float32 forward'.
    """

    constants: tuple[Any, ...]
    column: str


def trials() -> Iterator[tuple[Trial, Any, tuple[Array, ...]]]:
    """Yields each kernel with each choice of the constants, lowered, and its arguments."""
    for layer, dtype in itertools.product(_LAYERS.value, _DTYPE.value):
        shape = (_BATCH.value, *SHAPES[layer])
        arrays = tuple(draw(shape, dtype, seed) for seed in range(2))
        for constants, what in itertools.product(
            itertools.product(*TUNED.values()), ('forward', 'backward')
        ):
            for name, value in zip(TUNED, constants, strict=True):
                setattr(segments, name, value)
            jax.clear_caches()  # traced functions have the previous constants
            inputs = arrays[:1] if what == 'forward' else arrays
            lowered = lower(functools.partial(kernel_step, what), inputs, CHAIN)
            yield Trial(constants, f'{layer} {dtype} {what}'), lowered, inputs


def kernel_step(what: str, *arrays: Array) -> tuple[Array, ...]:
    """Runs the kernel forward, or backward alone, as training does: with a ReLU before it."""
    kernel: Any = {'forward': kernels.forward, 'backward': kernels.backward}[what]
    return (kernel(*arrays, PAPER, interpret=_INTERPRET.value),)


def tune(about: dict[str, Any]) -> None:
    """Times the kernel with each choice of its constants, and prints the table."""
    current = tuple(getattr(segments, name) for name in TUNED)
    try:
        lowered_trials = list(trials())
    finally:
        for name, value in zip(TUNED, current, strict=True):
            setattr(segments, name, value)
    programs = compile_all([lowered for _, lowered, _ in lowered_trials])
    microseconds: dict[tuple[Any, ...], dict[str, float]] = {}
    failures = []
    for (trial, _, arrays), program in zip(lowered_trials, programs, strict=True):
        row = microseconds.setdefault(trial.constants, {})
        if isinstance(program, Exception):
            failures.append(f'{trial.constants} {trial.column}: {str(program).splitlines()[0]}')
            continue
        runs = {trial.column: start(program, arrays, PROGRAMS)}
        try:
            seconds = measuring.measure(runs, _REPEATS.value)[trial.column]
        except jax.errors.JaxRuntimeError as error:
            failures.append(f'{trial.constants} {trial.column}: {str(error).splitlines()[0]}')
            continue
        row[trial.column] = 1e6 * statistics.median(seconds) / (PROGRAMS * CHAIN)
    print(f'\n{tuning_table(microseconds, current)}')
    for failure in failures:
        print(f'failed: {failure}')
    rows = [
        dict(zip(TUNED, constants, strict=True)) | {'microseconds': row}
        for constants, row in microseconds.items()
    ]
    about |= {'failures': failures, 'tuning': rows}


def tuning_table(
    microseconds: Mapping[tuple[Any, ...], Mapping[str, float]], current: tuple[Any, ...]
) -> str:
    """Formats the times, the best constants first.

    Args:
      microseconds: by the constants, and by what the kernel computes.
      current: the constants that are set in the kernel's file.
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

    rows = [(', '.join(TUNED), 'overall', *(str(i + 1) for i in range(len(columns))))]
    for constants in sorted(microseconds, key=overall):
        name = ', '.join(str(value) for value in constants)
        name += ' (set now)' if constants == current else ''
        cells = (cell(microseconds[constants], column) for column in columns)
        rows.append((name, f'{overall(constants):.3f}', *cells))
    legend = [f'{i + 1}: {column}' for i, column in enumerate(columns)]
    note = 'microseconds; * is the best of its column; overall is the mean ratio to the best times'
    return '\n'.join([align_columns(rows), note, *legend])


def main(_: Sequence[str]) -> None:
    """Tunes the layers that the flags name."""
    logging.set_verbosity(logging.ERROR)
    if jax.default_backend() != 'gpu' and not _INTERPRET.value:
        sys.exit('tune_normalization.py: there is no GPU to time its kernels on')
    about = measuring.circumstances(['jax', 'jaxlib'])
    about |= {'batch': _BATCH.value, 'repeats': _REPEATS.value}
    print(measuring.heading(about))
    print('batch {batch}, {repeats} rounds'.format(**about), flush=True)
    tune(about)
    if _OUT.value:
        measuring.write(_OUT.value, about)


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
