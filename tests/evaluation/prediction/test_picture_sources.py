import io
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.evaluation.prediction import picture_sources
from alexnet_jax.evaluation.prediction.picture_sources import find, is_picture, split_paths
from alexnet_jax.runtime.user_errors import UserError


def encoded(format):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format)
    return data.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with four pictures, one of them in a sub-folder, and with other files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'f' / 'sub').mkdir(parents=True)
    for name in ('b.PNG', 'a.png', 'sub/c.jpeg', 'z.tiff', '.hidden.png', 'notes.txt', 'Thumbs.db'):
        (tmp_path / 'f' / name).write_bytes(b'x')
    (tmp_path / 'f' / 'sub' / 'up').symlink_to(tmp_path / 'f')
    (tmp_path / 'odd.data').write_bytes(b'x')
    return tmp_path


def give(monkeypatch, data):
    monkeypatch.setattr(sys, 'stdin', SimpleNamespace(buffer=io.BytesIO(data)))


def names(arguments):
    return [source.name for source in find(arguments).sources]


def test_files_are_pictures_whatever_their_suffix_and_folders_are_searched(folder):
    """The order is that of the arguments, and of the names in a folder; links may form a cycle."""
    pictures = find(['odd.data', 'f', 'nowhere.png', str(folder / 'f' / 'a.png')])
    in_folder = ['f/a.png', 'f/b.PNG', 'f/sub/c.jpeg', 'f/z.tiff']
    assert [x.name for x in pictures.sources] == [
        'odd.data',
        *in_folder,
        'nowhere.png',
        str(folder / 'f' / 'a.png'),
    ]
    assert pictures.others == {'.txt': 1}
    assert pictures.problems == []


def test_a_folder_that_cannot_be_read_leaves_the_others(folder, monkeypatch):
    """The tests may run as root, who can read every folder."""
    listdir = os.listdir

    def refuse(path):
        if str(path).endswith('sub'):
            raise PermissionError(13, 'Permission denied')
        return listdir(path)

    monkeypatch.setattr(os, 'listdir', refuse)
    pictures = find(['f'])
    assert [x.name for x in pictures.sources] == ['f/a.png', 'f/b.PNG', 'f/z.tiff']
    assert pictures.problems == ['cannot list f/sub: Permission denied']
    with pytest.raises(UserError, match='cannot list f/sub: Permission denied'):
        find(['f/sub'])


@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'BMP', 'GIF', 'WEBP', 'TIFF'])
def test_standard_input_may_be_a_picture(monkeypatch, format):
    data = encoded(format)
    give(monkeypatch, data)
    (source,) = find(['-']).sources
    assert source == ('(standard input)', data)
    assert is_picture(data[:60]), 'a damaged picture is no list of paths'


@pytest.mark.parametrize(
    'data',
    [
        b'odd.data\nf/a.png\n',
        b'odd.data\r\n\r\nf/a.png',
        b'odd.data\0f/a.png\0',
        b'\nodd.data\n\nf/a.png\n\n',
        b'\xef\xbb\xbfodd.data\r\nf/a.png\r\n',
    ],
)
def test_standard_input_may_be_a_list(folder, monkeypatch, data):
    give(monkeypatch, data)
    assert names(['-', 'f/z.tiff']) == ['odd.data', 'f/a.png', 'f/z.tiff']


def test_a_list_may_have_folders_and_any_name(folder, monkeypatch):
    """Names that begin as pictures do, with a line break, or with bytes that are not UTF-8."""
    odd = [b'BMW/front.png', b'GIF8.gif', b'RIFF.webp', b'a\nb.png', b'\xff\xfe.png', b'II*.tif']
    give(monkeypatch, b'\0'.join([b'f/sub', *odd]))
    through_link = ['f/sub/up/a.png', 'f/sub/up/b.PNG', 'f/sub/up/z.tiff']
    assert names(['-']) == ['f/sub/c.jpeg', *through_link, *map(os.fsdecode, odd)]


@pytest.mark.parametrize('data', [b'\x01\x02\x03', b'%PDF-1.4\n\x80\x07', b'x' * 5000])
def test_anything_else_on_standard_input_is_refused(data):
    with pytest.raises(UserError, match='neither a picture in a known format nor a list of paths'):
        list(split_paths(data))


@pytest.mark.parametrize('encoding', ['utf-16-le', 'utf-16-be'])
def test_a_list_in_another_encoding_is_refused(encoding):
    """Its halves of letters would be names of files, and '.' the current folder."""
    with pytest.raises(UserError, match='a list of paths in UTF-16: it must be in UTF-8'):
        list(split_paths('\ufeffa.png\r\n'.encode(encoding)))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.png'], 'nowhere.png cannot be read: there is no such file'),
        (['x', 'a\nb'], r'none of the 2 files exists: x, a\\nb'),
        (['empty'], r'there are no pictures in empty: in a folder they have one of the suffixes'),
        (['text'], r'suffixes .jpeg .* .tiff; other files: 2 .txt'),
        ([''], 'an argument is empty'),
        (['-', '-'], '- is given twice'),
        (['-'], 'standard input is empty'),
    ],
)
def test_nothing_to_read_is_a_mistake(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text').mkdir()
    for name in 'ab':
        (tmp_path / 'text' / f'{name}.txt').write_text('')
    give(monkeypatch, b'')
    with pytest.raises(UserError, match=message):
        find(arguments)


def test_standard_input_has_a_limit(monkeypatch):
    monkeypatch.setattr(picture_sources, 'MAX_BYTES', 10)
    give(monkeypatch, b'x' * 11)
    with pytest.raises(UserError, match='more than 10 bytes'):
        find(['-'])
