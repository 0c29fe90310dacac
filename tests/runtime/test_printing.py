"""Printing where nobody reads. How programs end then is in test_user_errors.py."""

import os

import pytest

from alexnet_jax.runtime import printing


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('hönd 犬.png', 'hönd 犬.png'),
        ('a\nb\tc\r', 'a\\nb\\tc\\r'),
        ('\x1b]0;title\x07', '\\x1b]0;title\\x07'),
        ('a\udcf6b', 'a\\udcf6b'),
        ('\u202egnp.exe', '\\u202egnp.exe'),
    ],
)
def test_names_are_escaped_for_the_terminal(text, shown):
    assert printing.printable(text) == shown


def test_a_number_has_its_noun():
    counts = [printing.count(number, 'picture') for number in (0, 1, 2000)]
    assert counts == ['0 pictures', '1 picture', '2,000 pictures']


def test_a_disk_that_was_full_is_written_to_again(monkeypatch):
    """What could not be printed meanwhile is dropped, and nothing of it comes later."""
    reader, writer = os.pipe()
    full = os.open('/dev/full', os.O_WRONLY)
    saved = os.dup(writer)
    with os.fdopen(writer, 'w') as stream:
        monkeypatch.setattr(printing.sys, 'stdout', stream)
        printing.show('one')
        os.dup2(full, writer)
        printing.show('two')
        os.dup2(saved, writer)
        printing.show('three', end='')
    os.close(full)
    os.close(saved)
    with os.fdopen(reader) as printed:
        assert printed.read() == 'one\nthree'


def test_a_pipe_without_a_reader_is_not_tried_again(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, 'w') as stream:
        monkeypatch.setattr(printing.sys, 'stdout', stream)
        printing.show('one')
        os.close(reader)
        printing.show('two')
        printing.show('three')
        print('four', file=stream, flush=True)  # also by those that do not use `show`


def test_a_closed_or_missing_stream_is_no_terminal(tmp_path):
    stream = (tmp_path / 'file').open('w')
    assert not printing.is_terminal(stream)
    stream.close()
    assert not printing.is_terminal(stream)
    assert not printing.is_terminal(None)


def test_what_a_terminal_would_obey_is_escaped():
    assert printing.printable('a\x1b[2J\x7f\x85') == r'a\x1b[2J\x7f\x85'
    assert printing.printable('\u202edog') == r'\u202edog'
    assert printing.printable('é 日本\n', keep='\n') == 'é 日本\n'
    assert printing.printable('cat ') == "'cat '"
