"""The catalogue of all settings, read from the schema: name, type, range and meaning of each."""

import ast
import dataclasses
import functools
import inspect
import typing
from collections.abc import Iterator
from typing import Any

from alexnet_jax.config.ranges import Range
from alexnet_jax.config.schema import Config
from alexnet_jax.runtime.user_errors import UserError

_NOUNS = {int: 'an integer', float: 'a number', bool: 'true or false', str: 'text'}
_BOOLEANS = {'true': True, 't': True, 'yes': True, 'on': True, '1': True} | {
    'false': False,
    'f': False,
    'no': False,
    'off': False,
    '0': False,
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of the schema.

    Attributes:
      name: the dotted name, 'optimizer.batch_size'.
      type: int, float, bool or str; for a tuple, the type of its items.
      is_tuple: whether the value is a tuple of any length.
      range: the values, or items, that are allowed; None if all of the type are.
      meaning: a sentence, with the section of the paper.
    """

    name: str
    type: type
    is_tuple: bool
    range: Range | None
    meaning: str

    def describe_type(self) -> str:
        """Returns the type and the range in words."""
        word = f'tuple of {self.type.__name__}' if self.is_tuple else self.type.__name__
        each = 'each ' if self.is_tuple else ''
        return f'{word}, {each}{self.range}' if self.range else word

    def parse(self, text: str) -> Any:
        """Returns the value that a text on the command line stands for.

        A tuple is written with commas, `relu,max_pooling`, or as Python has it.

        Raises:
          UserError: the text is no value of this type.
        """
        if not self.is_tuple:
            return self._parse_one(text)
        if text.startswith(('(', '[', '"', "'")):
            try:
                items = ast.literal_eval(text)
            except (ValueError, SyntaxError) as error:
                raise UserError(
                    f'{self.name}={text} is no tuple: separate its items by commas'
                ) from error
            return tuple(items) if isinstance(items, (tuple, list)) else (items,)
        items = text.removesuffix(',').split(',') if text else []
        return tuple(self._parse_one(item.strip()) for item in items)

    def _parse_one(self, text: str) -> Any:
        try:
            if self.type is bool:
                return _BOOLEANS[text.lower()]
            if self.type in (int, float) and not text.isascii():
                raise ValueError(text)  # Python also takes the digits of other scripts
            return self.type(text)
        except (ValueError, KeyError) as error:
            raise UserError(f'{self.name}={text} must be {self._noun()}') from error

    def _noun(self) -> str:
        noun = _NOUNS[self.type]
        return f'{noun} {self.range}' if self.range and self.type in (int, float) else noun


@functools.cache
def catalogue() -> dict[str, Setting]:
    """Returns all settings by their dotted names, in the order of the schema."""
    return {setting.name: setting for setting in _settings(Config, '')}


@functools.cache
def sections() -> dict[str, str]:
    """Returns the meaning of each section by its dotted name, in the order of the schema."""
    return dict(_sections(Config, ''))


def field_types(cls: type) -> dict[str, Any]:
    """Returns the types of a section's fields, with what they are annotated with."""
    return typing.get_type_hints(cls, include_extras=True)


def _settings(cls: type, prefix: str) -> Iterator[Setting]:
    for field, hint in field_types(cls).items():
        name = f'{prefix}{field}'
        if dataclasses.is_dataclass(hint):
            yield from _settings(typing.cast(type, hint), f'{name}.')
            continue
        kind, *ranges, meaning = typing.get_args(hint)
        is_tuple = typing.get_origin(kind) is tuple
        item = typing.get_args(kind)[0] if is_tuple else kind
        yield Setting(name, item, is_tuple, ranges[0] if ranges else None, meaning)


def _sections(cls: type, prefix: str) -> Iterator[tuple[str, str]]:
    for field, hint in field_types(cls).items():
        if dataclasses.is_dataclass(hint):
            name = f'{prefix}{field}'
            doc = inspect.getdoc(hint) or ''
            yield name, doc.partition('\n')[0]
            yield from _sections(typing.cast(type, hint), f'{name}.')
