import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from alexnet_jax.reporting import plots
from alexnet_jax.reporting.plots import (
    Curve,
    decades,
    error_plot,
    line_plot,
    log_ticks,
    round_ticks,
)


@pytest.mark.parametrize(
    ('low', 'high'),
    [(0, 24), (0, 2.47), (0, 93.3), (0, 1e-7), (0.3, 0.31), (-4, 7), (0, 90), (5, 5), (0, 0)],
)
def test_ticks_are_round_and_cover_the_data(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])
    leading = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(leading - x) for x in (1, 2, 5)) < 1e-6
    assert high == low or ticks[1] > low  # every tick is needed
    assert high == low or ticks[-2] < high


@pytest.mark.parametrize(
    ('low', 'high', 'ticks'),
    [
        (1e-4, 0.01, [1e-4, 1e-3, 1e-2]),
        (0.01, 0.01, [0.01, 0.1]),
        (3e-5, 0.02, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
    ],
)
def test_decades_cover_the_data(low, high, ticks):
    assert decades(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ('tick', 'text'),
    [(0.0, '0'), (20.0, '20'), (0.0001, '0.0001'), (1e-5, '10⁻⁵'), (2e-5, '2·10⁻⁵'), (2.5, '2.5')],
)
def test_numbers_are_short(tick, text):
    assert plots.number(tick) == text


def drawn(svg):
    """Returns the points of every curve, and the text elements by text and anchor."""
    root = ET.fromstring(svg)
    curves = [g for g in root if g.get('class', '').startswith('curve')]
    paths = [
        [tuple(map(float, pair.split(','))) for pair in re.findall(r'[\d.]+,[\d.]+', p.get('d'))]
        for p in (curve.find('path') for curve in curves)
    ]
    texts = {(t.text, t.get('text-anchor')): t for t in root.iter('text')}
    return paths, texts


def test_points_are_aligned_with_the_ticks_of_their_values():
    x, y = np.array([0.0, 10.0, 20.0]), np.array([0.0, 40.0, 100.0])
    (points,), texts = drawn(line_plot([Curve('a', (x, y))], 'epochs', 'error'))
    for value, at in zip(x, points, strict=True):
        assert float(texts[f'{value:g}', 'middle'].get('x')) == at[0]
    for value, at in zip(y, points, strict=True):
        assert float(texts[f'{value:g}', 'end'].get('y')) == pytest.approx(at[1] + 4)
    assert points[0][1] > points[1][1] > points[2][1]  # up is more


def test_logarithms_are_evenly_spaced():
    y = np.array([1.0, 0.1, 0.01])
    plot = line_plot([Curve('a', (np.arange(3.0), y))], 'x', 'y', log=True)
    ((a, b, c),), _ = drawn(plot)
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.11)


def test_several_curves_share_their_axes_and_differ_in_style():
    one = Curve('ReLU & co', (np.array([1.0, 2.0]), np.array([50.0, 10.0])))
    other = Curve('<tanh>', (np.array([1.0, 4.0]), np.array([50.0, 30.0])), 'dashed')
    svg = line_plot([one, other], 'epochs', 'error (%)', level=(25.0, '25 %'))
    (first, second), texts = drawn(svg)
    assert first[0] == second[0]
    assert ('<tanh>', 'end') in texts
    assert 'dashed' in svg
    line = next(x for x in ET.fromstring(svg).iter('line') if x.get('class') == 'level')
    assert second[1][1] < float(line.get('y1')) < first[1][1]  # 30 above 25 above 10


def test_a_curve_of_one_point_and_a_legend_of_points_are_dots():
    line, points = Curve('a', (np.array([1.0]), np.array([5.0]))), (np.arange(3.0), np.arange(3.0))
    svg = ET.fromstring(line_plot([line, Curve('b', points, 'points')], 'x', 'y'))
    legends = [g.find('g') for g in svg if g.get('class') == 'legend']
    assert [len(g.findall('circle')) for g in svg if g.get('class', '')[:5] == 'curve'] == [1, 3]
    assert [[part.tag for part in legend] for legend in legends] == [['path'], ['circle']]


def test_the_numbers_of_the_y_axis_leave_room_for_its_name():
    y = np.array([0.01, 0.0001])
    svg = ET.fromstring(line_plot([Curve('a', (np.arange(2.0), y))], 'x', 'rate', log=True))
    texts = {text.text: text for text in svg.iter('text')}
    width = 8 * len('0.0005')  # of digits that are 13 high
    assert float(texts['0.0005'].get('x')) - width > float(texts['rate'].get('x')) + 4


def test_a_level_beyond_the_data_is_on_the_plot():
    svg = line_plot(
        [Curve('a', (np.array([1.0, 2.0]), np.array([5.0, 2.0])))], 'x', 'y', level=(25.0, '25 %')
    )
    line = next(x for x in ET.fromstring(svg).iter('line') if x.get('class') == 'level')
    assert plots.TOP <= float(line.get('y1')) <= 280 - plots.BOTTOM


@pytest.mark.parametrize(
    ('low', 'high', 'ticks'),
    [
        (0.6, 90, [0.5, 1, 2, 5, 10, 20, 50, 100]),
        (1, 100, [1, 2, 5, 10, 20, 50, 100]),
        (3, 3, [2, 5]),
        (5, 5, [5, 10]),
        (0.01, 90, [0.01, 0.1, 1, 10, 100]),  # fewer, as there would be 13
    ],
)
def test_ticks_of_a_logarithmic_axis_cover_the_data(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)


def errors(*values):
    return [Curve('a', (np.arange(len(values), dtype=float), np.array(values, float)))]


def test_errors_are_on_a_logarithmic_axis_where_they_span_more_than_twenty_times():
    assert error_plot(errors(90, 11), 'error')[1] == ''
    assert error_plot(errors(20, 1), 'error')[1] == ''
    plot, note = error_plot(errors(90, 9, 0.9), 'error')
    assert note == ' The axis is logarithmic, as the largest value is over 20 times the smallest.'
    ((a, b, c),), _ = drawn(plot)
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.11)
    assert error_plot(errors(0, 0), 'error')[1] == ''


def test_errors_of_zero_are_on_the_lowest_line_of_a_logarithmic_axis():
    """It is labelled 0, and no other error is on it."""
    plot, note = error_plot(errors(90, 0.5, 0), 'error')
    assert 'Its lowest line stands for 0.' in note
    ((_, small, zero),), texts = drawn(plot)
    assert float(texts['0', 'end'].get('y')) == pytest.approx(zero[1] + 4)
    assert zero[1] == 280 - plots.BOTTOM
    assert small[1] < zero[1] - 10
    # A zero among errors that span less does not need it: the linear axis begins at 0.
    assert error_plot(errors(90, 50, 0), 'error')[1] == ''


def test_a_logarithmic_x_axis():
    curve = Curve('a', (np.array([0.001, 0.01, 0.1]), np.array([1.0, 2.0, 3.0])))
    ((a, b, c),), texts = drawn(line_plot([curve], 'x', 'y', log_x=True))
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.11)
    assert float(texts['0.01', 'middle'].get('x')) == b[0]
