"""Lists the members of tar files without unpacking them, tars within tars included (§2)."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.runtime.user_errors import UserError


def list_members(
    path: Path, start: int = 0, end: int | None = None
) -> Iterator[tuple[str, int, int]]:
    """Yields the files in a tar: name, first byte (counted from the start of `path`) and length.

    Args:
      path: the tar, or the tar that contains it.
      start: first byte of the tar in `path`, for a tar within a tar.
      end: the byte after its last one; None for the end of `path`.

    Raises:
      UserError: this is not a tar, or it is truncated.
    """
    end = path.stat().st_size if end is None else end
    with open(path, 'rb') as file:
        file.seek(start)
        try:
            tar = tarfile.TarFile(fileobj=file)
            for member in tar:
                if member.offset_data + member.size > end:
                    raise UserError(f'{path} is truncated in {member.name}: download it again')
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                # The library would keep an object for every member.
                tar.members = []  # pyrefly: ignore[missing-attribute]
        except tarfile.TarError as error:
            raise UserError(
                f'{path} cannot be read at byte {start:,}: {error}; download it again'
            ) from error
        # The library takes anything that is not a header for the end of the tar.
        file.seek(tar.offset)
        if tar.offset >= end or file.read(tarfile.BLOCKSIZE).strip(b'\0'):
            raise UserError(f'{path} is truncated at byte {tar.offset:,}: download it again')
