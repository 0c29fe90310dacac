"""A file that only grows, on a disk that may be full for some time."""

import os
from pathlib import Path


class AppendOnlyFile:
    """Appends blocks to a file, and removes a block that was written in part.

    It opens the file for each block, so that it works again once a network disk does.

    Attributes:
      path: the file; it is created by the first block.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size: int | None = None  # up to the end of the last complete block

    def append(self, block: bytes, to_disk: bool = False) -> None:
        """Writes a block at the end of the file.

        Args:
          block: the bytes.
          to_disk: whether to wait until they are on the disk.

        Raises:
          OSError: the block was not written, or only in part. The next call first removes that
            part.
        """
        # Without a buffer: a buffer would keep a block that failed, and write it a second time.
        with self.path.open('ab', buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if self._size is not None and size > self._size:
                size = file.truncate(self._size)
            self._size = size
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
            if to_disk:
                os.fsync(file.fileno())
        # After the file was closed, because a network disk may report a failed write only then.
        self._size = size + len(block)
