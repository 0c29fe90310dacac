import os
from pathlib import Path

import pytest

from alexnet_jax.runtime import paths
from alexnet_jax.runtime.user_errors import UserError


def refusal(text, flag='--workdir'):
    with pytest.raises(UserError) as caught:
        paths.check_path(text, flag)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 300
    line.encode()  # it can be printed
    return line


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', '--workdir is empty'),
        ('gs://bucket/run', 'gs://bucket/run is an address: only paths of the file system'),
        ('s3://bucket/run', 'use a folder of this machine, and copy it from or to the bucket (aws'),
        ('hdfs://host/run', 'is an address'),
        ('gs:/bucket/run', 'is an address with one slash: write gs://bucket/run'),
        ('a\0b', r'a\x00b has a control character'),
        ('a\nb', r'a\nb has a control character'),
        ('a\x1b[31m', 'has a control character'),
        ('a\u2028b', 'a line break'),
        ('a\udcffb', 'bytes that are not UTF-8'),
        ('runs/a ', 'ends with a space'),
        ('x' * 300, 'cannot be used: File name too long'),
        ('x/' * 3000, 'cannot be used: File name too long'),
        ('~nobody_of_this_name/run', 'no home folder for ~nobody_of_this_name'),
        ('exp[1]', 'has one of the characters [ ] * ?'),
        ('runs/a*', 'choose another --workdir'),
        ('what?', 'take for patterns'),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_in_one_line(text, message):
    assert message in refusal(text)


@pytest.mark.parametrize(
    'text', ['runs/digits', '/tmp/a b', 'Möbius', '-x', 'a,b', 'a=b', 'x' * 255, '.', '/', 'a//b']
)
def test_other_names_are_supported(text):
    assert paths.check_path(text, '--workdir') == Path(text)


def test_characters_of_patterns_are_refused_only_where_libraries_read_the_folder():
    assert paths.check_path('photos [1]', 'dataset.folder') == Path('photos [1]')
    for flag in ('--from', '--config.dataset.data_dir', 'pretrained.workdir'):
        assert f'choose another {flag}' in refusal('photos [1]', flag)


def test_a_folder_with_pattern_characters_above_a_relative_path_is_refused(tmp_path, monkeypatch):
    (tmp_path / 'exp[1]').mkdir()
    monkeypatch.chdir(tmp_path / 'exp[1]')
    assert 'exp[1]/run has one of the characters' in refusal('run')


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert paths.check_path('~/run', '--workdir') == tmp_path / 'run'
    assert paths.check_path('~', '--workdir') == tmp_path


def test_without_a_home_folder_a_tilde_is_refused(monkeypatch):
    monkeypatch.delenv('HOME')
    monkeypatch.setattr('pwd.getpwuid', lambda _: {}['nobody'])
    assert 'there is no home folder for ~: give a full path' in refusal('~/run')


@pytest.mark.parametrize('path', ['/proc/x', '/proc/self/x/y'])
def test_a_file_system_that_takes_no_files_is_noticed(path):
    with pytest.raises(UserError, match=r'cannot write to /\w+.*; choose another --workdir'):
        paths.check_writable(Path(path), '--workdir')


def test_a_file_in_place_of_a_folder_is_noticed(tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'link').symlink_to('nothing')
    for path in ('file', 'file/run'):
        with pytest.raises(UserError, match='file is a file, not a folder: choose another --x'):
            paths.check_writable(tmp_path / path, '--x')
    with pytest.raises(UserError, match='link is a link to nothing'):
        paths.check_writable(tmp_path / 'link', '--x')


def test_looking_whether_a_folder_can_be_written_creates_nothing(tmp_path):
    paths.check_writable(tmp_path / 'a' / 'b', '--workdir')
    paths.check_writable(tmp_path, '--workdir')
    assert os.listdir(tmp_path) == []


def test_an_input_file_that_is_missing_or_a_folder_is_noticed(tmp_path):
    with pytest.raises(UserError, match=r'there is no file .*/no: give the path of a picture'):
        paths.check_input_file(tmp_path / 'no', 'a picture')
    with pytest.raises(UserError, match='is not a file: give the path of a picture'):
        paths.check_input_file(tmp_path, 'a picture')
    (tmp_path / 'file').touch()
    paths.check_input_file(tmp_path / 'file', 'a picture')


def test_an_output_file_that_cannot_be_written_is_noticed(tmp_path):
    (tmp_path / 'file').write_text('before')
    (tmp_path / 'link').symlink_to('/dev/null')
    for name, message in (
        ('.', 'is a folder: give the name of a file'),
        ('link', 'is not a file that can be replaced'),
        ('no/x', f'there is no folder {tmp_path}/no'),
    ):
        with pytest.raises(UserError, match=message):
            paths.check_output_file(tmp_path / name, '--out')
    for name in ('file', 'new'):
        paths.check_output_file(tmp_path / name, '--out')
    assert (tmp_path / 'file').read_text() == 'before'
    assert not (tmp_path / 'new').exists()
