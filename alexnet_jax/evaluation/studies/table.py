"""The table of an ablation study: mean errors, their differences, and intervals over the seeds."""

import warnings
from collections.abc import Sequence
from typing import Any

from scipy import stats  # comes with scikit-learn

from alexnet_jax.config.ablations import ABLATIONS, changes
from alexnet_jax.evaluation.studies.study import BASE, Study
from alexnet_jax.runtime.text_table import align_columns


def interval(errors: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """Computes Welch's 95 % interval of the difference of the means.

    Returns:
      The interval; None where one has fewer than two runs, or neither has any spread.
    """
    if min(len(errors), len(base)) < 2 or len({*errors}) == len({*base}) == 1:
        return None
    with warnings.catch_warnings():  # one of them may have no spread
        warnings.filterwarnings('ignore', 'Precision loss', RuntimeWarning)
        bounds = stats.ttest_ind(errors, base, equal_var=False).confidence_interval(0.95)
    return float(bounds.low), float(bounds.high)


def rows(study: Study) -> list[dict[str, Any]]:
    """Returns a dict for each row of the table that has results; errors are fractions.

    The difference is None for the base, and for all rows before a run of the base has ended.
    """
    base, table = study.errors(BASE), []
    for name in study.names:
        errors = study.errors(name)
        if not errors:
            continue
        mean, ablation = sum(errors) / len(errors), ABLATIONS.get(name)
        bounds = interval(errors, base) if name != BASE else None
        table.append(
            {
                'name': name,
                'claim': ablation.claim if ablation else 'the config without changes',
                'paper': (ablation and ablation.paper) or None,
                'log': (ablation and ablation.log) or None,
                'errors': errors,
                'mean': mean,
                'difference': mean - sum(base) / len(base) if base and name != BASE else None,
                'low': bounds and bounds[0],
                'high': bounds and bounds[1],
                'minutes': study.seconds(name) / 60,
                'changes': {} if name == BASE else changes(study.raw, name),
            }
        )
    return table


def text(table: list[dict[str, Any]]) -> str:
    """Formats the table for the terminal: errors in percent, differences in percentage points."""
    header = ('without', 'top-1 error', 'difference', '95 % interval', 'paper', '2012 log', 'min')
    lines = [header]
    for row in table:
        difference, bounds = '', ''
        if row['difference'] is not None:
            difference = f'{100 * row["difference"]:+.2f}'
        if row['low'] is not None:
            noise = ' (noise)' if row['low'] <= 0 <= row['high'] else ''
            bounds = f'{100 * row["low"]:+.2f} to {100 * row["high"]:+.2f}{noise}'
        name = '(nothing)' if row['name'] == BASE else row['name']
        published = row['paper'] or '', row['log'] or ''
        cells = (f'{row["mean"]:.2%}', difference, bounds, *published, f'{row["minutes"]:.1f}')
        lines.append((name, *cells))
    return align_columns(lines)
