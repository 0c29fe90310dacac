"""The folder that benchmarks/compile_for.py writes a program to; the compilers are not needed."""

import pytest
from ahead_of_time.compilation import prepare_folder

from alexnet_jax.runtime.user_errors import UserError


def test_a_folder_with_other_files_loses_nothing(tmp_path):
    (tmp_path / 'program.hlo').write_text('an earlier program')
    (tmp_path / 'kernel').mkdir()
    (tmp_path / 'kernel' / 'program.hlo').write_text('that of a kernel')
    prepare_folder(tmp_path)
    (tmp_path / 'kernel' / 'thesis.txt').write_text('three years of work')
    with pytest.raises(UserError, match='holds kernel, which is not of a program: choose a new'):
        prepare_folder(tmp_path)
    assert sum(path.is_file() for path in tmp_path.rglob('*')) == 3


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    file = tmp_path / 'file'
    file.touch()
    for out in (file, file / 'folder'):
        with pytest.raises(UserError, match=f'cannot write to {out}: '):
            prepare_folder(out)


def test_a_missing_folder_is_made(tmp_path):
    prepare_folder(tmp_path / 'new' / 'folder')
    assert not list((tmp_path / 'new' / 'folder').iterdir())
