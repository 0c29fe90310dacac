"""What a compiled GPU program does: its instructions, the bytes that they move, their layers.

Each instruction of the program's main computation that is not free launches one kernel, or calls
cuDNN, cuBLAS or NCCL once. Its bytes are those of its operands and its result. So the sum is an
upper estimate of the traffic of the device memory: the cache serves a part of it, and where an
instruction needs a slice of an operand, all of the operand is counted.
"""

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# These produce no kernel.
FREE = {
    'parameter',
    'constant',
    'get-tuple-element',
    'bitcast',
    'tuple',
    'partition-id',
    'all-gather-done',
    'reduce-scatter-done',
    'all-reduce-done',
    'copy-done',
}
COLLECTIVES = ('all-gather', 'reduce-scatter', 'all-reduce', 'collective-permute', 'all-to-all')
ITEMSIZE = {
    'pred': 1,
    's8': 1,
    'u8': 1,
    's16': 2,
    'u16': 2,
    'f16': 2,
    'bf16': 2,
    's32': 4,
    'u32': 4,
    'f32': 4,
    's64': 8,
    'u64': 8,
    'f64': 8,
}
# 'views' is the augmentation. The rest of a step, such as its random keys, has no layer.
LAYERS = re.compile(r'(?<![a-z])(conv\d|fc\d|bottleneck|views|loss|update)\b')

Line = tuple[str, str, str, str]  # of the program: name, type of the result, opcode, the rest

_ARRAY = re.compile(rf'\b({"|".join(ITEMSIZE)})\[([\d,]*)\]')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)')
_TRANSPOSE = re.compile(r'= (\w+)\[([\d,]*)\]\S* transpose\(')
_GROUPS = re.compile(
    r'replica_groups=(\{\{.*?\}\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?|mesh\[[^\]]*\] \{[^}]*\})'
)
_MESH_AXIS = re.compile(r"'(\w+)'=(\d+)")


