"""Random access to the records of a prepared TFDS data set, for many threads.

A record is an `Example` of protocol buffers, of which three features are wanted. They are found in
its bytes by hand: the library copies an image twice while it holds the interpreter, which for raw
pixels is a third of all the work (docs/log.md).
"""

import bisect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source

from alexnet_jax.data.images import BadImage
from alexnet_jax.runtime.user_errors import first_line


class Records:
    """A split, or part of one, of a prepared TFDS data set.

    Attributes:
      features: TFDS's description of a record.
      size: pixels across, if all images are squares of one size; else 0.
      classes: names of the labels.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self.features = builder.info.features
        files = builder.info.splits[split].file_instructions
        # One record at a time is read by the thread that asks for it: the batches are parallel.
        self._data = array_record_data_source.ArrayRecordDataSource(
            files, reader_options={'max_parallelism': '0'}
        )
        self._files = [(Path(f.filename).name, f.skip) for f in files]
        self._ends = list(itertools.accumulate(f.take for f in files))
        self.classes: list[str] = list(self.features['label'].names)
        image = self.features['image']
        self._shape = None if isinstance(image, tfds.features.Image) else image.shape
        rows, columns = image.shape[:2]
        self.size = rows if rows and rows == columns else 0

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """'image' (the bytes of a file, or pixels), 'label' and 'name' ('' if there is none).

        Raises:
          BadImage: the record is damaged, or its label is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            record = self._data[index]
            found = features_of(record, (b'image', b'label', b'file_name'))
            start, end = found[b'image']
            if self._shape:
                pixels = np.frombuffer(record, np.uint8, end - start, start)
                image = pixels.reshape(self._shape)
            else:
                image = record[start:end]
            label, _ = _varint(record, found[b'label'][0])
            label -= (label >> 63) << 64  # negative numbers come as their two's complement
            start, end = found.get(b'file_name', (0, 0))
            name = record[start:end].decode('utf-8', 'surrogateescape')
        except Exception as error:  # the reader raises what it likes, and so does broken data
            raise BadImage(f'is damaged ({first_line(error)[:120]})') from error
        if not -1 <= label < len(self.classes):
            raise BadImage(f'has label {label}; there are {len(self.classes)} classes')
        return {'image': image, 'label': label, 'name': name}

    def where(self, index: int) -> str:
        """The shard, and the record in it, counted from 0."""
        file = bisect.bisect_right(self._ends, index)
        first = self._ends[file - 1] if file else 0
        name, skip = self._files[file]
        return f'record {skip + index - first} of {name}'


_LENGTH = 2  # the wire type of what has a length: bytes, messages, packed numbers
_SIZES = {1: 8, 5: 4}  # of the wire types of fixed size


def features_of(record: bytes, names: tuple[bytes, ...]) -> dict[bytes, tuple[int, int]]:
    """Where in an Example the first values of these features lie, if it has them.

    Returns:
      For each name, first and last byte: of a byte string, its own; of integers, of the packed or
      single number.

    Raises:
      IndexError, ValueError: this is no Example.
    """
    found = {}
    for _, _, start, end in _fields(record, 0, len(record)):  # the one field of an Example
        for _, _, entry, entry_end in _fields(record, start, end):  # of the map of features
            name, value = b'', (0, 0)
            for number, _, at, stop in _fields(record, entry, entry_end):
                if number == 1:
                    name = record[at:stop]
                else:
                    value = at, stop
            if name in names:
                # A feature holds one list, the list its values.
                for _, _, at, stop in _fields(record, *value):
                    for _, _, first, last in _fields(record, at, stop):
                        found.setdefault(name, (first, last))
    return found


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, first byte, end."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _LENGTH:
            length, at = _varint(data, at)
            stop = at + length
        elif kind == 0:
            _, stop = _varint(data, at)
        else:
            stop = at + _SIZES.get(kind, end)
        if stop > end:
            raise ValueError('a field reaches beyond its message')
        yield key >> 3, kind, at, stop
        at = stop


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next one begins."""
    byte = data[at]
    value, shift = byte & 127, 7
    at += 1
    while byte > 127:
        byte = data[at]
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    return value, at
