"""The ablation study (§3, §4, §7): a config and its ablations as the rows of a study."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config.ablations import ABLATIONS, ablate, changes, check_names
from alexnet_jax.config.validation import resolve
from alexnet_jax.evaluation.studies.study import Row, Study
from alexnet_jax.evaluation.studies.table import difference_cells, error_cell, summarize
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError

BASE = 'base'


def ablation_rows(raw: ConfigDict, only: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
    """Returns the base and its ablations.

    Args:
      raw: the config without ablations.
      only: the names of the ablations; empty for all that the config allows.

    Returns:
      The rows; and the ablations that the config does not allow, with the reason.

    Raises:
      UserError: a setting is wrong, an ablation of `only` is unknown, or the config lacks the part
        that it removes.
    """
    check_names(only)
    rows = [Row(BASE, resolve(raw), BASE)]  # its mistakes would be taken for parts that it lacks
    left_out = {}
    for name in only or ABLATIONS:
        try:
            config = resolve(ablate(raw, [name]))
        except UserError as error:
            if only:
                raise
            left_out[name] = str(error)
            continue
        is_trained_like_base = all(key.startswith('evaluation.') for key in changes(raw, name))
        trained_as = BASE if is_trained_like_base else ''
        rows.append(Row(name, config, name, (f'--ablate={name}',), trained_as))
    return rows, left_out


def ablation_table(study: Study, raw: ConfigDict) -> list[dict[str, Any]]:
    """Returns a dict for each row of the table that has results; errors are fractions.

    The difference is None for the base, and for all rows before a run of the base has ended.

    Args:
      study: the runs.
      raw: the config without ablations.
    """
    table = []
    for name in study.names:
        row, ablation = summarize(study, name, BASE), ABLATIONS.get(name)
        if row is None:
            continue
        row |= {
            'claim': ablation.claim if ablation else 'the config without changes',
            'paper': (ablation and ablation.paper) or None,
            'log': (ablation and ablation.log) or None,
            'minutes': study.seconds(name) / 60,
            'changes': {} if name == BASE else changes(raw, name),
        }
        table.append(row)
    return table


def ablation_text(table: list[dict[str, Any]]) -> str:
    """Formats the table for the terminal: errors in percent, differences in percentage points."""
    header = ('without', 'top-1 error', 'difference', '95 % interval', 'paper', '2012 log', 'min')
    lines = [header]
    for row in table:
        name = '(nothing)' if row['name'] == BASE else row['name']
        published = row['paper'] or '', row['log'] or ''
        cells = (error_cell(row), *difference_cells(row), *published, f'{row["minutes"]:.1f}')
        lines.append((name, *cells))
    return align_columns(lines)
