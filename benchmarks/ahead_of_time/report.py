"""The report on a compiled program: a dict for files and tests, and lines for the terminal."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ahead_of_time import cycles
from ahead_of_time.compilation import Compiled, Registers
from ahead_of_time.devices import Gpu, Tpu
from ahead_of_time.instructions import (
    Instruction,
    collectives,
    instructions,
    totals,
    transposes,
)

from alexnet_jax.runtime.text_table import align_columns

# A transposed array of this size is an activation: the largest kernel of a convolution is smaller.
LEAST_ACTIVATION = 2**22
# For GPUs, XLA rewrites a select-and-scatter as a scatter.
_SCATTER = re.compile(r' (?:select-and-)?scatter\(')
_KERNEL = re.compile(r'(\w+)\)*/pallas_call')


@dataclasses.dataclass(frozen=True)
class Work:
    """The work that a program has to do.

    Attributes:
      images: images in a batch, on each device.
      operations: floating-point operations on each device.
      dtype: of the products.
      precision: 'default' or 'highest'.
    """

    images: float
    operations: float
    dtype: str
    precision: str = 'default'


def program_report(compiled: Compiled, device: Gpu | Tpu, work: Work | None) -> dict[str, Any]:
    """Returns what is known about a compiled program, with numbers and strings that JSON has.

    Args:
      compiled: the program.
      device: the device that it was compiled for.
      work: what it does for a batch; None for a kernel alone.
    """
    report: dict[str, Any] = {'device': device.kind, 'memory': compiled.memory._asdict()}
    report['capacity'] = device.memory
    report['collectives'] = [operation._asdict() for operation in collectives(compiled.text)]
    if isinstance(device, Tpu):
        return report | cycles.report(compiled.text)
    launches = instructions(compiled.text)
    report |= {
        'launches': len(launches),
        'bytes': sum(launch.size for launch in launches),
        'by_kind': totals(launches, 'kind'),
        'by_layer': totals(launches, 'layer'),
        'instructions': [launch._asdict() for launch in _largest_first(launches)],
        'transposes': transposes(compiled.text, LEAST_ACTIVATION),
        'select_and_scatters': len(_SCATTER.findall(compiled.text)),
        'registers': [usage._asdict() for usage in compiled.registers],
        'kernels': sorted(kernel_names(launches)),
        'options': compiled.options,
        'ptx': compiled.ptx,
    }
    if work:
        report |= {'images': work.images} | _bounds(report['bytes'], device, work)
    return report


def kernel_names(launches: Sequence[Instruction]) -> set[str]:
    """Returns the names of the Pallas kernels of a program."""
    sources = (launch.source for launch in launches if launch.kind == 'kernel')
    return {match[1] for source in sources if (match := _KERNEL.search(source))}


def _largest_first(launches: Sequence[Instruction]) -> list[Instruction]:
    return sorted(launches, key=lambda launch: -launch.size)


def _bounds(size: int, device: Gpu | Tpu, work: Work) -> dict[str, float]:
    """Returns the seconds and images per second that the rates of the device allow at most."""
    memory = size / device.rates.bandwidth
    arithmetic = work.operations / device.rates.of_products(work.dtype, work.precision)
    return {
        'memory_seconds': memory,
        'arithmetic_seconds': arithmetic,
        'images_per_second_in_sequence': work.images / (memory + arithmetic),
        'images_per_second_overlapped': work.images / max(memory, arithmetic),
    }


def print_report(report: Mapping[str, Any], rows: int) -> None:
    """Prints a report; `rows` is the number of the largest instructions to print."""
    memory, capacity = report['memory'], report['capacity']
    parts = ', '.join(f'{size / 2**20:,.0f} MiB of {name}' for name, size in memory.items())
    print(
        f'memory: {sum(memory.values()) / 2**30:.1f} of the {capacity / 2**30:.0f} GiB of each '
        f'device ({parts})'
    )
    if 'cycles' in report:
        cycles.print_report(report, rows)
    else:
        _print_launches(report, rows)
    print_collectives(report)


def print_collectives(report: Mapping[str, Any]) -> None:
    """Prints each collective operation of a program."""
    for operation in report['collectives']:
        direction = 'backward' if operation['is_backward'] else 'forward'
        print(
            f'{operation["operation"]}, {operation["layer"] or "(none)"}, {direction}: '
            f'{operation["size"] / 1e6:,.3f} MB, of which each device sends '
            f'{operation["sent"] / 1e6:,.3f} MB, among devices {operation["groups"]}, during '
            f'{operation["launches_meanwhile"]} launches that move '
            f'{operation["bytes_meanwhile"] / 1e6:,.0f} MB'
        )
    if report['collectives']:
        sent = sum(operation['sent'] for operation in report['collectives'])
        print(f'each device sends {sent / 1e6:,.1f} MB in all')


def print_kernel(report: Mapping[str, Any]) -> None:
    """Prints the report on a kernel that was compiled alone."""
    print(f'  {report["memory"]["temporaries"] / 2**20:,.0f} MiB of temporaries')
    if 'registers' in report:
        _print_registers(report)


def _print_launches(report: Mapping[str, Any], rows: int) -> None:
    images = report.get('images')
    per_image = f', {report["bytes"] / images / 1e6:.2f} MB for each image' if images else ''
    print(f'{report["launches"]} launches move {report["bytes"] / 1e9:.3f} GB{per_image}')
    for by in ('by_kind', 'by_layer'):
        table = [
            [name or '(none)', str(count), f'{size / 1e6:,.1f} MB']
            for name, (count, size) in report[by].items()
        ]
        print(align_columns([[by.removeprefix('by_'), 'launches', 'moved'], *table]))
    if rows:
        print('the largest:')
        table = [
            [
                f'{each["size"] / 1e6:,.1f} MB',
                each['kind'],
                each['layer'] or '(none)',
                'backward' if each['is_backward'] else 'forward',
                each['name'],
            ]
            for each in report['instructions'][:rows]
        ]
        print(align_columns([['moved', 'kind', 'layer', 'direction', 'name'], *table]))
    _print_registers(report)
    if images:
        memory, arithmetic = report['memory_seconds'], report['arithmetic_seconds']
        print(
            f'bound: {memory * 1e3:.2f} ms to move the bytes and {arithmetic * 1e3:.2f} ms of '
            f'arithmetic, at the rates of the data sheet of a {report["device"]}; '
            f'{report["images_per_second_overlapped"]:,.0f} images/s on each replica if they '
            f'overlap entirely, {report["images_per_second_in_sequence"]:,.0f} if they do not'
        )


def _print_registers(report: Mapping[str, Any]) -> None:
    """Prints the registers of the Pallas kernels, and which kernels of the program spill some."""
    usages = [Registers(**usage) for usage in report['registers']]
    # XLA numbers kernels of one name: NAME, NAME__1, ...
    own = [u for u in usages if u.kernel.partition('__')[0] in report['kernels']]
    for usage in own:
        print(
            f'  kernel {usage.kernel}: {usage.registers} registers in each of {usage.threads} '
            f'threads, occupancy {usage.occupancy:.0%}, {usage.spills} bytes of spills, accesses '
            f'of up to {usage.widest} bytes'
        )
    spills = [usage.kernel for usage in usages if usage.spills]
    if spills:
        print(f'  kernels that spill registers: {", ".join(spills)}')
