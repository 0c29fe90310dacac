"""The GPU kernels that take the most time in a profile of JAX's profiler."""

import collections
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from alexnet_jax.runtime.text_table import align_columns

LARGEST = 30  # kernels in the table
_LONGEST = 70  # characters of a name
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%([\w.-]+) = .*?op_name="([^"]+)"', re.MULTILINE)


class Kernel(NamedTuple):
    """A kernel as one instruction of a program calls it.

    Attributes:
      name: the kernel.
      instruction: the instruction of the compiled program; '' where the profile does not say.
      place: the operation in the source, such as 'conv2/conv_general_dilated'; '' likewise.
    """

    name: str
    instruction: str
    place: str


def report(folder: Path, steps: int, program: str) -> str:
    """Formats a table of the kernels in the newest profile of a folder.

    Args:
      folder: where the profiler has written.
      steps: the steps in the profile.
      program: the text of the compiled step, which names the operations of its instructions.
    """
    files = sorted(folder.rglob('*.xplane.pb'), key=lambda file: file.stat().st_mtime)
    if not files:
        return f'no profile in {folder}'
    profile = jax.profiler.ProfileData.from_file(str(files[-1]))
    seconds: dict[Kernel, float] = collections.defaultdict(float)
    calls: dict[Kernel, int] = collections.defaultdict(int)
    places = {match[1]: _strip(match[2]) for match in _INSTRUCTION.finditer(program)}
    for name, instruction, duration in _events(profile):
        kernel = Kernel(name, instruction, places.get(instruction, ''))
        seconds[kernel] += duration
        calls[kernel] += 1
    if not seconds:
        return 'the profile has no GPU kernels'
    total = sum(seconds.values())
    largest = sorted(seconds, key=lambda kernel: -seconds[kernel])[:LARGEST]
    rows: list[tuple[str, ...]] = [
        ('ms a step', 'of all', 'calls a step', 'kernel', 'instruction', 'operation')
    ]
    for kernel in largest:
        names = (_shorten(text) for text in kernel)
        each = f'{1000 * seconds[kernel] / steps:.3f}', f'{seconds[kernel] / total:.1%}'
        rows.append((*each, f'{calls[kernel] / steps:g}', *names))
    number = sum(calls.values()) / steps
    heading = f'{1000 * total / steps:.3f} ms of kernels and copies in a step, {number:g} calls'
    return f'{heading}\n{align_columns(rows)}'


def _events(profile: Any) -> Iterator[tuple[str, str, float]]:
    """Yields the name, the instruction and the seconds of each kernel and copy on the GPUs."""
    for plane in profile.planes:
        if not plane.name.startswith('/device:GPU'):
            continue
        for line in plane.lines:
            # The other lines sum up the events of the streams.
            if not line.name.startswith('Stream'):
                continue
            for event in line.events:
                stats = {str(key): value for key, value in event.stats}
                yield event.name, str(stats.get('hlo_op', '')), event.duration_ns / 1e9


def _strip(place: str) -> str:
    """Returns an operation's name without the transformations of JAX around it."""
    parts = [
        part
        for part in place.split('/')
        if not re.match(r'(jit|shmap|shard_map|closed_call)\b', part)
    ]
    return '/'.join(parts)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f'{text[: _LONGEST - 3]}...'
