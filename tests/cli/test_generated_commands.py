"""A sample of random command lines; `python -m tests.cli.generated_commands` runs many more."""

import pytest
from generated_commands import CommandLine, check, furnish, generate, judge_end

SAMPLE = ('a-0', 'a-3', 'a-6', 'a-9', 'a-10', 'a-13', 'a-14')


@pytest.fixture(scope='module')
def place(tmp_path_factory, trained_run, data_dir):
    folder = tmp_path_factory.mktemp('place')
    furnish(folder, trained_run, data_dir)
    return folder


@pytest.mark.parametrize('seed', SAMPLE)
def test_a_command_line_succeeds_or_says_in_one_line_what_is_wrong(place, seed):
    line = generate(seed, place)
    assert check(line, place) == [], line.text()


@pytest.mark.slow
def test_many_command_lines(place):
    lines = [generate(f'many-{number}', place) for number in range(20)]
    faults = {line.text(): check(line, place) for line in lines}
    assert {text: fault for text, fault in faults.items() if fault} == {}


def test_a_command_line_is_the_same_in_every_run(tmp_path):
    """So that one that failed can be tried again; and the programs are all among them."""
    lines = [generate(f'x-{number}', tmp_path) for number in range(200)]
    assert lines == [generate(f'x-{number}', tmp_path) for number in range(200)]
    programs = ('main', 'prepare', 'evaluate', 'predict', 'export', 'report', 'ablations', 'sweep')
    assert {f'alexnet_jax.{name}' for name in programs} <= {line.program for line in lines}
    assert 20 < sum(bool(line.wrong) for line in lines) < 180


@pytest.mark.parametrize(
    ('code', 'out', 'err', 'fault'),
    [
        (0, 'fine', '', None),
        (2, '', 'alexnet_jax: what is wrong\n', None),
        (75, '', 'stopping\nstopped\n', None),
        (1, '', 'ValueError: x', 'exit code 1'),
        (-11, '', '', 'exit code -11'),
        (0, '', 'Traceback (most recent call last):\nValueError: x', 'a traceback'),
        (2, '', 'alexnet_jax: one\nand two\n', '2 lines in place of one'),
        (2, '', '', '0 lines in place of one'),
        (2, '', 'no program\n', '1 lines in place of one'),
        (2, '', f'alexnet_jax: {"x" * 5000}', 'a message of'),
        (0, '\x1b[2J', '', 'control characters'),
    ],
)
def test_how_a_program_may_end(code, out, err, fault):
    line = CommandLine('alexnet_jax.main', [], {}, [])
    faults = judge_end(line, code, out, err)
    assert any(fault in x for x in faults) if fault else faults == []


def test_what_cannot_be_meant_must_be_refused():
    line = CommandLine('alexnet_jax.main', ['--config.seed=-1'], {}, ['--config.seed=-1'])
    assert judge_end(line, 0, '', '') == ["accepted: ['--config.seed=-1']"]
    assert judge_end(line, 2, '', 'alexnet_jax: seed=-1 must be at least 0') == []
    checked = CommandLine('alexnet_jax.prepare', ['--check'], {}, [])
    assert judge_end(checked, 1, '', '') == []
    predicted = CommandLine('alexnet_jax.predict', ['x.png'], {}, [])
    assert judge_end(predicted, 1, 'a.png', 'alexnet_jax: x.png is not an image') == []
