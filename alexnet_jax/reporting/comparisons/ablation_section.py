"""The table of an ablation study, as a section of a report (§7)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.reporting.comparisons.cells import difference, error
from alexnet_jax.reporting.markup import joined, tag
from alexnet_jax.reporting.page import Prose, Section, code, table
from alexnet_jax.runtime.user_errors import UserError, first_line


def ablations(file: Path) -> Section:
    """Shows the error of the net without each of the paper's ideas, as a table.

    Args:
      file: an ablations.json with 'config', 'seeds', 'command' and 'rows'. The first row is the
        net from which the others differ in one change. Errors and differences are fractions.

    Raises:
      UserError: the file cannot be read, or has other content.
    """
    if not file.is_file():
        raise UserError(f'there is no {file}: alexnet_jax.ablations writes one')
    try:
        return _ablations(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UserError(
            f'{file} is not a table of ablations: {type(problem).__name__}: {first_line(problem)}'
        ) from problem


def _ablations(results: Mapping[str, Any]) -> Section:
    header = ('without', 'error (%)', 'difference', Prose('paper'), Prose('2012 log'), 'minutes')
    rows = [_ablation(row) for row in results['rows']]
    seeds = ', '.join(map(str, results['seeds']))
    caption = joined(
        f'Top-1 test error: the mean over the seeds {seeds}, and below it the error of each seed. '
        'The difference from the first row is in percentage points, with its 95 % interval; it is '
        'within noise where the interval contains 0. Made by ',
        code(results['command']),
        f' on {results["config"]}.',
    )
    return Section('ablations', 'Ablations', table(header, rows, caption))


def _ablation(row: Mapping[str, Any]) -> tuple[object, ...]:
    name = 'nothing' if row['name'] == 'base' else row['name']
    return (
        joined(name, tag('div', row['claim'], class_='claim')),
        error(row),
        difference(row),
        Prose(row['paper'] or ''),
        Prose(row['log'] or ''),
        f'{row["minutes"]:.1f}',
    )
