"""Applies the rules of a config file that fit its settings to the images.

A config file may define, beside `get_config()`, a function `fit(config, images, fixed)` that yields
a setting, its value and the reason, one after the other:

    def fit(config, images, fixed):
        yield 'optimizer.batch_size', 64 if images.images > 2000 else 32, f'{images.images} images'
        yield 'learning_rate.initial', config.optimizer.batch_size * 0.0001, 'it grows with batches'

`images` is an `ImageSurvey`, and `fixed` the settings that the user has overridden: they keep their
values, whatever is yielded for them. A value is applied to `config` before the next one is asked
for, so that a rule sees the overrides and the results of the rules before it. The settings that are
yielded are the same for all images: only their values and reasons differ.
"""

import textwrap
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from alexnet_jax.config import loading
from alexnet_jax.config.fitting.image_survey import TYPICAL, ImageSurvey
from alexnet_jax.config.schema import flatten
from alexnet_jax.runtime.user_errors import UserError

Rules = Callable[[ConfigDict, ImageSurvey, Collection[str]], Iterable[tuple[str, Any, str]]]

SET_BY_USER = 'set by you'
_COLUMNS = 100


class FittedSetting(NamedTuple):
    """A setting, the value that it has, and why."""

    name: str
    value: Any
    reason: str


def fit_settings(
    raw: ConfigDict, rules: Rules, images: ImageSurvey, fixed: Collection[str] = ()
) -> tuple[ConfigDict, list[FittedSetting]]:
    """Returns settings that are fitted to images.

    Args:
      raw: nested settings, with the values of `fixed`; not changed.
      rules: the function `fit` of the config file.
      images: what is known of the images.
      fixed: the settings that keep their values.

    Returns:
      The settings, and those that the rules are about, in the order of the rules.

    Raises:
      UserError: a rule fails, or names a setting that does not exist.
    """
    config = raw.copy_and_resolve_references()
    rows: dict[str, FittedSetting] = {}
    try:
        for name, value, reason in rules(config, images, fixed):
            loading.check_name(name)
            if name in fixed:
                value, reason = flatten(config)[name], SET_BY_USER
            else:
                loading.override(config, {name: value})
            rows[name] = FittedSetting(name, value, reason)  # a later rule replaces it
    except UserError:
        raise
    except Exception as error:  # whatever the user's file may raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f'{frame.filename}, line {frame.lineno}: the settings cannot be fitted to the images: '
            f'{type(error).__name__}: {error}'
        ) from error
    return config, list(rows.values())


def names_of_fitted(raw: ConfigDict, rules: Rules, fixed: Collection[str] = ()) -> list[str]:
    """Returns the settings that rules set for any images, without those that are fixed."""
    _, rows = fit_settings(raw, rules, TYPICAL, fixed)
    return [row.name for row in rows if row.name not in fixed]


def use_recorded(
    raw: ConfigDict, names: Iterable[str], recorded: Mapping[str, Any] | ConfigDict
) -> ConfigDict:
    """Returns settings of which some have the values that were recorded for a run.

    Args:
      raw: nested settings; not changed.
      names: the settings that are taken from the record.
      recorded: nested settings, complete.
    """
    values = flatten(recorded)
    config = raw.copy_and_resolve_references()
    loading.override(config, {name: values[name] for name in names})
    return config


def settings_table(rows: Sequence[FittedSetting]) -> str:
    """Formats settings, values and reasons as a table; long reasons take several lines."""
    width = max(len(row.name) for row in rows)
    value_width = max(len(_value_text(row.value)) for row in rows)
    indent = ' ' * (width + value_width + 4)
    lines = []
    for name, value, reason in rows:
        start = f'{name:<{width}}  {_value_text(value):>{value_width}}  '
        lines.append(
            textwrap.fill(reason, _COLUMNS, initial_indent=start, subsequent_indent=indent)
        )
    return '\n'.join(lines)


def _value_text(value: Any) -> str:
    """Returns a value as the command line takes it."""
    return ','.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
