"""A sweep: a config with several values of one or more settings as the rows of a study."""

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.evaluation.studies.study import Row, Study
from alexnet_jax.evaluation.studies.table import difference_cells, error_cell, summarize
from alexnet_jax.evaluation.studies.value_lists import format_value
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import config_file

MOST_ROWS = 1000
_LONGEST = 120  # letters in the name of a folder
_UNSAFE = re.compile(r'[^A-Za-z0-9._-]')

Values = dict[str, Any]  # a value for each setting of a sweep


def combinations(lists: Mapping[str, Sequence[Any]]) -> list[Values]:
    """Returns all combinations of the values of the settings; the last setting varies fastest.

    Raises:
      UserError: there are fewer than two combinations, or too many.
    """
    total = 1
    for values in lists.values():
        total *= len(values)
    if total < 2:
        raise UserError('a sweep compares at least two values: --values config.SETTING=VALUE,VALUE')
    if total > MOST_ROWS:
        raise UserError(f'--values gives {total:,} combinations: at most {MOST_ROWS:,} are trained')
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def sweep_rows(
    lists: Mapping[str, Sequence[Any]], raw_with: Callable[[Values, str], ConfigDict]
) -> list[Row]:
    """Returns a row for each combination of values, with its checked settings.

    Args:
      lists: the values of each setting.
      raw_with: returns the config with these values; its second argument is `Row.folder`.

    Raises:
      UserError: a value is out of range or does not fit the other settings, or a setting is used in
        no row.
    """
    from alexnet_jax.model.layer_table import layer_table  # JAX is slow to import

    rows = []
    for values in combinations(lists):
        folder = _folder_name(values)
        config = resolve(raw_with(values, folder))
        layer_table(config)  # refuses sizes that do not fit
        flags = tuple(f'--config.{name}={_flag_value(x)}' for name, x in values.items())
        rows.append(Row(name_values(values), config, folder, flags))
    settings = [schema.flatten(schema.as_dict(row.config)) for row in rows]
    for name in lists:
        if not any(config_file.has_effect(name, flat) for flat in settings):
            raise UserError(
                f'{name} cannot be swept: this config does not use it, as --settings shows'
            )
    return rows


def other_differences(rows: Sequence[Row], lists: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns the settings, other than those that are swept, that are not the same in all rows.

    These are settings that are fitted to the images and follow from a swept one.
    """
    settings = [schema.flatten(schema.as_dict(row.config)) for row in rows]
    return [name for name in schema.differing_names(settings) if name not in lists]


def name_values(values: Values) -> str:
    """Returns the name of a row: its settings with their values."""
    return ' '.join(f'{name}={format_value(value)}' for name, value in values.items())


def _flag_value(value: Any) -> str:
    return repr(value) if isinstance(value, tuple) else str(value)


def _folder_name(values: Values) -> str:
    """Returns a name for the folders of a row that needs no quotes in a shell.

    Items of a tuple are joined by '+'. Other characters are replaced, and long names are cut; such
    a name ends with a digest of the values, so that no two rows have the same folder.
    """
    parts, is_exact = [], True
    for name, value in values.items():
        items = [format_value(x) for x in (value if isinstance(value, tuple) else [value])]
        is_exact &= bool(items) and not any(_UNSAFE.search(item) for item in items)
        parts.append(f'{name}={"+".join(_UNSAFE.sub("_", item) for item in items)}')
    text = '-'.join(parts)
    if is_exact and len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(name_values(values).encode()).hexdigest()[:8]
    return f'{text[:_LONGEST]}-{digest}'


def sweep_table(study: Study, rows: Mapping[str, Values], own: str | None) -> list[dict[str, Any]]:
    """Returns a dict for each row of the table that has results; errors are fractions.

    Args:
      study: the runs.
      rows: the values of each row by its name.
      own: the row that has the config's own values; None where none has.

    Returns:
      As from `summarize`. Differences are those from the config's own values; without these, from
      the best row.
    """
    base = own or best(study)
    table = []
    for name, values in rows.items():
        row = summarize(study, name, base)
        if row is None:
            continue
        errors = row['errors']
        row |= {
            'values': {setting: format_value(value) for setting, value in values.items()},
            'lowest': min(errors, default=None),
            'highest': max(errors, default=None),
            'seconds': study.seconds(name),
            'workdirs': [str(folder) for folder in study.workdirs(name)],
        }
        table.append(row)
    return table


def best(study: Study) -> str | None:
    """Returns the row with the lowest mean error, the first of several; None before one has ended.

    Rows of which a run has diverged are left out.
    """
    means = _means(study)
    return min(means, key=means.__getitem__, default=None)


def _means(study: Study) -> dict[str, float]:
    """Returns the mean error of each row that has one, without those of which a run diverged."""
    return {
        name: mean
        for name in study.names
        if (mean := study.mean_error(name)) is not None and not study.divergences(name)
    }


def sweep_text(table: Sequence[Mapping[str, Any]]) -> str:
    """Formats the table for the terminal: errors in percent, differences in percentage points."""
    settings = list(table[0]['values']) if table else []
    has_seeds = any(len(row['errors']) > 1 for row in table)
    header = [*settings, 'top-1 error', 'spread', 'difference', '95 % interval', 'seconds']
    lines = [header]
    for row in table:
        spread = ''
        if len(row['errors']) > 1:
            spread = f'{row["lowest"]:.2%} to {row["highest"]:.2%}'
        cells = error_cell(row), spread, *difference_cells(row), f'{row["seconds"]:.0f}'
        lines.append([*row['values'].values(), *cells])
    if not has_seeds:  # no spread and no interval
        lines = [[*line[:-4], line[-3], line[-1]] for line in lines]
    return align_columns(lines)


def conclusion(study: Study, lists: Mapping[str, Sequence[Any]], rows: Mapping[str, Values]) -> str:
    """Says which row is the best, and whether its values are at the ends of their ranges.

    Args:
      study: the runs.
      lists: the values of each setting.
      rows: the values of each row by its name.
    """
    name = best(study)
    is_complete = all(study.result(*run) for run in study.runs())
    if name is None and not is_complete:
        return 'no run has reached its end yet'
    if name is None:
        return 'every value has diverged: try others, such as lower learning rates'
    means = _means(study)
    if not is_complete:
        return f'best so far: {name}, with a top-1 error of {means[name]:.2%}'
    lines = [f'best: {name}, with a top-1 error of {means[name]:.2%}']
    ties = [other for other, mean in means.items() if other != name and mean == means[name]]
    if ties:
        lines.append(f'with the same error: {list_names(ties, 3)}')
    for setting, values in lists.items():
        if end := _end(setting, values, rows[name][setting]):
            lines.append(end)
    return '\n'.join(lines)


def _end(setting: str, values: Sequence[Any], chosen: Any) -> str:
    """Says that a value is the lowest or the highest of those tried; '' if it is neither."""
    is_number = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if not is_number or len(values) < 2 or min(values) < chosen < max(values):
        return ''
    kind, beyond = ('lowest', 'lower') if chosen == min(values) else ('highest', 'higher')
    return (
        f'{setting}={format_value(chosen)} is the {kind} value that was tried: '
        f'{beyond} ones may be better'
    )
