"""Curves as SVG for an HTML page, whose style sheet gives the colours by class."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.reporting.history import Points
from alexnet_jax.reporting.markup import Html, tag

WIDTH = 420  # of the drawing, in units of which letters are 13 high
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 12, 44  # around the axes
LOG_FROM = 20  # an axis is logarithmic where the largest value is so many times the smallest
_MOST_TICKS = 10
COLOURS, STYLES = 8, ('solid', 'dashed', 'fine')  # in the style sheet


class Curve(NamedTuple):
    """A line; its style tells curves apart where colours do not.

    Attributes:
      label: its name in the legend.
      points: x and y.
      style: 'solid', 'dashed', 'fine', 'dotted', a line with its points marked, or 'points'.
      colour: the number of its colour in the style sheet; None for its number in the plot.
    """

    label: str
    points: Points
    style: str = 'solid'
    colour: int | None = None


def curve_look(number: int) -> tuple[str, int]:
    """Returns the style and the colour of the curve with this number among many."""
    return STYLES[number // COLOURS % len(STYLES)], number % COLOURS


class Scale:
    """Maps values to positions along an axis.

    Attributes:
      ticks: round values, in order, that cover the data. On a logarithmic axis, smaller values,
        such as 0, are placed at the first one.
    """

    def __init__(self, ticks: Sequence[float], first: float, last: float, log: bool) -> None:
        self.ticks, self._log = ticks, log
        self._from, self._to = self._value(ticks[0]), self._value(ticks[-1])
        self._first, self._last = first, last

    def _value(self, x: float) -> float:
        return math.log10(max(x, self.ticks[0])) if self._log else x

    def __call__(self, x: float) -> float:
        """Returns the position of a value, to a tenth of a unit."""
        fraction = (self._value(x) - self._from) / (self._to - self._from)
        return round(self._first + fraction * (self._last - self._first), 1)


def round_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Returns two or more multiples of 1, 2 or 5 times a power of ten that cover low to high."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [float(f'{number * step:.12g}') for number in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Returns two or more powers of ten that cover low to high, both positive."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Returns two or more of 1, 2 and 5 times powers of ten that cover low to high, both positive.

    Where these are more than `most`, they are powers of ten alone.
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    series = [float(f'{factor}e{power}') for power in powers for factor in (1, 2, 5)]
    first = max(n for n, tick in enumerate(series) if tick <= low * (1 + 1e-9))
    last = min(n for n, tick in enumerate(series) if tick >= high * (1 - 1e-9))
    ticks = series[first : max(last, first + 1) + 1]
    return ticks if len(ticks) <= most else decades(low, high)


def is_wide(values: np.ndarray) -> bool:
    """Returns whether the positive ones of some values span more than a factor of LOG_FROM."""
    positive = values[values > 0]
    return bool(positive.size and positive.max() > LOG_FROM * positive.min())


def error_plot(
    curves: Sequence[Curve],
    y_label: str,
    level: tuple[float, str] | None = None,
    *,
    legend: bool = True,
) -> tuple[Html, str]:
    """Draws errors or losses over epochs, on a logarithmic axis where they span a wide range.

    Args:
      curves, y_label, level, legend: as for `line_plot`.

    Returns:
      The drawing, and sentences for its caption that explain a logarithmic axis, which begin with a
      space; '' for a linear one.
    """
    y = np.concatenate([curve.points[1] for curve in curves])
    log = is_wide(y)
    drawing = line_plot(curves, 'epochs', y_label, log=log, level=level, legend=legend)
    if not log:
        return drawing, ''
    note = f' The axis is logarithmic, as the largest value is over {LOG_FROM} times the smallest.'
    return drawing, f'{note} Its lowest line stands for 0.' if (y <= 0).any() else note


def line_plot(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    log_x: bool = False,
    height: int = 280,
    level: tuple[float, str] | None = None,
    legend: bool = True,
) -> Html:
    """Draws curves over a common x axis.

    Args:
      curves: with at least one point in all; x is not negative.
      x_label: the name of the x axis.
      y_label: the name of the y axis.
      log: whether the y axis is logarithmic. Its lowest tick then stands for values of 0, if there
        are any.
      log_x: whether the x axis is logarithmic, for positive values.
      height: of the drawing, in its own units.
      level: a value of y to draw a horizontal line at, and its label.
      legend: whether several curves are named in the drawing.
    """
    x = np.concatenate([curve.points[0] for curve in curves])
    y = np.concatenate([curve.points[1] for curve in curves] + [[level[0]] if level else []])
    x_ticks = log_ticks(x.min(), x.max(), most=7) if log_x else round_ticks(0.0, x.max())
    across = Scale(x_ticks, LEFT, WIDTH - RIGHT, log_x)
    up, has_zero = _y_scale(y, log, height)
    return tag(
        'svg',
        *_grid(across, up, height, x_label, y_label, has_zero),
        *(_level(level, up) if level else ()),
        *(_curve(curve, number, across, up) for number, curve in enumerate(curves)),
        *(_legend(curve, n) for n, curve in enumerate(curves) if legend and len(curves) > 1),
        viewBox=f'0 0 {WIDTH} {height}',
        role='img',
        aria_label=f'{y_label} over {x_label}: {", ".join({c.label: None for c in curves})}',
    )


def _y_scale(y: np.ndarray, log: bool, height: int) -> tuple[Scale, bool]:
    """Returns the scale of the y axis, and whether its lowest tick stands for 0."""
    positive = y[y > 0]
    if not log or not positive.size:
        ticks = round_ticks(min(0.0, y.min()), y.max())
        return Scale(ticks, height - BOTTOM, TOP, log=False), False
    ticks, has_zero = log_ticks(positive.min(), positive.max()), positive.size < y.size
    if has_zero:
        ticks = [ticks[0] ** 2 / ticks[1], *ticks]
    return Scale(ticks, height - BOTTOM, TOP, log=True), has_zero


def _grid(
    across: Scale, up: Scale, height: int, x_label: str, y_label: str, has_zero: bool
) -> list[Html]:
    """Draws light lines at the ticks, their numbers, and the names of the axes."""
    bottom, right = height - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in up.ticks:
        y = up(tick)
        parts.append(tag('line', class_='grid', x1=LEFT, y1=y, x2=right, y2=y))
        is_zero = has_zero and tick == up.ticks[0]
        parts.append(_text(LEFT - 7, y + 4, '0' if is_zero else number(tick), 'end'))
    for tick in across.ticks:
        x = across(tick)
        parts.append(tag('line', class_='grid', x1=x, y1=TOP, x2=x, y2=bottom))
        parts.append(_text(x, bottom + 18, number(tick)))
    parts.append(_text((LEFT + right) / 2, height - 6, x_label))
    middle = (TOP + bottom) / 2
    parts.append(_text(14, middle, y_label, transform=f'rotate(-90 14 {middle:g})'))
    return parts


def _level(level: tuple[float, str], up: Scale) -> list[Html]:
    value, label = level
    y = up(value)
    line = tag('line', class_='level', x1=LEFT, y1=y, x2=WIDTH - RIGHT, y2=y)
    return [line, _text(LEFT + 6, y - 5, label, 'start')]


def _curve(curve: Curve, number: int, across: Scale, up: Scale) -> Html:
    positions = [(across(x), up(y)) for x, y in zip(*curve.points, strict=True)]
    path = 'M' + ' '.join(f'{x:g},{y:g}' for x, y in positions) if positions else ''
    parts = [] if curve.style == 'points' else [tag('path', d=path)]
    if curve.style in ('dotted', 'points') or len(positions) == 1:  # a line of one point is unseen
        parts += [tag('circle', cx=x, cy=y, r=2.5) for x, y in positions]
    return tag('g', *parts, class_=_class(curve, number))


def _class(curve: Curve, number: int) -> str:
    """Returns the class of the curve with a number in the plot, for its colour and its style."""
    return f'curve{number if curve.colour is None else curve.colour} {curve.style}'


def _legend(curve: Curve, number: int) -> Html:
    """Draws a line of the legend, at the top right, where falling curves leave room."""
    y, right = TOP + 14 + 18 * number, WIDTH - RIGHT - 8
    parts = []
    if curve.style != 'points':
        parts.append(tag('path', d=f'M{right - 26},{y} {right},{y}'))
    if curve.style in ('dotted', 'points'):
        parts.append(tag('circle', cx=right - 13, cy=y, r=2.5))
    swatch = tag('g', *parts, class_=_class(curve, number))
    return tag('g', swatch, _text(right - 34, y + 4, curve.label, 'end'), class_='legend')


def _text(x: float, y: float, text: str, anchor: str = 'middle', **attributes: str) -> Html:
    return tag('text', text, x=f'{x:g}', y=f'{y:g}', text_anchor=anchor, **attributes)


def number(tick: float) -> str:
    """Formats a tick for an axis: 0.0001, 20, 10⁻⁵, 2·10⁻⁵."""
    if 0 < tick < 0.9e-4:
        factor, _, power = f'{tick:.0e}'.partition('e')
        raised = str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))
        return f'10{raised}' if factor == '1' else f'{factor}·10{raised}'
    return f'{tick:g}'
