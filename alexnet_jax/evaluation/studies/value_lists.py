"""The flag --values of a sweep: settings with lists of values, checked before anything starts."""

import re
from collections.abc import Sequence
from typing import Any

from alexnet_jax.config import loading
from alexnet_jax.config.settings import Setting, catalogue
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import differences

_PREFIX = re.compile('-{0,2}config[.]')
_CLOSING = {'(': ')', '[': ']'}
# Settings that choose the test images: the errors of two values could not be compared.
_TEST_IMAGES = (
    *('dataset.name', 'dataset.folder', 'dataset.data_dir', 'dataset.eval_split'),
    'dataset.classes',
)


def parse_value_lists(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the values of each setting of a sweep.

    Args:
      texts: such as 'config.learning_rate.initial=0.003,0.01', with or without 'config.'. A value
        with commas of its own, such as a tuple, is in parentheses, or in quotes if it is text.

    Raises:
      UserError: a setting is unknown, is given twice or cannot be swept; or a value is missing, is
        given twice, or is not of the type of its setting. Ranges are not checked.
    """
    lists: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition('=')
        name = _PREFIX.sub('', name.strip(), count=1)
        if not equals or not name:
            raise UserError(
                f'--values={text} has no values: write --values config.SETTING=VALUE,VALUE'
            )
        loading.check_name(name)
        _refuse(name)
        if name in lists:
            raise UserError(f'--values gives {name} twice: write all its values as one list')
        lists[name] = _parse_list(catalogue()[name], values)
    return lists


def _refuse(name: str) -> None:
    """Raises a UserError for a setting of which the errors cannot depend, or not be compared."""
    if name == 'seed':
        raise UserError('seed cannot be swept: --seeds=N trains each value with N seeds')
    if name in _TEST_IMAGES:
        raise UserError(
            f'{name} cannot be swept: the errors of different test images cannot be compared'
        )
    if name == 'deterministic' or not differences.changes_a_result(name):
        raise UserError(f'{name} cannot be swept: no error depends on it')


def _parse_list(setting: Setting, text: str) -> list[Any]:
    values: list[Any] = []
    for item in _split(setting.name, text):
        value = _parse(setting, item)
        if value in values:
            raise UserError(f'--values gives {setting.name}={item} twice')
        values.append(value)
    return values


def _parse(setting: Setting, item: str) -> Any:
    if not item:
        raise UserError(
            f'--values {setting.name} has an empty value: separate its values by single commas, '
            "and write text that is empty as ''"
        )
    inner = item[1:-1] if len(item) > 1 and _CLOSING.get(item[0]) == item[-1] else None
    if setting.is_tuple:
        if inner is None:
            raise UserError(
                f'each value of {setting.name} is a tuple: write ({item}), with parentheses and '
                'quotes around the list for the shell'
            )
        return setting.parse(item if '"' in item or "'" in item else inner)
    if setting.type is str and len(item) > 1 and item[0] == item[-1] and item[0] in '"\'':
        return item[1:-1]
    return setting.parse(item)


def _split(name: str, text: str) -> list[str]:
    """Splits a list at its commas, except within parentheses, brackets and quotes.

    Raises:
      UserError: a parenthesis, bracket or quote is not closed.
    """
    items, item, open_marks = [], '', []
    for character in text:
        if open_marks and character == open_marks[-1]:
            open_marks.pop()
        elif character in '"\'' and not (open_marks and open_marks[-1] in '"\''):
            open_marks.append(character)
        elif character in _CLOSING and not (open_marks and open_marks[-1] in '"\''):
            open_marks.append(_CLOSING[character])
        elif character == ',' and not open_marks:
            items.append(item.strip())
            item = ''
            continue
        item += character
    if open_marks:
        raise UserError(f'--values {name}={text} lacks a closing {open_marks[-1]}')
    return [*items, item.strip()]


def format_value(value: Any) -> str:
    """Returns a value as it is written in a list of values: 0.003, true, (14.0,20.0), text."""
    if isinstance(value, tuple):
        return f'({",".join(map(format_value, value))})'
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "''"
