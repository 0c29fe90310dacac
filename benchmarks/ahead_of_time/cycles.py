"""What the TPU compiler estimates of its program: cycles of each instruction, by layer and kind."""

import collections
import re
from collections.abc import Mapping
from typing import Any

from ahead_of_time.instructions import LAYERS

_ESTIMATE = re.compile(r'"estimated_cycles":"?(\d+)')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%(\S+) = (?:\(.*?\)|\S+) ([a-z][a-z0-9-]*)\(')


def report(program: str) -> dict[str, Any]:
    """Returns the estimated cycles of a compiled TPU program, in total and by layer.

    Args:
      program: the text of the compiled program.
    """
    by_layer, largest = collections.Counter(), []
    for line in program[program.index('\nENTRY ') :].splitlines():
        estimate, instruction = _ESTIMATE.search(line), _INSTRUCTION.match(line)
        if not (estimate and instruction):
            continue
        source = re.search(r'op_name="([^"]*)"', line)
        layers = LAYERS.findall(source[1]) if source else []
        layer, estimated = (layers[0] if layers else ''), int(estimate[1])
        by_layer[layer] += estimated
        largest.append((estimated, layer, *instruction.groups()))
    return {
        'cycles': sum(by_layer.values()),
        'cycles_by_layer': dict(by_layer.most_common()),
        'largest_cycles': sorted(largest, reverse=True),
    }


def print_report(report: Mapping[str, Any], rows: int) -> None:
    """Prints the estimated cycles; `rows` is the number of the largest instructions to print."""
    print(f'{report["cycles"]:,} cycles by the estimate of the compiler')
    for layer, estimated in report['cycles_by_layer'].items():
        print(f'  {layer or "(none)":10} {estimated:12,}')
    for estimated, layer, name, opcode in report['largest_cycles'][:rows]:
        print(f'  {estimated:12,} {layer:10} {opcode:12} {name}')
