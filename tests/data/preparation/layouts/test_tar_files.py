import os
import tarfile

import pytest

import tars
from alexnet_jax.data.preparation.layouts import tar_files
from alexnet_jax.runtime.user_errors import UserError


def with_size(header, size):
    """Returns a header of a tar with another size in its own form for large numbers."""
    field = b'\x00' * 12 if size == 0 else size.to_bytes(12, 'big', signed=True)
    if size > 0:
        field = b'\x80' + field[1:]
    header = header[:124] + field + header[136:]
    total = sum(header[:148]) + sum(header[156:512]) + 8 * 32
    return header[:148] + f'{total:06o}\0 '.encode() + header[156:]


@pytest.mark.parametrize('size', [-512, -1024, -(1 << 40), 1 << 60])
@pytest.mark.parametrize('kind', [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_size_that_leads_back_or_beyond_the_end_is_refused(tmp_path, size, kind):
    """Also in the headers before a file's own; the listing must come to an end."""
    data = tars.pack({'a.JPEG': b'x' * 600, 'b.JPEG': b'y' * 600})
    second = 512 + 1024
    header = bytearray(data[second : second + 512])
    header[156:157] = kind
    data = data[:second] + with_size(bytes(header), size) + data[second + 512 :]
    (tmp_path / 'a.tar').write_bytes(data)
    with pytest.raises(
        UserError, match=r'(a\.tar (is truncated|has a header)|cannot read .*a\.tar)'
    ):
        list(tar_files.list_members(tmp_path / 'a.tar'))


def test_a_tar_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / 'a.tar').mkdir()
    with pytest.raises(UserError, match=r'cannot read .*a\.tar: Is a directory'):
        list(tar_files.list_members(tmp_path / 'a.tar'))


def test_only_files_are_members(tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        tar.add(tmp_path, 'folder', recursive=False)
        tars.add(tar, 'folder/image.JPEG', b'12345')
    [(name, first, size)] = tar_files.list_members(tmp_path / 'a.tar')
    assert (name, size) == ('folder/image.JPEG', 5)
    with (tmp_path / 'a.tar').open('rb') as file:
        assert os.pread(file.fileno(), size, first) == b'12345'
