"""Lists the members of tar files without unpacking them, tars within tars included (§2)."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors


class _Header(tarfile.TarInfo):
    """A header whose sizes are not negative, as later versions of Python demand (CVE-2025-8194).

    A negative size leads back to an earlier header, and the tar would be listed for ever.
    """

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.InvalidHeaderError('negative size')  # pyrefly: ignore[missing-attribute]
        return super()._block(count)  # pyrefly: ignore[missing-attribute]


def list_members(
    path: Path, start: int = 0, end: int | None = None
) -> Iterator[tuple[str, int, int]]:
    """Yields the files in a tar: name, first byte (counted from the start of `path`) and length.

    Args:
      path: the tar, or the tar that contains it.
      start: first byte of the tar in `path`, for a tar within a tar.
      end: the byte after its last one; None for the end of `path`.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: this is not a tar, it cannot be read, it is truncated, or its headers make no
        sense.
    """
    with explain_os_errors(f'read {path}'):
        file = open(path, 'rb')  # noqa: SIM115, closed below
    with file:
        end = os.fstat(file.fileno()).st_size if end is None else end
        file.seek(start)
        previous = start - 1
        try:
            tar = tarfile.TarFile(fileobj=file, tarinfo=_Header)
            for member in tar:
                raise_if_stopped()
                if member.size < 0 or member.offset_data <= previous:
                    raise UserError(
                        f'{path} has a header at byte {member.offset:,} that leads back: '
                        'download it again'
                    )
                previous = member.offset_data
                if member.offset_data + member.size > end:
                    raise UserError(
                        f'{path} is truncated in {printable(member.name)}: download it again'
                    )
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                # The library would keep an object for every member.
                tar.members = []  # pyrefly: ignore[missing-attribute]
        except (tarfile.TarError, MemoryError, OverflowError, ValueError, RecursionError) as error:
            reason = str(error) or 'a header of an impossible size'
            raise UserError(
                f'cannot read {path} at byte {start:,}: {reason}; download it again'
            ) from error
        # The library takes anything that is not a header for the end of the tar.
        file.seek(tar.offset)
        if tar.offset >= end or file.read(tarfile.BLOCKSIZE).strip(b'\0'):
            raise UserError(f'{path} is truncated at byte {tar.offset:,}: download it again')


def read_members(path: str, file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yields the files in a compressed tar, from its beginning to its end.

    Args:
      path: what is read, for messages.
      file: the compressed tar.

    Yields:
      The header of a member, whose `offset_data` counts in the decompressed tar, and the contents,
      which can be read until the next member is asked for.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: this is not a gzipped tar, it is truncated or damaged.
    """
    try:
        with (
            gzip.GzipFile(fileobj=file) as plain,
            tarfile.open(fileobj=plain, mode='r|', tarinfo=_Header) as tar,
        ):
            for member in tar:
                raise_if_stopped()
                if member.isreg():
                    yield member, tar.extractfile(member)
                tar.members = []  # pyrefly: ignore[missing-attribute]
            while plain.read(1 << 20):  # to the end, where the CRC-32 is compared
                raise_if_stopped()
    except (
        EOFError,
        MemoryError,
        OverflowError,
        ValueError,
        gzip.BadGzipFile,
        tarfile.TarError,
        zlib.error,
    ) as error:
        raise UserError(f'{path} is truncated or damaged ({error}): download it again') from error
