"""Text from outside within tables and files."""

import pytest

from alexnet_jax.runtime.text_table import (
    align_columns,
    cut,
    cut_start,
    display_width,
    spreadsheet_cell,
)


def test_columns_are_aligned():
    assert align_columns([('a', 'bb'), ('ccc', 'd')]) == 'a    bb\nccc   d'


@pytest.mark.parametrize(
    ('cell', 'expected'),
    [
        ('=1+1', "'=1+1"),
        ('@x', "'@x"),
        ('-a', "'-a"),
        ('\tx', "'\tx"),
        ('-1.5e-3', '-1.5e-3'),
        (-3, -3),
        ('cat', 'cat'),
        ('a=b', 'a=b'),
        ('', ''),
    ],
)
def test_a_spreadsheet_executes_no_cell(cell, expected):
    assert spreadsheet_cell(cell) == expected


def test_text_is_cut_to_the_columns_of_a_terminal():
    """An East Asian character takes two columns, a combining one none."""
    assert cut('abcdef', 6) == cut_start('abcdef', 6) == 'abcdef'
    assert (cut('abcdefg', 6), cut_start('abcdefg', 6)) == ('abc...', '...efg')
    wide = '長い名前'
    assert display_width(wide) == 8
    assert cut(wide, 8) == wide
    assert (cut(wide, 7), cut_start(wide, 7)) == ('長い...', '...名前')
    assert (cut(wide, 6), cut_start(wide, 6)) == ('長...', '...前')
    assert display_width('e\u0301') == 1
