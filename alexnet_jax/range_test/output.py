"""The results of a range test: a table for the terminal, a page with a plot, and a CSV file."""

import math
from pathlib import Path

import numpy as np

from alexnet_jax.range_test.curve import SAFETY, Curve, Result
from alexnet_jax.reporting.markup import joined
from alexnet_jax.reporting.page import Section, code, facts, figure, page, paragraph, table
from alexnet_jax.reporting.plots import Curve as Line
from alexnet_jax.reporting.plots import line_plot
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.text_table import align_columns, write_csv

PAGE, CSV = 'learning_rate.html', 'learning_rate.csv'  # in the workdir

_ROWS_PER_DECADE = 4


def rows(curve: Curve) -> list[tuple[str, str]]:
    """Returns some rates and the smoothed loss at each, as cells of a table, with a header."""
    cells = [('learning rate', 'loss')]
    if not len(curve.losses):
        return cells
    decades = math.log10(curve.rates[-1] / curve.rates[0])
    number = 1 + round(_ROWS_PER_DECADE * decades)
    steps = np.unique(np.linspace(0, len(curve.losses) - 1, number).round().astype(int))
    return cells + [(f'{curve.rates[s]:.2g}', f'{curve.smoothed[s]:.3f}') for s in steps]


def statements(curve: Curve, result: Result) -> list[tuple[str, str]]:
    """Returns what a curve says, as names and texts."""
    pairs = []
    if not math.isnan(result.lowest):
        pairs.append(('lowest loss', f'{result.lowest:.3f}, at {result.lowest_at:.2g}'))
    if result.stable is not None:
        rise = f'at higher ones the loss is {curve.tolerance:.2g} or more above the lowest'
        if curve.ended_with is not None and curve.unstable_step() == len(curve.losses):
            rise = f'at the next one the loss is {curve.ended_with}'
        pairs.append(('highest stable rate', f'{result.stable:.2g}; {rise}'))
    if result.suggestion is None:
        pairs.append(('suggestion', f'none: {result.reason}'))
    else:
        pairs.append(
            ('suggestion', f'{result.suggestion:g}, the highest stable rate divided by {SAFETY:g}')
        )
    return pairs


def text(curve: Curve, result: Result) -> str:
    """Formats a result for the terminal."""
    lines = [f'{name:<21}{value}' for name, value in statements(curve, result)]
    return '\n'.join([align_columns(rows(curve)), '', *lines])


def write(
    folder: Path, curve: Curve, result: Result, origin: str, command: str, use: str
) -> tuple[Path, Path]:
    """Writes the page and the CSV file; returns their paths.

    Args:
      folder: the folder to write to; it is created if necessary.
      curve: the curve, with at least one loss.
      result: what it says.
      origin: what the test began with.
      command: the command of the test.
      use: the command that trains with the suggestion; '' for none.

    Raises:
      OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table_file, page_file = folder / CSV, folder / PAGE
    cells = zip(curve.rates.tolist(), curve.losses.tolist(), curve.smoothed.tolist(), strict=True)
    write_csv(table_file, [('learning_rate', 'loss', 'smoothed_loss'), *cells])
    with atomic_files.replace(page_file) as partial:
        content = _page(folder, curve, result, origin, command, use)
        partial.write_text(content, encoding='utf-8')
    return page_file, table_file


def _page(folder: Path, curve: Curve, result: Result, origin: str, command: str, use: str) -> str:
    top = 1.5 * max(curve.chance, float(curve.smoothed[0]))  # a loss that explodes is cut off
    lines = [
        Line('of each step', (curve.rates, np.minimum(curve.losses, top)), 'points'),
        Line('smoothed', (curve.rates, np.minimum(curve.smoothed, top))),
    ]
    for rate, label in ((result.suggestion, 'suggestion'), (result.stable, 'highest stable rate')):
        if rate is not None:
            lines.append(Line(label, (np.full(2, rate), np.array([0.0, 1.6 * top])), 'dashed'))
    level = curve.chance, ''
    plot = line_plot(lines, 'learning rate', 'training loss', log_x=True, level=level)
    caption = (
        'The learning rate grows by the same factor at each step. The smoothed loss is the mean of '
        f'{2 * curve.range.half_window + 1} steps. The dotted line, at {curve.chance:.2f}, is the '
        f'loss of guessing by the frequencies of the classes. Losses above {top:.2f} are cut off.'
    )
    pairs: list[tuple[str, object]] = [*statements(curve, result), ('began with', origin)]
    pairs.append(('this page', code(command)))
    if use:
        pairs.append(('to use it', code(use)))
    header, *body = rows(curve)
    return page(
        f'{folder.resolve().name}: range test of the learning rate',
        joined(paragraph('Nothing in the run has been changed.'), facts(pairs)),
        [
            Section('curve', 'Loss and learning rate', figure(plot, caption, class_='narrow')),
            Section('table', 'Table', table(header, body, 'The smoothed loss.')),
        ],
    )
