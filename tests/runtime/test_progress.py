"""Progress bars on terminals of any width, in files, and where the terminal has gone."""

import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios

import pytest

from alexnet_jax.runtime import progress
from alexnet_jax.runtime.progress import ProgressBars


class Terminal:
    """A terminal of so many columns, as stderr; `text` is what it was sent."""

    def __init__(self, columns):
        self.main, number = pty.openpty()
        fcntl.ioctl(number, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
        self.stream = os.fdopen(number, 'w')

    def text(self):
        self.stream.flush()
        parts = []  # the system passes on what was written in pieces, and some of them later
        while select.select([self.main], [], [], 0.1 if parts else 5)[0]:
            parts.append(os.read(self.main, 1 << 16))
        return b''.join(parts).decode()

    def close(self):
        os.close(self.main)


@pytest.fixture
def terminal(monkeypatch):
    opened = []

    def open_terminal(columns):
        opened.append(Terminal(columns))
        monkeypatch.setenv('COLUMNS', str(columns))
        monkeypatch.setattr(sys, 'stderr', opened[-1].stream)
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.stream.close()


@pytest.mark.parametrize('columns', [20, 40, 80, 100, 200])
@pytest.mark.parametrize('label', ['mean image', 'a long name of a file ' * 9, 'x\n\x1b[31m'])
def test_a_bar_is_never_wider_than_the_terminal(terminal, columns, label):
    """A wider one would fill a new line at each update."""
    screen = terminal(columns)
    with ProgressBars() as bars:
        for done in range(0, 1000, 100):
            bars.show_bytes(label, done, 1000)
    text = screen.text()
    screen.close()
    assert '\n' not in text.replace('\r\n', '\n')
    assert '\x1b[31m' not in text
    assert max(map(len, text.split('\r'))) < columns
    if columns > 40:
        assert '/1.00k' in text


def test_log_files_get_a_line_every_ten_seconds(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
    with ProgressBars() as bars:
        for second in range(36):
            clock[0] = float(second)
            bars.show_images('preparing', 500 + second * 100, 12_000)
        bars.print_line('prepared')
    out, err = capsys.readouterr()
    assert out == 'prepared\n'
    assert '\r' not in err
    lines = err.splitlines()
    assert len(lines) == 3  # after 10, 20 and 30 seconds
    assert lines[0] == 'preparing:  12% 1500/12000 [00:10<01:45, 100.00 images/s]'


def test_short_jobs_add_nothing_to_log_files(capsys):
    with ProgressBars() as bars:
        for done in range(100):
            bars.show_images('mean image', done, 100)
            bars.show_listing('a.tar', done, 100)
    assert capsys.readouterr().err == ''


def test_a_terminal_that_was_closed_does_not_end_the_job(terminal):
    screen = terminal(80)
    with ProgressBars() as bars:
        bars.show_images('preparing', 1, 100)
        screen.close()
        for done in range(100):
            bars.show_images('preparing', done, 100)
            bars.show_images('mean image', done, 100)


def test_a_missing_stderr_does_not_end_the_job(monkeypatch):
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, 'stderr', stream)
        monkeypatch.setattr(ProgressBars, 'SECONDS_BETWEEN_LINES', 0.0)
        with ProgressBars() as bars:
            bars.show_images('preparing', 1, 100)


def test_lines_are_printed_where_the_bar_was(terminal):
    """The bar is below them afterwards."""
    screen = terminal(60)
    with ProgressBars() as bars:
        bars.show_images('x' * 20, 1, 10)
        for number in range(3):
            with bars.hidden():
                screen.stream.write(f'answer {number}\n')
        below = screen.text()
    screen.close()
    rows = ['']
    for part in re.split(r'([\r\n])', below):
        if part == '\n':
            rows.append('')
        elif part and part != '\r':
            rows[-1] = part + rows[-1][len(part) :]
    assert [row.rstrip() for row in rows[:3]] == ['answer 0', 'answer 1', 'answer 2']
    assert rows[3].startswith('xxx')
    with ProgressBars() as bars, bars.hidden():
        pass  # there is no bar


def test_a_total_may_be_unknown(terminal):
    screen = terminal(70)
    with ProgressBars() as bars:
        bars.show_images('finding pictures', 7000, 0)
    text = screen.text()
    screen.close()
    assert re.search(r'finding pictures: 7000 images \[00:00', text)
    assert '%' not in text
