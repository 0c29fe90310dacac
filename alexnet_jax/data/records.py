"""Random access to the records of a prepared TFDS data set, for many threads (§2).

A record is a protocol buffer, an `Example`, of which three features are needed. They are located in
its bytes without the library: that copies an image twice while it holds the interpreter lock, which
for raw pixels is a third of all the work (docs/log.md).
"""

import bisect
import collections
import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from alexnet_jax.data import image_index, system_errors
from alexnet_jax.data.images import BadImage
from alexnet_jax.runtime.user_errors import UserError, first_line


class Records:
    """A split, or part of one, of a prepared TFDS data set.

    Attributes:
      features: TFDS's description of a record.
      size: pixels across an image, if all are squares of one size; else 0.
      may_be_transparent: whether images are stored in a format that knows transparency.
      classes: names of the labels.
      remedy: what the user can do about a damaged record, in the imperative.
      index_fault: what is wrong with the index of the images, which is then not used; '' if
        nothing is, or if there is none.

    Raises:
      UserError: the images are stored in a way that is not supported.
    """

    remedy = 'prepare the data set again'

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self.features = builder.info.features
        files = builder.info.splits[split].file_instructions
        self._shards = _Shards([os.fspath(f.filename) for f in files])
        self._files = [(Path(f.filename).name, f.skip) for f in files]
        self._ends = list(itertools.accumulate(f.take for f in files))
        parts = [(Path(f.filename), f.skip, f.take) for f in files]
        self._entries, self.index_fault = _load_index(Path(builder.data_dir), parts)
        self.classes: list[str] = list(self.features['label'].names)
        image = self.features['image']
        _check_pixels(builder.name, image)
        self._shape = None if isinstance(image, tfds.features.Image) else image.shape
        rows, columns = image.shape[:2]
        self.size = rows if rows and rows == columns else 0
        self.may_be_transparent = (
            self._shape is None and getattr(image, '_encoding_format', None) != 'jpeg'
        )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a record.

        Returns:
          'image': the bytes of a file, or uint8 pixels; 'label': an int, -1 if there is none;
          'name': '' if there is none.

        Raises:
          IndexError: the index is out of range.
          BadImage: the record is damaged, or its label is out of range.
          UserError: the record cannot be read, which says nothing about the data: there are too
            many open files or too little memory, or the disk fails.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, position = self._locate(index)
        try:
            image, label, name = self._parse(self._shards.read(shard, position))
        except (RuntimeError, OSError, MemoryError) as error:
            if system_errors.error_code(error) is not None:
                path = self._shards.paths[shard]
                raise system_errors.user_error(f'cannot read {path}', error) from error
            raise BadImage(f'is damaged ({first_line(error)[:120]})') from error
        except (IndexError, ValueError) as error:
            raise BadImage(f'is damaged ({first_line(error)[:120]})') from error
        except KeyError as error:
            raise BadImage(f'has no {error.args[0].decode()}') from error
        if not -1 <= label < len(self.classes):
            raise BadImage(f'has label {label}; there are {len(self.classes)} classes')
        return {'image': image, 'label': label, 'name': name}

    def fetch(self, index: int, out_HWC: np.ndarray) -> dict[str, Any]:
        """Reads a record without its name, by the index of the images where there is one.

        Args:
          index: the number of the record.
          out_HWC: uint8, contiguous; receives raw pixels if they have its shape. Otherwise it is
            undefined afterwards.

        Returns:
          'image': the bytes of a file, or uint8 pixels, which are `out_HWC` itself if they were
          read into it; 'label': an int, -1 if there is none.

        Raises:
          IndexError, BadImage, UserError: as `__getitem__`, which reads what has not the checksum
            that the index states.
        """
        if self._entries is None or not 0 <= index < len(self):
            return self[index]
        return self._fetch_by_index(self._entries[index], index, out_HWC) or self[index]

    def _fetch_by_index(
        self, entry: np.void, index: int, out_HWC: np.ndarray
    ) -> dict[str, Any] | None:
        """Reads an image by its entry in the index; returns None if that fails."""
        position, length, label, checksum = entry.item()
        shard, _ = self._locate(index)
        try:
            file = self._shards.file(shard)
            if self._shape is None:
                image = data = image_index.read(file.descriptor, position, length)
            else:
                image = out_HWC if out_HWC.shape == self._shape else np.empty(self._shape, np.uint8)
                data = image.data.cast('B')
                if len(data) != length or not image_index.read_into(
                    file.descriptor, position, data
                ):
                    return None
        except (OSError, MemoryError):
            self._shards.close(shard)
            return None
        if image_index.checksum(data) != checksum or not -1 <= label < len(self.classes):
            return None
        return {'image': image, 'label': label}

    def differs_from_index(self, index: int, example: Mapping[str, Any]) -> bool:
        """Checks whether reading by the index gives another image or label, or fails."""
        if self._entries is None:
            return False
        out_HWC = np.empty(self._shape or (0, 0, 3), np.uint8)
        other = self._fetch_by_index(self._entries[index], index, out_HWC)
        if other is None or other['label'] != example['label']:
            return True
        return bytes(other['image']) != bytes(example['image'])

    def _parse(self, record: bytes) -> tuple[bytes | np.ndarray, int, str]:
        """Returns the image, the label and the name in a record."""
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
        return image, label, record[start:end].decode('utf-8', 'surrogateescape')

    def _locate(self, index: int) -> tuple[int, int]:
        """Returns the number of the shard of a record, and that of the record there, from 0."""
        shard = bisect.bisect_right(self._ends, index)
        first = self._ends[shard - 1] if shard else 0
        return shard, self._files[shard][1] + index - first

    def where(self, index: int) -> str:
        """Returns the shard of a record and its number there, counted from 0, for messages."""
        shard, position = self._locate(index)
        return f'record {position} of {self._files[shard][0]}'


