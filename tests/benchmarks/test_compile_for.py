"""The folder that benchmarks/compile_for.py writes a program to; the compilers are not needed."""

import pytest
from ahead_of_time import instructions
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


PROGRAM = """HloModule step

ENTRY %main (x: f32[16]) -> f32[16] {
  %a = (bf16[2,8], bf16[8,8]) all-gather-start(%x), replica_groups={{0,2,4,6},{1,3,5,7}}, FC6
  %b = ((f32[4], bf16[8]), (f32[8], bf16[16])) all-gather-start(%x), replica_groups=[4,2]<=[8], FC8
  %c = f32[4] reduce-scatter(%x), replica_groups={{0,1,2,3}}, metadata={op_name="jvp(fc8)/sum"}
  %d = (f32[16], f32[4]) all-reduce-start(%x, %x), replica_groups={{0,1}}
  %e = ((f32[16], f32[4]), f32[16], f32[4]) all-reduce-start(%x, %x), replica_groups={{0,1}}
}
""".replace('FC6', 'metadata={op_name="jvp(fc6)/all_gather"}').replace(
    'FC8', 'metadata={op_name="transpose(jvp(fc8))/all_gather"}'
)


def test_what_each_device_sends_is_counted():
    """All but its own part of what is gathered or scattered, and twice that of an all-reduce.

    The last two are the same all-reduce, as JAX 0.10 and 0.12 print its type.
    """
    *operations, last = instructions.collectives(PROGRAM)
    assert operations[3] == last
    assert [each.size for each in operations] == [8 * 8 * 2, 8 * 4 + 16 * 2, 4 * 4, (16 + 4) * 4]
    assert [each.sent for each in operations] == [128 * 3 / 4, 64 / 2, 16 * 3, 2 * 80 / 2]
    assert [each.layer for each in operations] == ['fc6', 'fc8', 'fc8', '']
    assert [each.is_backward for each in operations] == [False, True, False, True]
