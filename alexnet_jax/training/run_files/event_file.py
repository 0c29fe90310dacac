"""TensorBoard's event file of a run, written in the main thread.

tensorboardX's writer has a thread that the first OSError ends; then its queue fills, and training
waits for ever. So only its records and summaries are used.

The scalars are those of metrics.jsonl. When a run is resumed, one new file is written from them, so
that no point is missing or double, whenever the run was killed. Pictures are in event files alone,
and are copied from the old ones.
"""

import contextlib
import math
import os
import platform
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import (
    Event,  # pyrefly: ignore[missing-module-attribute]
    SessionLog,  # pyrefly: ignore[missing-module-attribute]
)
from tensorboardX.proto.summary_pb2 import Summary  # pyrefly: ignore[missing-module-attribute]
from tensorboardX.record_writer import masked_crc32c

from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import warn
from alexnet_jax.training.run_files.append_only import AppendOnlyFile

PREFIX = 'events.out.tfevents.'
# TensorBoard reads every file with 'tfevents' in its name, so an incomplete file has another name.
INCOMPLETE = '.curves.incomplete'


class EventFile:
    """The event file of a run that is training.

    Events that cannot be written stay in memory, and are written by a later `flush`.

    Args:
      folder: the folder of the run. Nothing is written to it before `flush`.
      lines: the lines of metrics.jsonl up to the checkpoint: the points of the curves.
      last_picture: the step of the newest picture that is copied from old files; -1 for none.
    """

    def __init__(
        self, folder: Path, lines: Sequence[Mapping[str, float]], last_picture: int
    ) -> None:
        self._folder = folder
        self._old: list[Path] = []
        self._file: AppendOnlyFile | None = None
        pictures, times = self._read_old(last_picture)
        now = time.time()
        self._pending = [_frame(Event(wall_time=now, file_version='brain.Event:2'))]
        # A START makes TensorBoard drop the events that it has read from the files before this one.
        # One of its readers ignores the first START of a run.
        start = Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START))
        self._pending += [_frame(start)] * 2
        self._pending += [record for _, record in sorted(pictures.items())]
        for line in lines:
            values = {name: x for name, x in line.items() if name != 'step'}
            step = int(line['step'])
            now = next((times[step, name] for name in values if (step, name) in times), now)
            self.add_scalars(step, values, now)

    @property
    def path(self) -> Path:
        """The path of the file, or of its folder where there is none yet."""
        return self._file.path if self._file else self._folder

    def add_scalars(
        self, step: int, values: Mapping[str, float], wall_time: float | None = None
    ) -> None:
        """Adds a point to each curve, except where its value is not finite.

        Args:
          step: training steps done.
          values: the values by the names of the curves.
          wall_time: seconds since 1970; None for now.
        """
        finite = {name: x for name, x in values.items() if math.isfinite(x)}
        if finite:
            parts = [x for name, y in finite.items() for x in summary.scalar(name, y).value]
            self._add(step, Summary(value=parts), wall_time)

    def add_picture(self, name: str, step: int, picture_HWC: np.ndarray) -> None:
        """Adds a picture, uint8 (height, width, 3)."""
        self._add(step, summary.image(name, picture_HWC, dataformats='HWC'), None)

    def flush(self) -> None:
        """Writes the events that are not in the file yet.

        Raises:
          OSError: they cannot be written; they stay in memory.
        """
        if not self._pending:
            return
        if self._file is None:
            self._create()
        else:
            self._file.append(b''.join(self._pending))
        self._pending.clear()

    def _add(self, step: int, values: Any, wall_time: float | None) -> None:
        wall_time = time.time() if wall_time is None else wall_time
        self._pending.append(_frame(Event(wall_time=wall_time, step=step, summary=values)))

    def _read_old(
        self, last_picture: int
    ) -> tuple[dict[tuple[int, str], bytes], dict[tuple[int, str], float]]:
        """Returns pictures, and the times of scalars, from the files of earlier starts.

        Both are by step and name.
        """
        pictures, times = {}, {}
        for path in sorted(self._folder.glob(f'{PREFIX}*')):
            try:
                for event, record in read_events(path):
                    for value in event.summary.value:
                        if value.HasField('image') and event.step <= last_picture:
                            pictures[event.step, value.tag] = record
                        elif value.HasField('simple_value'):
                            times[event.step, value.tag] = event.wall_time
            except OSError as error:
                warn(f'cannot read {path}: {error.strerror}; its pictures are not copied')
            else:
                self._old.append(path)
        return pictures, times

    def _create(self) -> None:
        """Writes a new file; then empties the newest of earlier starts and removes the others."""
        incomplete = self._folder / INCOMPLETE
        path = self._folder / self._new_name()
        try:
            incomplete.unlink(missing_ok=True)  # from a start that was killed
            AppendOnlyFile(incomplete).append(b''.join(self._pending), to_disk=True)
            incomplete.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                incomplete.unlink(missing_ok=True)  # its room may be what the checkpoint needs
            raise
        self._file = AppendOnlyFile(path)
        with contextlib.suppress(OSError):
            atomic_files.sync_folder(self._folder)
            # A running TensorBoard moves on to the new file only if its present one still exists.
            for old in self._old[-1:]:
                os.truncate(old, 0)
            for old in self._old[:-1]:
                old.unlink(missing_ok=True)

    def _new_name(self) -> str:
        """Returns a name that TensorBoard sorts after the names of all files that there are."""
        newest = 0
        for old in self._folder.glob(f'{PREFIX}*'):
            digits = old.name.removeprefix(PREFIX).partition('.')[0]
            newest = max(newest, int(digits) if digits.isdecimal() and len(digits) == 10 else 0)
        return f'{PREFIX}{max(int(time.time()), newest + 1):010}.{platform.node()}'


def read_events(path: Path) -> Iterator[tuple[Event, bytes]]:
    """Reads the events of a file, up to the first that is damaged or incomplete.

    Yields:
      An event, and its record as it is in the file.

    Raises:
      OSError: the file cannot be read.
    """
    data, start = path.read_bytes(), 0
    while start + 12 <= len(data):
        header = data[start : start + 8]
        (length,) = struct.unpack('<Q', header)
        end = start + 12 + length + 4
        if end > len(data) or data[start + 8 : start + 12] != _checksum(header):
            return
        content = data[start + 12 : end - 4]
        if data[end - 4 : end] != _checksum(content):
            return
        try:
            event = Event.FromString(content)
        except DecodeError:
            return
        yield event, data[start:end]
        start = end


def _frame(event: Any) -> bytes:
    """Returns the record of an event: its length and its bytes, each with a checksum."""
    content = event.SerializeToString()
    header = struct.pack('<Q', len(content))
    return header + _checksum(header) + content + _checksum(content)


def _checksum(data: bytes) -> bytes:
    return struct.pack('<I', masked_crc32c(data))
