import json

import pytest

from alexnet_jax.runtime import printing
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import metrics_file
from alexnet_jax.training.run_files.metrics_file import MetricsFile

WHOLE = [{'step': s, 'train/loss': s / 10} for s in range(1, 6)]
DAMAGED = [
    b'{"step": 3, "train/loss": 0.3',
    b'{"step": 3, "tr\xe9in/loss": 0.3}',
    b'\x00\x00\x00\x00',
    b'[1, 2]',
    b'"x"',
    b'3',
    b'{}',
    b'{"train/loss": 0.3}',
    b'{"step": 3.0, "train/loss": 0.3}',
    b'{"step": true}',
    b'{"step": -3}',
    b'{"step": 1' + b'0' * 30 + b'}',
    b'{"step": 3, "train/loss": "0.3"}',
    b'{"step": 3, "train/loss": {"a": 1}}',
    b'[' * 100_000,
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(printing, '_WARNINGS', set())
    return tmp_path / 'metrics.jsonl'


def write(file, *rows):
    file.write_bytes(b''.join(row + b'\n' for row in rows))


def encoded(*lines):
    return [json.dumps(line).encode() for line in lines]


@pytest.mark.parametrize('row', DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_is_left_out_and_all_others_are_read(file, capsys, row):
    write(file, *encoded(*WHOLE[:2]), row, *encoded(*WHOLE[3:]))
    for _ in range(2):
        assert metrics_file.read_lines(file) == WHOLE[:2] + WHOLE[3:]
    assert capsys.readouterr().err.splitlines() == [
        f'alexnet_jax: {file}: line 3 is damaged and left out'
    ]


@pytest.mark.parametrize('row', DAMAGED[:3], ids=range(3))
def test_an_incomplete_last_line_is_left_out_silently(file, capsys, row):
    write(file, *encoded(*WHOLE))
    file.write_bytes(file.read_bytes() + row)
    assert metrics_file.read_lines(file) == WHOLE
    assert MetricsFile(file, 9, 9).lines == WHOLE
    assert file.read_bytes().splitlines() == encoded(*WHOLE)
    assert capsys.readouterr().err == ''
    assert sorted(x.name for x in file.parent.iterdir()) == ['metrics.jsonl']


def test_a_resumed_run_keeps_the_damaged_file_beside_the_mended_one(file, capsys):
    for name in ('metrics.jsonl.damaged', 'metrics.jsonl.damaged2'):
        write(file, *encoded(*WHOLE[:2]), b'\xff', *encoded(*WHOLE[3:]))
        before = file.read_bytes()
        assert MetricsFile(file, 4, 4).lines == [*WHOLE[:2], WHOLE[3]]
        assert file.with_name(name).read_bytes() == before
        assert file.read_bytes().splitlines() == encoded(*WHOLE[:2], WHOLE[3])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(
            f'line 3 is damaged and left out; the file was copied to {file}'
            + (name.removeprefix('metrics.jsonl'))
        )


def test_many_damaged_lines_are_one_short_notice(file, capsys):
    write(file, *[b'x'] * 1000)
    assert metrics_file.read_lines(file) == []
    assert 'lines 1, 2, 3, 4, 5 and 995 more are damaged' in capsys.readouterr().err


def test_a_number_that_is_not_finite_is_null_in_the_file_and_left_out_by_readers(file):
    metrics = MetricsFile(file, 0, 0)
    metrics.add(1, {'a': float('nan'), 'b': 0.5, 'c': float('-inf')})
    metrics.flush()
    assert file.read_text() == '{"step": 1, "a": null, "b": 0.5, "c": null}\n'
    assert metrics_file.read_lines(file) == [{'step': 1, 'b': 0.5}]


def test_numbers_that_are_no_json_are_read_as_earlier_versions_wrote_them(file):
    write(file, b'{"step": 1, "a": NaN, "b": 0.5, "c": -Infinity, "d": 1' + b'0' * 400 + b'}')
    assert metrics_file.read_lines(file) == [{'step': 1, 'b': 0.5}]


def test_a_whole_last_line_without_its_end_is_kept(file):
    write(file, *encoded(*WHOLE))
    file.write_bytes(file.read_bytes()[:-1])
    metrics = MetricsFile(file, 9, 9)
    metrics.add(6, {'train/loss': 0.6})
    metrics.flush()
    assert metrics_file.read_lines(file) == [*WHOLE, {'step': 6, 'train/loss': 0.6}]


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / 'metrics.jsonl').mkdir()
    for read in (metrics_file.read_lines, lambda file: MetricsFile(file, 0, 0)):
        with pytest.raises(UserError, match=r'metrics\.jsonl is not a file'):
            read(tmp_path / 'metrics.jsonl')


def test_lines_that_could_not_be_written_are_written_later(file, monkeypatch):
    metrics = MetricsFile(file, 0, 0)
    metrics.add(1, {'a': 1.0})
    with monkeypatch.context() as patch:
        patch.setattr('alexnet_jax.training.run_files.append_only.os.fstat', _fails)
        for step in (2, 3):
            with pytest.raises(OSError, match='Input/output'):
                metrics.flush()
            metrics.add(step, {'a': 1.0})
    assert metrics.pending == 3
    metrics.flush(to_disk=True)
    assert metrics.pending == 0
    assert [line['step'] for line in metrics_file.read_lines(file)] == [1, 2, 3]


def _fails(*_):
    raise OSError(5, 'Input/output error')
