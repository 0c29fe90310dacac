"""The TPU compiler's estimates of its program: cycles by layer and by kind of instruction.

The compiler estimates no cycles for Pallas kernels, which are counted but not summed.
"""

import collections
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ahead_of_time.instructions import LAYERS

from alexnet_jax.runtime.text_table import align_columns

KERNEL = 'kernel'

_COMPUTATION = re.compile(r'^(ENTRY )?%(\S+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%(\S+) = (?:\(.*?\)|\S+) ([a-z][a-z0-9-]*)\(')
_ESTIMATE = re.compile(r'"estimated_cycles":"?(\d+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r'(?:to_apply|called_computations|calls)=\{?%([^,}\s]+)')
_FUSED = re.compile(r'calls=%([^,\s]+)')
_BODY = re.compile(r'body=%([^,\s]+)')
_CONDITION = re.compile(r'condition=%([^,\s]+)')


class Estimate(NamedTuple):
    """The cost of one instruction in all of its iterations.

    Attributes:
      cycles: as the compiler estimates them; 0 for a Pallas kernel.
      layer: the layer that the instruction belongs to, or ''.
      kind: 'convolution' (also of dense layers, as XLA writes them), KERNEL, 'copy', 'reduction',
        'conversion' or 'other'.
      name: the instruction's name.
    """

    cycles: int
    layer: str
    kind: str
    name: str


def estimates(program: str) -> list[Estimate]:
    """Returns the estimates of a compiled TPU program's instructions, the largest first.

    An instruction with an estimate stands for the computations that it calls. A loop has no
    estimate: its body counts as often as the largest integer in its condition, which is the number
    of iterations of the loops that XLA makes. Of other calls, the computation counts once.

    Args:
      program: the text of the compiled program.
    """
    computations, entry = _computations(program)

    def walk(computation: str, times: int) -> Iterator[Estimate]:
        for line in computations[computation]:
            if not (instruction := _INSTRUCTION.match(line)):
                continue
            name, opcode = instruction.groups()
            source = _SOURCE.search(line)
            layers = LAYERS.findall(source[1]) if source else []
            place = layers[0] if layers else '', _kind(opcode, line, computations), name
            if estimate := _ESTIMATE.search(line):
                yield Estimate(int(estimate[1]) * times, *place)
            elif 'tpu_custom_call' in line:
                yield Estimate(0, *place)
            elif opcode == 'while':
                condition = '\n'.join(computations[_name(_CONDITION, line)])
                limits = map(int, re.findall(r'constant\((\d+)\)', condition))
                yield from walk(_name(_BODY, line), times * max(limits, default=1))
            elif opcode in ('call', 'async-start', 'conditional'):
                for called in _CALLED.findall(line):
                    yield from walk(called, times)

    return sorted(walk(entry, 1), reverse=True)


def report(program: str) -> dict[str, Any]:
    """Returns the estimated cycles of a compiled TPU program, by layer and by kind.

    Args:
      program: the text of the compiled program.
    """
    rows = estimates(program)
    by_layer, convolutions, by_kind = (collections.Counter() for _ in range(3))
    for row in rows:
        by_layer[row.layer] += row.cycles
        by_kind[row.kind] += row.cycles
        convolutions[row.layer] += row.cycles if row.kind == 'convolution' else 0
    return {
        'cycles': sum(row.cycles for row in rows),
        'cycles_by_layer': {
            layer: (cycles, convolutions[layer]) for layer, cycles in by_layer.most_common()
        },
        'cycles_by_kind': dict(by_kind.most_common()),
        'tpu_kernels': sum(row.kind == KERNEL for row in rows),
        'largest_cycles': rows,
    }


def print_report(report: Mapping[str, Any], rows: int) -> None:
    """Prints the estimated cycles; `rows` is the number of the largest instructions to print."""
    print(
        f"{report['cycles']:,} cycles by the compiler's estimate, and {report['tpu_kernels']} "
        'Pallas kernels, which it does not estimate'
    )
    layers = [
        [layer or '(none)', f'{cycles:,}', f'{convolution:,}']
        for layer, (cycles, convolution) in report['cycles_by_layer'].items()
    ]
    print(align_columns([['layer', 'cycles', 'of convolutions and products'], *layers]))
    kinds = [[kind, f'{cycles:,}'] for kind, cycles in report['cycles_by_kind'].items()]
    print(align_columns([['kind', 'cycles'], *kinds]))
    if rows and report['largest_cycles']:
        largest = [
            [f'{cycles:,}', layer or '(none)', kind, name]
            for cycles, layer, kind, name in report['largest_cycles'][:rows]
        ]
        print('the largest:')
        print(align_columns([['cycles', 'layer', 'kind', 'name'], *largest]))


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by its name, and the name of the entry."""
    computations, name, entry = collections.defaultdict(list), '', ''
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            entry = name if header[1] else entry
        elif name:
            computations[name].append(line)
    return computations, entry


def _name(pattern: re.Pattern[str], line: str) -> str:
    match = pattern.search(line)
    assert match, line
    return match[1]


def _kind(opcode: str, line: str, computations: Mapping[str, list[str]]) -> str:
    fused = _FUSED.search(line)
    inside = '\n'.join(computations.get(fused[1], [])) if fused else ''
    if 'tpu_custom_call' in line:
        return KERNEL
    if opcode == 'convolution' or ' convolution(' in inside:
        return 'convolution'
    if opcode in ('copy', 'transpose', 'reshape', 'slice', 'broadcast', 'pad'):
        return 'copy'
    if opcode == 'reduce':
        return 'reduction'
    return 'conversion' if opcode == 'convert' else 'other'