def _load_index(
    folder: Path, parts: Sequence[tuple[Path, int, int]]
) -> tuple[np.ndarray | None, str]:
    """Returns the part of an index that belongs to a split, if any, and what is wrong with it."""
    try:
        return image_index.load(folder, parts), ''
    except ValueError as error:
        return None, first_line(error)


def _check_pixels(name: str, image: Any) -> None:
    """Refuses pixels that would be misread: floating-point numbers, and compressed tensors."""
    is_file = isinstance(image, tfds.features.Image)
    kind = np.dtype(image.np_dtype)
    if kind != np.uint8 and not (is_file and kind == np.uint16):  # 16 bits are decoded to 8
        raise UserError(
            f'the images of {name} have pixels of type {kind}, and only uint8 is supported: choose '
            'another data set'
        )
    encoding = getattr(image, '_encoding', tfds.features.Encoding.BYTES)
    if not is_file and encoding != tfds.features.Encoding.BYTES:
        raise UserError(
            f'the pixels of {name} are stored with the encoding {encoding.value!r}, and only '
            "'bytes' is supported: choose another data set"
        )


class _Shards:
    """Reads from many files in many threads, and keeps only some of them open.

    A quarter of the files that the process may open can be shards of one split; another quarter is
    for the other split, and the rest for checkpoints, curves and batches in shared memory. Where
    that is less than there are shards, those that were read longest ago are closed. A shard that
    another thread reads at that moment is closed after that, so that for each thread one more may
    be open.

    Attributes:
      paths: the files.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self._start()

    def _start(self) -> None:
        # By the number of the shard and how it is read.
        self._readers: collections.OrderedDict[tuple[int, str], Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._most = max(1, system_errors.allow_open_files(4 * len(self.paths)) // 4)

    def __getstate__(self) -> list[str]:
        return self.paths

    def __setstate__(self, paths: list[str]) -> None:
        self.paths = paths
        self._start()

    def read(self, shard: int, position: int) -> bytes:
        """Returns a record, by the number of its shard and its own there.

        Raises:
          RuntimeError: it cannot be read.
        """
        try:
            return self._reader(shard).read([position])[0]
        except RuntimeError as error:
            self.close(shard)  # ArrayRecord repeats the error of a reader for ever
            if system_errors.error_code(error) != errno.EMFILE:
                raise
        self._close_all()
        return self._reader(shard).read([position])[0]

    def file(self, shard: int) -> image_index.OpenFile:
        """Returns the file of a shard, which stays open as long as the caller refers to it.

        Raises:
          OSError: it cannot be opened.
        """
        return self._get(shard, 'file', image_index.OpenFile)

    def _reader(self, shard: int) -> Any:
        return self._get(shard, 'records', _open_shard)  # an error comes with the first record

    def _get(self, shard: int, kind: str, open_shard: Callable[[str], Any]) -> Any:
        key = shard, kind
        with self._lock:
            reader = self._readers.get(key)
            if reader is not None:
                self._readers.move_to_end(key)
                return reader
        reader = open_shard(self.paths[shard])
        with self._lock:
            self._readers[key] = reader
            while len(self._readers) > self._most:
                self._readers.popitem(last=False)
        return reader

    def close(self, shard: int) -> None:
        """Closes a shard; it is opened again when it is read."""
        with self._lock:
            for kind in ('file', 'records'):
                self._readers.pop((shard, kind), None)

    def _close_all(self) -> None:
        """Removes all readers, which closes their files, and keeps fewer open from now on."""
        with self._lock:
            self._most = max(1, len(self._readers) // 2)
            self._readers.clear()


def _open_shard(path: str) -> Any:
    # Each record is read in the calling thread: the parallel threads read different batches.
    return array_record_module.ArrayRecordReader(
        os.fsencode(path),
        options='readahead_buffer_size:0,max_parallelism:0',
        file_reader_buffer_size=32768,
    )


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
        for _, _, entry, entry_end in _fields(record, start, end):  # of the map of features
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
