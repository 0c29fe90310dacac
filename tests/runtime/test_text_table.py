"""Text from outside within tables and files."""

import pytest

from alexnet_jax.runtime.text_table import align_columns, printable, spreadsheet_cell


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


def test_what_a_terminal_would_obey_is_escaped():
    assert printable('a\x1b[2J\x7f\x85') == r'a\x1b[2J\x7f\x85'
    assert printable('\u202edog') == r'\u202edog'
    assert printable('é 日本\n') == 'é 日本\n'
