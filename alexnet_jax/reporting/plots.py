"""Curves as SVG for an HTML page, whose style sheet gives the colours by class."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.reporting.history import Points
from alexnet_jax.reporting.markup import Html, tag

WIDTH = 420  # of the drawing, in units of which letters are 13 high
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 44  # around the axes


class Curve(NamedTuple):
    """A line; its style tells curves apart where colours do not.

    Attributes:
      label: its name in the legend.
      points: x and y.
      style: 'solid', 'dashed', or 'dotted', a line with its points marked.
    """

    label: str
    points: Points
    style: str = 'solid'


class Scale:
    """Maps values to positions along an axis.

    Attributes:
      ticks: round values, in order, that cover the data.
    """

    def __init__(self, ticks: Sequence[float], first: float, last: float, log: bool) -> None:
        self.ticks, self._log = ticks, log
        self._from, self._to = self._value(ticks[0]), self._value(ticks[-1])
        self._first, self._last = first, last

    def _value(self, x: float) -> float:
        return math.log10(x) if self._log else x

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


def line_plot(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    height: int = 280,
    level: tuple[float, str] | None = None,
) -> Html:
    """Draws curves over a common x axis.

    Args:
      curves: with at least one point in all; x is not negative.
      x_label: the name of the x axis.
      y_label: the name of the y axis.
      log: whether the y axis is logarithmic, for positive values.
      height: of the drawing, in its own units.
      level: a value of y to draw a horizontal line at, and its label.
    """
    x = np.concatenate([curve.points[0] for curve in curves])
    y = np.concatenate([curve.points[1] for curve in curves] + [[level[0]] if level else []])
    across = Scale(round_ticks(0.0, x.max()), LEFT, WIDTH - RIGHT, log=False)
    ticks = decades(y.min(), y.max()) if log else round_ticks(min(0.0, y.min()), y.max())
    up = Scale(ticks, height - BOTTOM, TOP, log)
    return tag(
        'svg',
        *_grid(across, up, height, x_label, y_label),
        *(_level(level, up) if level else ()),
        *(_curve(curve, number, across, up) for number, curve in enumerate(curves)),
        *(_legend(curve, number) for number, curve in enumerate(curves) if len(curves) > 1),
        viewBox=f'0 0 {WIDTH} {height}',
        role='img',
        aria_label=f'{y_label} over {x_label}: {", ".join(curve.label for curve in curves)}',
    )


def _grid(across: Scale, up: Scale, height: int, x_label: str, y_label: str) -> list[Html]:
    """Draws light lines at the ticks, their numbers, and the names of the axes."""
    bottom, right = height - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in up.ticks:
        y = up(tick)
        parts.append(tag('line', class_='grid', x1=LEFT, y1=y, x2=right, y2=y))
        parts.append(_text(LEFT - 7, y + 4, number(tick), 'end'))
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
    dots = (
        [tag('circle', cx=x, cy=y, r=2.5) for x, y in positions] if curve.style == 'dotted' else []
    )
    return tag('g', tag('path', d=path), *dots, class_=f'curve{number} {curve.style}')


def _legend(curve: Curve, number: int) -> Html:
    """Draws a line of the legend, at the top right, where falling curves leave room."""
    y, right = TOP + 14 + 18 * number, WIDTH - RIGHT - 8
    mark = tag('path', d=f'M{right - 26},{y} {right},{y}')
    dots = [tag('circle', cx=right - 13, cy=y, r=2.5)] if curve.style == 'dotted' else []
    swatch = tag('g', mark, *dots, class_=f'curve{number} {curve.style}')
    return tag('g', swatch, _text(right - 34, y + 4, curve.label, 'end'), class_='legend')


def _text(x: float, y: float, text: str, anchor: str = 'middle', **attributes: str) -> Html:
    return tag('text', text, x=f'{x:g}', y=f'{y:g}', text_anchor=anchor, **attributes)


def number(tick: float) -> str:
    """Formats a tick for an axis: 0.0001, 20, 10⁻⁵."""
    if 0 < tick < 0.9e-4:
        power = str(round(math.log10(tick)))
        return '10' + power.translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))
    return f'{tick:g}'
