"""The page that --settings prints: name, value, meaning, type and range of every setting."""

import textwrap
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config import suggestions
from alexnet_jax.config.schema import flatten
from alexnet_jax.config.settings import Setting, catalogue, sections
from alexnet_jax.runtime.user_errors import UserError

_COLUMNS = 88


def settings_page(raw: ConfigDict, name: str = '') -> str:
    """Returns the settings as text, each with its value in a config.

    Args:
      raw: nested settings, not necessarily valid.
      name: a section or one setting; '' for all.

    Raises:
      UserError: there is no such section or setting.
    """
    values = flatten(raw)
    chosen = [x for x in catalogue().values() if not name or f'{x.name}.'.startswith(f'{name}.')]
    if not chosen:
        raise UserError(f'there is no setting or section {name}: {suggestions.hint(name)}')
    blocks, section = [], ''
    for setting in chosen:
        if setting.name.rpartition('.')[0] != section:
            section = setting.name.rpartition('.')[0]
            title = textwrap.fill(f'{section}: {sections()[section]}', _COLUMNS)
            blocks.append(f'\n{title}\n')
        blocks.append(_block(setting, values.get(setting.name)))
    return '\n'.join(blocks).strip('\n')


def _block(setting: Setting, value: Any) -> str:
    lines = [f'  {setting.name} = {_text(value)}']
    for paragraph in (setting.meaning, f'[{setting.describe_type()}]'):
        lines += textwrap.wrap(
            paragraph, _COLUMNS, initial_indent=' ' * 6, subsequent_indent=' ' * 6
        )
    return '\n'.join(lines)


def _text(value: Any) -> str:
    """Returns a value as the command line takes it; in quotes where it is empty or odd."""
    if value is None:
        return '(missing)'
    if isinstance(value, (tuple, list)):
        value = ','.join(map(str, value))
    text = str(value)
    return text if text and text.isprintable() else repr(text)