class Instruction(NamedTuple):
    """An instruction that launches a kernel.

    Attributes:
      name: its name in the program.
      kind: 'convolution', 'product', 'kernel' (of Pallas), 'fusion', 'copy', or the name of a
        collective operation.
      size: bytes of its operands and its result.
      layer: the layer of the net that it belongs to, 'views', 'loss', 'update' or ''.
      is_backward: whether it belongs to the derivative.
      source: the operation in the program's source.
    """

    name: str
    kind: str
    size: int
    layer: str
    is_backward: bool
    source: str


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
      operation: one of COLLECTIVES.
      groups: the devices of each group that takes part, such as '{{0,1},{2,3}}'.
      size: bytes of its result on one device.
      sent: bytes that each device sends, if each value takes the fewest hops: to gather or scatter,
        all but its own part, and for an all-reduce, twice that.
      layer: the layer of the net that it belongs to, or ''.
      is_backward: whether it belongs to the derivative.
      launches_meanwhile: the other launches between its start and its end in the program's order; 0
        where it starts and ends at once.
      bytes_meanwhile: the bytes of their operands and results.
    """

    operation: str
    groups: str
    size: int
    sent: float
    layer: str
    is_backward: bool
    launches_meanwhile: int
    bytes_meanwhile: int


def instructions(program: str) -> list[Instruction]:
    """Lists the instructions of a compiled GPU program that launch kernels.

    Args:
      program: the text of the compiled program.
    """
    sizes: dict[str, int] = {}
    launches = []
    for name, result, opcode, rest in _main(program):
        sizes[name] = _bytes(result)
        if opcode in FREE:
            continue
        operands = re.findall(r'%([\w.\-]+)', rest.split('), ')[0])
        size = sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
        source = _source(rest)
        layers = LAYERS.findall(source)
        launches.append(
            Instruction(
                name,
                _kind(opcode, rest),
                size,
                layers[0] if layers else '',
                'transpose(' in source,
                source,
            )
        )
    return launches


def collectives(program: str) -> list[Collective]:
    """Lists the collective operations of a compiled program, in its order."""
    operations, sizes = [], {launch.name: launch.size for launch in instructions(program)}
    lines = [*_main(program)]
    for number, (name, result, opcode, rest) in enumerate(lines):
        operation = opcode.removesuffix('-start')
        if operation not in COLLECTIVES:
            continue
        match, source, size = _GROUPS.search(rest), _source(rest), _result_bytes(opcode, result)
        groups, layers, meanwhile = _groups(match[1]) if match else '', LAYERS.findall(source), []
        if operation != opcode:
            meanwhile = _until_done(name, lines[number + 1 :])
        launches = [sizes[x] for x, _, other, _ in meanwhile if x in sizes and not _is_start(other)]
        operations.append(
            Collective(
                operation,
                groups,
                size,
                _sent(operation, size, _devices_of_group(groups)),
                layers[0] if layers else '',
                'transpose(' in source or not source,
                len(launches),
                sum(launches),
            )
        )
    return operations


def _sent(operation: str, size: int, devices: int) -> float:
    """Returns the bytes that each device sends in a collective operation with this result."""
    if operation == 'reduce-scatter':
        return size * (devices - 1)  # the result is one part
    return size * (devices - 1) / devices * (2 if operation == 'all-reduce' else 1)


def _devices_of_group(groups: str) -> int:
    """Returns the devices in each group of '{{0,1},{2,3}}', or of '[groups,devices]<=...'."""
    if groups.startswith('['):
        return int(groups[1:].partition(']')[0].rpartition(',')[2])
    return groups.partition('}')[0].count(',') + 1


def _is_start(opcode: str) -> bool:
    return opcode.removesuffix('-start') in COLLECTIVES


def _until_done(name: str, lines: Sequence[Line]) -> Sequence[Line]:
    """Returns the lines before the end of the operation that started with this name."""
    ends = (
        number
        for number, (_, _, opcode, rest) in enumerate(lines)
        if opcode.endswith('-done') and re.match(rf'%{re.escape(name)}\b', rest)
    )
    return lines[: next(ends, 0)]


def transposes(program: str, least: int) -> list[str]:
    """Lists the shapes of transposed arrays with at least so many bytes, within fusions too."""
    return [
        f'{dtype}[{sizes}]'
        for dtype, sizes in _TRANSPOSE.findall(program)
        if _array_bytes(dtype, sizes) >= least
    ]


def totals(launches: Sequence[Instruction], by: str) -> dict[str, tuple[int, int]]:
    """Sums launches and bytes by an attribute of the instructions, the most bytes first."""
    count, size = collections.Counter(), collections.Counter()
    for launch in launches:
        group = getattr(launch, by)
        count[group] += 1
        size[group] += launch.size
    return {group: (count[group], bytes_) for group, bytes_ in size.most_common()}


def _main(program: str) -> Iterator[Line]:
    """Yields name, type of the result, opcode and the rest of each line of the entry."""
    for line in program[program.index('\nENTRY ') :].splitlines():
        match = _INSTRUCTION.match(line)
        if match:
            name, result, opcode, rest = match.groups()
            yield name, re.sub(r'\{[^}]*\}', '', result), opcode, rest


def _groups(text: str) -> str:
    """Returns the groups of devices; JAX 0.12 names a mesh and the axes that they lie along."""
    if not text.startswith('mesh'):
        return text
    mesh, _, chosen = text.partition('] ')
    axes = _MESH_AXIS.findall(mesh)
    names = [name for name, _ in axes]
    along = [names.index(name) for name in re.findall(r"'(\w+)'", chosen)]
    devices = np.arange(math.prod(int(size) for _, size in axes))
    devices = devices.reshape([int(size) for _, size in axes])
    devices = np.moveaxis(devices, along, range(-len(along), 0))
    groups = devices.reshape(-1, math.prod(devices.shape[devices.ndim - len(along) :]))
    return '{' + ','.join('{' + ','.join(map(str, group)) + '}' for group in groups) + '}'


def _kind(opcode: str, rest: str) -> str:
    target = re.search(r'custom_call_target="([^"]+)"', rest)
    if target:
        for word, kind in (('conv', 'convolution'), ('gemm', 'product'), ('matmul', 'product')):
            if word in target[1]:
                return kind
        return 'kernel' if 'triton' in target[1] or 'mosaic' in target[1] else target[1]
    if opcode == 'fusion' and ('__triton' in rest or '"__cudnn$fusion"' in rest):
        return 'product' if 'gemm' in rest else 'fusion'
    operation = opcode.removesuffix('-start')
    return operation if operation in COLLECTIVES else opcode


def _source(rest: str) -> str:
    match = re.search(r'op_name="([^"]*)"', rest)
    return match[1] if match else ''


def _bytes(type_text: str) -> int:
    return sum(_array_bytes(*array) for array in _ARRAY.findall(type_text))


def _result_bytes(opcode: str, type_text: str) -> int:
    """Returns the bytes of the results of a collective operation, which may be several at once.

    The operands come first in the type of one that is started; not in that of an all-reduce, unless
    they are in parentheses of their own (JAX 0.12).
    """
    arrays = _ARRAY.findall(type_text)
    if opcode.endswith('-start') and (opcode != 'all-reduce-start' or type_text.startswith('((')):
        arrays = arrays[len(arrays) // 2 :]
    return sum(_array_bytes(*array) for array in arrays)


def _array_bytes(dtype: str, sizes: str) -> int:
    return ITEMSIZE.get(dtype, 0) * math.prod(int(n) for n in sizes.split(',') if n)
