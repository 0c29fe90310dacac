import csv
import io
import json
import sys

import numpy as np
import pytest

from alexnet_jax.evaluation.classifier import Prediction
from alexnet_jax.evaluation.prediction import formats
from alexnet_jax.evaluation.prediction.formats import Csv, JsonLines, Layout, Table, open_output

FISH = [
    Prediction('n1', float(np.float32(0.9)), 0, 'tench, Tinca tinca'),
    Prediction('n002', float(np.float32(1e-7)), 1, ''),
]
NAME = 'a "b", c\n.png'


def layout(top=2, names=('a.png',), descriptions=True):
    return Layout(top, ('n1', 'n002'), descriptions, names)


def test_the_table_has_a_block_for_each_picture():
    table = Table(layout(), None)
    assert table.format('a.png', FISH) == (
        'a.png\n   90.00%  n1    tench, Tinca tinca\n    0.00%  n002\n'
    )
    assert table.format('b\n.png', FISH).startswith('\nb\\n.png\n')


def test_the_table_has_one_line_for_each_picture_where_one_class_is_named():
    table = Table(layout(1, ('a.png', '長い.png')), None)
    lines = [table.format(name, FISH[:1]) for name in ('a.png', '長い.png')]
    assert lines == [
        'a.png      90.00%  n1    tench, Tinca tinca\n',
        '長い.png   90.00%  n1    tench, Tinca tinca\n',
    ]


@pytest.mark.parametrize('top', [1, 2])
def test_the_table_is_not_wider_than_the_terminal(top):
    """The end of a path is left, and the beginning of a description."""
    long = Prediction('n1', 0.5, 0, 'word ' * 30)
    name = 'folder/' * 20 + 'x.png'
    lines = Table(layout(top, (name,)), 50).format(name, [long] * top).splitlines()
    assert max(map(len, lines)) == 50
    assert lines[0].partition('  ')[0].endswith('/x.png')
    assert lines[-1].endswith('...')


def test_csv_is_read_back_with_every_digit_and_an_apostrophe_before_formulas():
    form = Csv(layout(names=(NAME,)), escape=False)
    text = form.header() + form.format(NAME, FISH) + form.format('=1+1.png', FISH)
    header, first, formula = csv.reader(io.StringIO(text, newline=''))
    assert header == [
        *('name', 'answer 1', 'probability 1', 'description 1'),
        *('answer 2', 'probability 2', 'description 2'),
    ]
    assert first == [NAME, 'n1', '0.9', 'tench, Tinca tinca', 'n002', '1e-07', '']
    assert formula[0] == "'=1+1.png"
    assert np.float32(first[2]) == np.float32(0.9)
    plain = Csv(layout(1, descriptions=False), escape=True)
    assert plain.header() == 'name,answer 1,probability 1\n'
    assert plain.format('\x1b[31m', FISH[:1]) == '\\x1b[31m,n1,0.9\n'


def test_json_has_an_object_on_each_line():
    (line,) = JsonLines().format('a\n\udcff.png', FISH).splitlines()
    assert line.isascii()
    assert json.loads(line) == {
        'name': 'a\n\udcff.png',
        'predictions': [
            {'class': 'n1', 'probability': 0.9, 'label': 0, 'description': 'tench, Tinca tinca'},
            {'class': 'n002', 'probability': 1e-07, 'label': 1, 'description': ''},
        ],
    }


def test_a_file_is_complete_or_absent(tmp_path):
    file = tmp_path / 'x.csv'
    file.write_text('before')

    def fail(error):
        with open_output(file, exact=False) as write:
            write('\udcff half')
            raise error

    with pytest.raises(ValueError, match='x'):
        fail(ValueError('x'))
    assert [path.name for path in tmp_path.iterdir()] == ['x.csv']
    assert file.read_text() == 'before'
    with open_output(file, exact=False) as write:
        write('\udcff all')
    assert file.read_bytes() == b'\xff all'


def test_what_was_written_before_ctrl_c_stays_beside_the_file(tmp_path, capsys):
    def interrupt():
        with open_output(tmp_path / 'x.csv', exact=True) as write:
            write('half')
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    names = ['x.csv.partial', 'x.csv.partial2']
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / names[0]).read_text() == 'half'
    assert f'the answers so far are in {tmp_path / names[1]}' in capsys.readouterr().err


def test_a_pipe_gets_the_bytes_of_names_or_what_its_encoding_has(capfdbinary, monkeypatch):
    with open(1, 'w', encoding='ascii', errors='backslashreplace', closefd=False) as stdout:
        monkeypatch.setattr(sys, 'stdout', stdout)
        for exact in (True, False):
            with open_output(None, exact) as write:
                write('é\udcff\n')
    assert capfdbinary.readouterr().out == b'\xc3\xa9\xff\n' + b'\\xe9\\udcff\n'


def test_a_terminal_gets_no_control_characters(monkeypatch):
    monkeypatch.setattr(formats, 'is_terminal', lambda _: True)
    monkeypatch.setenv('COLUMNS', '45')
    assert '\x1b' not in formats.choose('csv', layout(), False).format('\x1b', FISH)
    table = formats.choose('table', layout(), False).format('\x1b' * 99, FISH)
    assert max(map(len, table.splitlines())) == 45
    assert '\x1b' not in table
    assert '\x1b' in formats.choose('csv', layout(), to_file=True).format('\x1b', FISH)
