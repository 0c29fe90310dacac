"""Random access to the records of a prepared TFDS data set, for many threads (§2).

A record is a protocol buffer, an `Example`, of which three features are needed. They are located in
its bytes without the library: that copies an image twice while it holds the interpreter lock, which
for raw pixels is a third of all the work (docs/log.md).
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
      size: pixels across an image, if all are squares of one size; else 0.
      classes: names of the labels.
      remedy: what the user can do about a damaged record, in the imperative.
    """

    remedy = 'prepare the data set again'

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self.features = builder.info.features
        files = builder.info.splits[split].file_instructions
        # Each record is read in the calling thread: the parallel threads read different batches.
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
        """Reads a record.

        Returns:
          'image': the bytes of a file, or uint8 pixels; 'label': an int, -1 if there is none;
          'name': '' if there is none.

        Raises:
          IndexError: the index is out of range.
          BadImage: the record is damaged, or its label is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            record = self._data[index]
            features = locate_features(record, (b'image', b'label', b'file_name'))
            start, end = features[b'image']
            if self._shape:
                pixels = np.frombuffer(record, np.uint8, end - start, start)
                image = pixels.reshape(self._shape)
            else:
                image = record[start:end]
            label, _ = _varint(record, features[b'label'][0])
            label -= (label >> 63) << 64  # negative numbers are stored as two's complement
            start, end = features.get(b'file_name', (0, 0))
            name = record[start:end].decode('utf-8', 'surrogateescape')
        except Exception as error:  # damaged data raise many kinds of errors
            raise BadImage(f'is damaged ({first_line(error)[:120]})') from error
        if not -1 <= label < len(self.classes):
            raise BadImage(f'has label {label}; there are {len(self.classes)} classes')
        return {'image': image, 'label': label, 'name': name}

    def where(self, index: int) -> str:
        """Returns the shard of a record and its number there, counted from 0, for messages."""
        file = bisect.bisect_right(self._ends, index)
        first = self._ends[file - 1] if file else 0
        name, skip = self._files[file]
        return f'record {skip + index - first} of {name}'


_LENGTH_DELIMITED = 2  # wire type of bytes, messages and packed numbers
_FIXED_SIZES = {1: 8, 5: 4}  # bytes of the wire types of fixed size


def locate_features(record: bytes, names: tuple[bytes, ...]) -> dict[bytes, tuple[int, int]]:
    """Locates the first values of features in a serialized Example.

    Returns:
      For each of these features that the Example has, the position of its first byte and that
      after its last one: those of the first byte string, or of the first number or all packed ones.

    Raises:
      IndexError, ValueError: this is not an Example.
    """
    locations = {}
    for _, _, start, end in _fields(record, 0, len(record)):  # the one field of an Example
        for _, _, entry, entry_end in _fields(
            record, start, end
        ):  # an entry of the map of features
            name, value = b'', (0, 0)
            for number, _, at, stop in _fields(record, entry, entry_end):
                if number == 1:
                    name = record[at:stop]
                else:
                    value = at, stop
            if name in names:
                # A feature contains one list, and the list contains the values.
                for _, _, at, stop in _fields(record, *value):
                    for _, _, first, last in _fields(record, at, stop):
                        locations.setdefault(name, (first, last))
    return locations


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the fields of a message: number, wire type, first byte, end."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
            stop = at + length
        elif kind == 0:
            _, stop = _varint(data, at)
        else:
            stop = at + _FIXED_SIZES.get(kind, end)
        if stop > end:
            raise ValueError('a field reaches beyond its message')
        yield key >> 3, kind, at, stop
        at = stop


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Reads a number stored in seven bits per byte; returns it and the position after it."""
    byte = data[at]
    value, shift = byte & 127, 7
    at += 1
    while byte > 127:
        byte = data[at]
        value |= (byte & 127) << shift
        shift += 7
        at += 1
    return value, at
