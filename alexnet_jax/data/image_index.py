"""The index of a prepared data set: where each image is, its label and its checksum (§2).

With the index an image is read by one call of the system, raw pixels straight into their place in
a batch, while other threads run. ArrayRecord copies a record three times and holds the interpreter
lock for one of the copies, and the record must then be parsed (docs/log.md has the times). The
index is an addition: a data set without it, and an image that does not have its checksum, is read
by ArrayRecord, which also determines what is wrong with a record.

ArrayRecord files are in Riegeli's format: chunks, here of one uncompressed record each, whose bytes
are interrupted by a header at the start of every block of 64 KiB. A position in this module does
not count these headers. The layout is not taken on trust: an index is only written after each image
has been read with it and compared.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import explain_os_errors, first_line

FILE = 'index.npz'  # in the folder of the data set

# 'position': of the first byte of the image in its shard; 'length': in bytes.
ENTRY = np.dtype([('position', '<i8'), ('length', '<i4'), ('label', '<i4'), ('checksum', '<u8')])

_BLOCK, _BLOCK_HEADER = 1 << 16, 24  # bytes
_USABLE = _BLOCK - _BLOCK_HEADER
_CHUNK_HEADER = struct.Struct('<8xQ8xQ8x')  # bytes of data; type, and number of records << 8
_CHUNK_OF_RECORDS = ord('r')


class OpenFile:
    """A file to read, which is closed when nothing refers to it any more.

    So a thread that reads it can never get the bytes of another file that has its number now.

    Attributes:
      descriptor: the number of the open file.

    Raises:
      OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)


def checksum(data: bytes | memoryview) -> int:
    """Returns the checksum of an image's bytes: 64 bits of XXH3."""
    return xxhash.xxh3_64_intdigest(data)


def _pieces(position: int, length: int) -> Iterator[tuple[int, int]]:
    """Yields the pieces of a range between block headers: first byte in the file, length."""
    while length:
        block, within = divmod(position, _USABLE)
        piece = min(length, _USABLE - within)
        yield block * _BLOCK + _BLOCK_HEADER + within, piece
        position += piece
        length -= piece


def read_into(file: int, position: int, place: memoryview) -> bool:
    """Reads bytes straight into their place.

    Args:
      file: a file descriptor.
      position: of the first byte.
      place: a memoryview of bytes, which is filled.

    Returns:
      Whether the file has so many bytes.

    Raises:
      OSError: the file cannot be read.
    """
    start, length = next(_pieces(position, len(place)))
    if length == len(place):
        return os.preadv(file, [place], start) == length
    buffers, at, expected, header = [], 0, 0, bytearray(_BLOCK_HEADER)
    for _, length in _pieces(position, len(place)):
        if at:
            buffers.append(header)  # which is not used
            expected += _BLOCK_HEADER
        buffers.append(place[at : at + length])
        at += length
    return os.preadv(file, buffers, start) == expected + at


def read(file: int, position: int, length: int) -> bytes:
    """Returns bytes of a file, fewer than `length` if the file ends before.

    Raises:
      OSError: the file cannot be read.
    """
    pieces = list(_pieces(position, length))
    if not pieces:
        return b''
    start = pieces[0][0]
    data = os.pread(file, sum(pieces[-1]) - start, start)
    if len(pieces) == 1:
        return data
    view = memoryview(data)
    return b''.join(view[at - start : at - start + length] for at, length in pieces)


class ShardIndex:
    """The index of a shard that is being written."""

    def __init__(self) -> None:
        self._records: list[tuple[int, int, int, int]] = []

    def add(self, record: int, image: tuple[int, int], label: int, data: bytes) -> None:
        """Adds a record.

        Args:
          record: the length of the record in bytes.
          image: the place of the image in the record: first byte, end.
          label: the label.
          data: the image.
        """
        start, end = image
        self._records.append((record - start, end - start, label, checksum(data)))

    def finish(self, path: Path) -> np.ndarray:
        """Locates the records in the complete file, and reads each image for comparison.

        Returns:
          (n,) ENTRY; without entries if the file is not laid out as expected.

        Raises:
          OSError: the file cannot be read.
        """
        entries = np.zeros(len(self._records), ENTRY)
        file = OpenFile(str(path))
        chunks = _chunk_ends(file.descriptor)
        for row, (before_end, length, label, expected) in enumerate(self._records):
            position = next(chunks, 0) - before_end  # a record is the end of its chunk
            if position < 0 or checksum(read(file.descriptor, position, length)) != expected:
                return np.zeros(0, ENTRY)
            entries[row] = position, length, label, expected
        return entries


def _chunk_ends(file: int) -> Iterator[int]:
    """Yields the positions after the chunks of one record."""
    position = 0
    while len(header := read(file, position, _CHUNK_HEADER.size)) == _CHUNK_HEADER.size:
        size, kind = _CHUNK_HEADER.unpack(header)
        position += _CHUNK_HEADER.size + size
        if kind == _CHUNK_OF_RECORDS | 1 << 8:
            yield position


def save(folder: Path, shards: Sequence[tuple[Path, np.ndarray]]) -> None:
    """Writes the index of a data set.

    Args:
      folder: the folder of the data set.
      shards: the files and their entries.

    Raises:
      UserError: the file cannot be written.
    """
    file = folder / FILE
    with (
        explain_os_errors(f'write {file}'),
        atomic_files.replace(file) as partial,
        partial.open('wb') as opened,
    ):
        np.savez(
            opened,
            names=np.array([path.name for path, _ in shards]),
            sizes=np.array([path.stat().st_size for path, _ in shards]),
            lengths=np.array([len(entries) for _, entries in shards]),
            entries=np.concatenate([entries for _, entries in shards]),
        )


def load(folder: Path, parts: Sequence[tuple[Path, int, int]]) -> np.ndarray | None:
    """Loads the part of an index that belongs to a split.

    Args:
      folder: the folder of the data set.
      parts: the files, and the first record and the number of records that are used of each.

    Returns:
      (n,) ENTRY; None if there is no index.

    Raises:
      ValueError: the index is damaged, or is that of other files.
    """
    try:
        data = (folder / FILE).read_bytes()
    except OSError:
        return None
    try:
        shards, entries = _parse(data)
    except Exception as error:  # damaged archives raise many kinds of errors
        raise ValueError(f'is damaged ({first_line(error)})') from error
    used = []
    for path, skip, take in parts:
        size, first, length = shards.get(path.name, (-1, 0, 0))
        if path.stat().st_size != size or skip + take > length:
            raise ValueError(f'is not that of {path.name}')
        used.append(entries[first + skip : first + skip + take])
    return np.concatenate(used)


def _parse(data: bytes) -> tuple[dict[str, tuple[int, int, int]], np.ndarray]:
    """Parses the file.

    Returns:
      For each shard its size in bytes, its first entry and the number of its entries; all entries.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # NumPy parses before it compares a CRC
        bad = archive.testzip()
    if bad:
        raise ValueError(f'{bad} has another checksum')
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        entries, lengths = file['entries'], file['lengths']
        firsts = np.cumsum(lengths) - lengths
        values = zip(file['sizes'].tolist(), firsts.tolist(), lengths.tolist(), strict=True)
        shards = dict(zip(file['names'].tolist(), values, strict=True))
    if entries.dtype != ENTRY or len(entries) != lengths.sum():
        raise ValueError(f'it has {len(entries):,} entries of type {entries.dtype}')
    return shards, entries
