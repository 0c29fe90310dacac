"""The page of a sweep: its table, the error over the values, and the curves of all runs."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.reporting import history
from alexnet_jax.reporting.comparisons import cells, overlays
from alexnet_jax.reporting.markup import Html, joined
from alexnet_jax.reporting.page import Section, code, figure, page, paragraph, table
from alexnet_jax.reporting.plots import Curve, is_wide, line_plot

LOG_VALUES_FROM = 8  # the axis of values is logarithmic where the last is so many times the first


def sweep_page(summary: Mapping[str, Any]) -> str:
    """Returns the page of a sweep.

    Args:
      summary: the content of sweep.json. Errors and differences are fractions.
    """
    settings, rows = list(summary['settings']), summary['rows']
    shown = sorted(rows, key=_mean)[: overlays.MOST]
    numbers = {row['name']: n for n, row in enumerate(row for row in rows if row in shown)}
    groups = [
        overlays.Group(row['name'], _histories(row['workdirs']))
        for row in rows
        if row['name'] in numbers
    ]
    lead = joined(*(paragraph(line) for line in summary['conclusion'].splitlines()))
    hidden = len(rows) - len(shown)
    note = f'The curves of {len(shown)} of the {len(rows)} rows, those with the lowest errors.'
    sections = [
        Section('result', 'Errors', joined(_table(summary, numbers), _plot(settings, rows))),
        Section(
            'curves',
            'Curves',
            joined(paragraph(note) if hidden else None, overlays.curves(groups)),
        ),
        Section('command', 'Command', paragraph(code(summary['command']))),
    ]
    names = ' and '.join(settings) if len(settings) < 3 else f'{len(settings)} settings'
    return page(f'{names}: a sweep of {summary["config"]}', lead, sections)


def _mean(row: Mapping[str, Any]) -> float:
    return np.inf if row['mean'] is None else row['mean']


def _histories(folders: Sequence[str]) -> list[history.History]:
    return [history.read(Path(folder)) for folder in folders]


def _table(summary: Mapping[str, Any], numbers: Mapping[str, int]) -> Html:
    settings = list(summary['settings'])
    header = (*settings, 'error (%)', 'difference', 'seconds')
    rows = []
    for row in summary['rows']:
        first, *others = (row['values'][name] for name in settings)
        name = cells.key(first, numbers[row['name']]) if row['name'] in numbers else first
        is_best = ' (best)' if row['name'] == summary['best'] else None
        numbers_of_row = cells.error(row), cells.difference(row), f'{row["seconds"]:.0f}'
        rows.append((joined(name, is_best), *others, *numbers_of_row))
    has_seeds = any(len(row['errors']) > 1 for row in summary['rows'])
    caption = 'Top-1 error of the test views'
    caption += ': the mean over the seeds, and below it each of them.' if has_seeds else '.'
    if summary['base'] is not None:
        caption += f' The difference is that from {summary["base"]}, in percentage points'
        caption += (
            ', with its 95 % interval over the seeds; it is within noise where the interval '
            'contains 0.'
            if has_seeds
            else '; only several seeds (--seeds=2 or more) show how much of it is noise.'
        )
    return table(header, rows, caption)


def _plot(settings: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Html | None:
    """Plots the errors over the values, if these are numbers of one setting."""
    points = []
    with contextlib.suppress(ValueError):  # a value that is not a number
        points = sorted(
            (float(row['values'][settings[0]]), row['mean'], row['errors'])
            for row in rows
            if row['mean'] is not None
        )
    if len(settings) > 1 or len(points) < 2 or points[0][0] < 0:
        return None
    x = np.array([value for value, _, _ in points])
    y = 100 * np.array([mean for _, mean, _ in points])
    curves = [Curve('mean over the seeds', (x, y), 'dotted')]
    seeds = [(value, x) for value, _, errors in points if len(errors) > 1 for x in errors]
    if seeds:
        values, errors_of_seeds = np.array(seeds).T
        curves.append(Curve('each seed', (values, 100 * errors_of_seeds), 'points', 0))
    log, log_x = is_wide(y), bool(0 < LOG_VALUES_FROM * x[0] <= x[-1])
    drawing = line_plot(curves, settings[0], 'test error (%)', log=log, log_x=log_x, legend=False)
    about = 'Top-1 test error by value.'
    if seeds:
        about = 'Top-1 test error by value, of each seed; a line connects the means.'
    if log_x:
        about += ' The axis of the values is logarithmic.'
    return figure(drawing, about, class_='narrow')
