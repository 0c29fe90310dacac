"""Shared parts of the tables of all studies: mean errors, differences, and their intervals."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats  # comes with scikit-learn

from alexnet_jax.evaluation.studies.study import Study


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


def summarize(study: Study, name: str, base: str | None) -> dict[str, Any] | None:
    """Returns the entries that a row has in the table of every study; errors are fractions.

    Args:
      study: the runs.
      name: the row.
      base: the row from which differences are taken; None for none.

    Returns:
      None before a run of the row has ended. 'mean' is None where all of them have diverged; the
      difference is None for the base itself, and where one of the two has no mean.
    """
    errors, diverged = study.errors(name), study.divergences(name)
    if not errors and not diverged:
        return None
    mean, difference, bounds = study.mean_error(name), None, None
    base_errors = study.errors(base) if base is not None and base != name else []
    if mean is not None and base_errors:
        difference = mean - sum(base_errors) / len(base_errors)
        bounds = interval(errors, base_errors)
    return {
        'name': name,
        'errors': errors,
        'mean': mean,
        'difference': difference,
        'low': bounds and bounds[0],
        'high': bounds and bounds[1],
        'diverged': diverged,
    }


def error_cell(row: Mapping[str, Any]) -> str:
    """Formats the mean error of a row in percent, and says how many of its runs have diverged."""
    diverged, ended = len(row['diverged']), len(row['errors'])
    if row['mean'] is None:
        return 'diverged'
    error = f'{row["mean"]:.2%}'
    return f'{error} ({diverged} of {diverged + ended} diverged)' if diverged else error


def difference_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """Formats the difference of a row in percentage points, and its interval."""
    difference, bounds = '', ''
    if row['difference'] is not None:
        difference = f'{100 * row["difference"]:+.2f}'
    if row['low'] is not None:
        noise = ' (noise)' if row['low'] <= 0 <= row['high'] else ''
        bounds = f'{100 * row["low"]:+.2f} to {100 * row["high"]:+.2f}{noise}'
    return difference, bounds


def note_on_devices(study: Study) -> str:
    """Names the rows that were trained on different numbers of devices; '' where there are none."""
    mixed = [name for name in study.names if len(study.device_counts(name)) > 1]
    if not mixed:
        return ''
    return (
        f'\nthe runs of {", ".join(mixed)} were trained on different numbers of devices, '
        'which round differently'
    )
