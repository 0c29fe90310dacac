"""Text from outside within tables and files."""

import pytest

from alexnet_jax.runtime.text_table import align_columns, spreadsheet_cell


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
