import numpy as np
import pytest

from alexnet_jax.range_test import output, program
from alexnet_jax.range_test.curve import Curve, Range, evaluate
from range_curves import CHANCE, TEST, losses


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--find_learning_rate'], []),
        (['--config=a b.py', '--find_learning_rate', '--range=1,2'], ["'--config=a b.py'"]),
        (['--range', '1,2', '--range_steps', '30', '--workdir', 'x'], ['--workdir x']),
        (['-find_learning_rate=true', '--config.learning_rate.initial=1', '--ablate=lrn'],
         ['--ablate=lrn']),
        (['--config.learning_rate.initial', '0.1', '--extend', '--config.seed=1'],
         ['--config.seed=1']),
    ],
)  # fmt: skip
def test_the_command_that_uses_the_suggestion_keeps_the_other_flags(arguments, expected):
    words = ['python -m alexnet_jax.main', *expected, '--config.learning_rate.initial=0.004']
    assert program._command(arguments, 0.004) == ' '.join(words)
    assert program._command(arguments, 0.004, extend=True) == ' '.join(
        [*words[:-1], '--extend', words[-1]]
    )


def test_the_table_and_the_page_say_the_same(tmp_path):
    curve = Curve(TEST, losses(0.003, 0.05), CHANCE)
    result = evaluate(curve)
    text = output.text(curve, result)
    page, table = output.write(tmp_path / 'new', curve, result, 'initial <x>', 'a b', 'c d')
    html = page.read_text()
    for name, value in output.statements(curve, result):
        assert f'{name:<21}{value}' in text
        assert value in html
    assert f'{result.suggestion:g}' in text
    assert 'initial &lt;x&gt;' in html
    lines = table.read_text().splitlines()
    assert lines[0] == 'learning_rate,loss,smoothed_loss'
    assert len(lines) == 1 + len(curve.losses)
    assert [float(x) for x in lines[1].split(',')[:2]] == [curve.rates[0], curve.losses[0]]


def test_a_page_of_few_steps_or_of_a_loss_that_explodes(tmp_path):
    """A loss of 10^9 would make the rest of the curve flat: it is cut off."""
    for values in ([2.3], [2.3, 2.2, 1e9]):
        curve = Curve(Range(1e-4, 1.0, 20), np.array(values), CHANCE)
        page, _ = output.write(tmp_path, curve, evaluate(curve), 'x', 'y', '')
        assert '1e+09' not in page.read_text()
        assert output.text(curve, evaluate(curve))
