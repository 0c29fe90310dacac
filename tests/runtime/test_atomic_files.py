import errno
import os
from pathlib import Path

import pytest

from alexnet_jax.runtime import atomic_files


@pytest.mark.parametrize('name', ['a', 'x' * 251 + '.png', 'ä' * 125 + '.png', '.npz'])
def test_any_name_that_a_file_may_have_can_be_replaced(tmp_path, name):
    """The temporary name is no longer than a name may be, and has the same suffix."""
    path = tmp_path / name
    for text in ('first', 'second'):
        with atomic_files.replace(path) as partial:
            assert partial.suffix == path.suffix or name == '.npz'
            assert partial.name.startswith('.')
            assert len(os.fsencode(partial.name)) <= 143
            partial.write_text(text)
    assert path.read_text() == 'second'
    assert list(tmp_path.iterdir()) == [path]


def test_long_names_that_end_alike_have_different_temporary_names(tmp_path):
    with (
        atomic_files.replace(tmp_path / f'a{"x" * 220}') as one,
        atomic_files.replace(tmp_path / f'b{"x" * 220}') as other,
    ):
        assert one != other
        one.write_text('1')
        other.write_text('2')
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ['1', '2']


def write(path, error):
    """Writes half of a file, and fails."""
    with atomic_files.replace(path) as partial:
        partial.write_text('half')
        if error.filename == 'partial':
            error.filename = str(partial)
        raise error


@pytest.mark.parametrize('filename', ['partial', None])
def test_a_failure_leaves_the_file_as_it_was_and_names_it(tmp_path, filename):
    """Not the temporary file, and also where the system names none, as on a disk that is full."""
    path = tmp_path / 'file'
    path.write_text('before')
    error = OSError(errno.ENOSPC, 'No space left on device')
    error.filename = filename
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write(path, error)
    assert [file.read_text() for file in tmp_path.iterdir()] == ['before']


def test_a_folder_that_cannot_be_written_to_is_named():
    path = Path('/proc/file')
    with pytest.raises(OSError, match="'/proc/file'"):
        write(path, OSError())


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"'{tmp_path}'"):
        write(tmp_path, OSError())
