"""Reads images where they lie: as bytes of a file, or as members of a zip file (§2)."""

import os
import struct
import zlib

from alexnet_jax.runtime.user_errors import UserError, explain_os_errors


class FileReader:
    """Reads pieces of files; the file read last stays open."""

    def __init__(self, paths: list[str]) -> None:
        self._paths, self._index, self._file = paths, -1, -1

    def __enter__(self) -> 'FileReader':
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def read(self, index: int, offset: int, size: int) -> bytes:
        """Returns `size` bytes from `offset` on of the file with this index.

        Raises:
          UserError: the file cannot be read, or is shorter than it was.
        """
        data = self._read_piece(index, offset, size)
        if len(data) != size:
            raise UserError(
                f'{self._paths[index]} became shorter while it was read: run the same command '
                'again when the file is complete'
            )
        return data

    def _read_piece(self, index: int, offset: int, size: int) -> bytes:
        """Returns the bytes at an offset; fewer than `size` at the end of the file."""
        if index != self._index:
            self.__exit__()
            self._file, self._index = -1, index
        with explain_os_errors(f'read {self._paths[index]}'):
            if self._file < 0:
                self._file = os.open(self._paths[index], os.O_RDONLY)
            return os.pread(self._file, size, offset)


class ZipReader(FileReader):
    """Reads members of zip files, stored or deflated, each without reading the others.

    A member is located by its local header, which has the method and, unless the zip was written
    as a stream, the CRC-32. The zip's directory, with 1.4 million members, is not needed here.
    """

    _HEADER = struct.Struct('<4sHHHHHLLLHH')  # of a member, before its name
    _BLOCK = 1 << 16  # bytes of a deflated member that are read at a time
    _STORED, _DEFLATED = 0, 8
    _ENCRYPTED, _CRC_FOLLOWS = 1, 8  # flags

    def read(self, index: int, offset: int, size: int) -> bytes:
        """Returns the contents of a member.

        Args:
          index: index of the zip file.
          offset: first byte of the member's local header.
          size: length of the contents in bytes.

        Raises:
          UserError: the zip cannot be read, or the member is damaged.
        """
        header = self._read_piece(index, offset, self._HEADER.size)
        if len(header) < self._HEADER.size or not header.startswith(b'PK\3\4'):
            raise self._damaged(index, offset, 'has no header')
        _, _, flags, method, _, _, crc, _, _, name_size, extra_size = self._HEADER.unpack(header)
        start = offset + self._HEADER.size + name_size + extra_size
        if flags & self._ENCRYPTED or method not in (self._STORED, self._DEFLATED):
            raise self._damaged(index, offset, 'is encrypted, or compressed by another method')
        if method == self._STORED:
            data, end = self._read_piece(index, start, size), start + size
        else:
            data, end = self._inflate(index, start, size, offset)
        if flags & self._CRC_FOLLOWS:
            descriptor = self._read_piece(index, end, 8).removeprefix(b'PK\7\10')
            crc = int.from_bytes(descriptor[:4], 'little')
        if len(data) != size or zlib.crc32(data) != crc:
            raise self._damaged(index, offset, 'has another length or CRC-32 than it should have')
        return data

    def _inflate(self, index: int, start: int, size: int, offset: int) -> tuple[bytes, int]:
        """Returns at most size + 1 bytes of a deflated member, and where its data end."""
        inflater, parts, position, left = zlib.decompressobj(-15), [], start, size + 1
        # JPEGs hardly shrink: one read has all of most members.
        block = min(self._BLOCK, size) + 1024
        try:
            while not inflater.eof and left > 0:
                compressed = inflater.unconsumed_tail or self._read_piece(index, position, block)
                if not inflater.unconsumed_tail:
                    position += len(compressed)
                if not compressed:
                    raise self._damaged(index, offset, 'is cut off')
                parts.append(inflater.decompress(compressed, left))
                left -= len(parts[-1])
        except zlib.error as error:
            raise self._damaged(index, offset, f'cannot be inflated ({error})') from error
        return b''.join(parts), position - len(inflater.unused_data)

    def _damaged(self, index: int, offset: int, problem: str) -> UserError:
        return UserError(
            f'{self._paths[index]} is damaged: its member at byte {offset:,} {problem}; download '
            'it again'
        )
