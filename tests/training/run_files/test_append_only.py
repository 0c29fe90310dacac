import errno
import os

import pytest

from alexnet_jax.training.run_files.append_only import AppendOnlyFile


class Full:
    """A file on a disk that takes a few bytes of a block, and then no more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, block):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(block[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize('room', [0, 1, 5])
def test_a_block_written_in_part_is_removed_by_the_next(tmp_path, monkeypatch, room):
    file = AppendOnlyFile(tmp_path / 'f')
    file.append(b'first\n')
    plain_open = type(file.path).open
    with monkeypatch.context() as patch:
        patch.setattr(
            type(file.path), 'open', lambda *a, **k: Full(plain_open(*a, **k), room), raising=True
        )
        for _ in range(2):
            with pytest.raises(OSError, match='No space left'):
                file.append(b'second\n')
    assert file.path.read_bytes().startswith(b'first\n' + b'second\n'[:room])
    file.append(b'second\n', to_disk=True)
    assert file.path.read_bytes() == b'first\nsecond\n'


def test_a_file_that_was_replaced_is_continued(tmp_path):
    file = AppendOnlyFile(tmp_path / 'f')
    file.append(b'a long first block\n')
    (tmp_path / 'f').unlink()
    file.append(b'2\n')
    assert file.path.read_bytes() == b'2\n'
