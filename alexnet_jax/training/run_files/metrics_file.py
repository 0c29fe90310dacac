"""Reads and writes `metrics.jsonl`: a JSON object on each line, the step and named numbers.

A number that is not finite is null in the file, because JSON has no NaN; readers leave it out.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import list_names, warn, warn_once
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors
from alexnet_jax.training.run_files.append_only import AppendOnlyFile

Line = dict[str, float]


class Contents(NamedTuple):
    """The contents of a metrics.jsonl.

    Attributes:
      lines: the step and the finite numbers of each intact line, in the order of the file.
      damaged: the numbers, from 1, of the lines that are damaged.
      is_incomplete: whether the last line is incomplete, as after a kill, or while a run writes it.
    """

    lines: list[Line]
    damaged: list[int]
    is_incomplete: bool


def read(file: Path) -> Contents:
    """Reads a metrics.jsonl; where there is no such file, it has no lines.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        if file.exists() and not file.is_file():
            raise UserError(f'{file} is not a file: move it elsewhere')
        rows = file.read_bytes().split(b'\n')
    except FileNotFoundError:
        return Contents([], [], False)
    except OSError as error:
        raise UserError(f'cannot read {file}: {error.strerror}') from error
    lines, damaged = [], []
    for number, row in enumerate(rows, 1):
        line = _parse(row)
        if line is not None:
            lines.append(line)
        elif row and number < len(rows):
            damaged.append(number)
        elif row:
            return Contents(lines, damaged, True)
    return Contents(lines, damaged, False)


def read_lines(file: Path) -> list[Line]:
    """Reads the intact lines of a metrics.jsonl; the first time, a line says which are damaged.

    Raises:
      UserError: the file cannot be read.
    """
    contents = read(file)
    if contents.damaged:
        warn_once(f'{file}: {_name_lines(contents.damaged)} damaged and left out')
    return contents.lines


class MetricsFile:
    """The metrics.jsonl of a run that is training.

    Lines that cannot be written stay in memory, and are written by a later `flush`.

    Args:
      file: the path of the file; its folder exists.
      step: the training steps done in the checkpoint; later lines are removed, because the run
        writes them again.
      evaluated: the step of its newest evaluation; results of later ones are removed.

    Attributes:
      lines: the lines that the file had before, up to the checkpoint.

    Raises:
      UserError: the file cannot be read or written.
    """

    def __init__(self, file: Path, step: int, evaluated: int) -> None:
        contents = read(file)
        self.lines = [x for x in contents.lines if x['step'] <= _last_step(x, step, evaluated)]
        if contents.damaged:
            _keep_damaged(file, contents.damaged)
        if contents.damaged or contents.is_incomplete or len(self.lines) < len(contents.lines):
            with explain_os_errors(f'write {file}'), atomic_files.replace(file) as partial:
                partial.write_bytes(b''.join(map(_encode, self.lines)))
        elif contents.lines and not file.read_bytes().endswith(b'\n'):
            with explain_os_errors(f'write {file}'):
                AppendOnlyFile(file).append(b'\n')
        self._file = AppendOnlyFile(file)
        self._pending: list[bytes] = []

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._file.path

    @property
    def pending(self) -> int:
        """The number of lines that are not in the file yet."""
        return len(self._pending)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line, which the next `flush` writes."""
        self._pending.append(_encode({'step': step} | dict(values)))

    def flush(self, to_disk: bool = False) -> None:
        """Writes the lines that are not in the file yet.

        Args:
          to_disk: whether to wait until they are on the disk.

        Raises:
          OSError: they cannot be written; they stay in memory.
        """
        if self._pending or to_disk:
            self._file.append(b''.join(self._pending), to_disk)
            self._pending.clear()


def _parse(row: bytes) -> Line | None:
    """Returns the step and the finite numbers of a line; None where it is damaged."""
    try:
        values = json.loads(row.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    step = values.get('step')
    if type(step) is not int or not 0 <= step < 2**62:
        return None
    if not all(x is None or type(x) in (int, float) for x in values.values()):
        return None
    return {name: x for name, x in values.items() if _is_finite(x)}


def _is_finite(value: float | None) -> bool:
    try:
        return value is not None and math.isfinite(value)
    except OverflowError:  # an integer of more than 300 digits
        return False


def _encode(values: Mapping[str, float]) -> bytes:
    finite = {name: x if _is_finite(x) else None for name, x in values.items()}
    return json.dumps(finite, allow_nan=False).encode() + b'\n'


def _last_step(line: Line, step: int, evaluated: int) -> int:
    is_evaluation = any(name.startswith('eval') for name in line)
    return evaluated if is_evaluation else step


def _keep_damaged(file: Path, numbers: list[int]) -> None:
    """Copies a damaged file before it is written anew, and prints where the copy is."""
    copy = atomic_files.unused_path(file.with_name(f'{file.name}.damaged'))
    with explain_os_errors(f'write {copy}'), atomic_files.replace(copy) as partial:
        shutil.copyfile(file, partial)
    warn(f'{file}: {_name_lines(numbers)} damaged and left out; the file was copied to {copy}')


def _name_lines(numbers: list[int]) -> str:
    names = list_names(list(map(str, numbers)), 5)
    return f'line {names} is' if len(numbers) == 1 else f'lines {names} are'
