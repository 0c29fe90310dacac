"""Cells of the tables that compare runs: errors, differences, and the key of a curve."""

from collections.abc import Mapping
from typing import Any

from alexnet_jax.reporting.markup import Html, joined, tag
from alexnet_jax.reporting.plots import curve_look


def error(row: Mapping[str, Any]) -> Html:
    """Formats the mean error of a row in percent, and below it that of each of several seeds."""
    each = ' '.join(f'{100 * error:.2f}' for error in row['errors'])
    mean = 'diverged' if row['mean'] is None else f'{100 * row["mean"]:.2f}'
    diverged = row.get('diverged') or {}  # older tables do not have it
    lines = [tag('div', each, class_='faint')] if len(row['errors']) > 1 else []
    lines += [
        tag('div', f'seed {seed}: {problem}', class_='claim') for seed, problem in diverged.items()
    ]
    return joined(mean, *lines)


def difference(row: Mapping[str, Any]) -> Html | str:
    """Formats the difference of a row in percentage points, with its interval."""
    if row['difference'] is None:
        return ''
    points = f'{100 * row["difference"]:+.2f}'
    low, high = row['low'], row['high']
    if low is None or high is None:
        return points
    bounds = tag('div', f'{100 * low:+.2f} to {100 * high:+.2f}', class_='faint')
    noise = tag('div', 'within noise', class_='faint') if low <= 0 <= high else None
    return joined(points, bounds, noise)


def key(label: str, number: int) -> Html:
    """Returns the name of the run with this number behind a piece of its curve."""
    style, colour = curve_look(number)
    swatch = tag('g', tag('path', d='M1,6 27,6'), class_=f'curve{colour} {style}')
    line = tag('svg', swatch, viewBox='0 0 28 12', class_='key', aria_hidden='true')
    return joined(line, ' ', label)
