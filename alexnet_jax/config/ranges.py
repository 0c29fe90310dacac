"""Ranges and choices of settings, stated beside the type of each field of the schema.

`size: Annotated[int, AtLeast(1, 64), 'Pixels across the window.']` is an integer from 1 to 64.
Upper bounds are far above any sensible value: they catch a slip that would otherwise exhaust the
memory or run for ever.
"""

import dataclasses
import math
from typing import Any


def _number(value: float) -> str:
    """Returns a bound as text, large integers with commas."""
    return f'{value:,}' if isinstance(value, int) else f'{value:g}'


def _up_to(high: float) -> str:
    return '' if math.isinf(high) else f' and at most {_number(high)}'


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f'at least {_number(self.low)}{_up_to(self.high)}'

    def problem(self, value: Any) -> str:
        """Returns what is wrong with a value, to stand after `name=value`; '' if nothing is."""
        return '' if self.low <= value <= self.high else f'must be {self}'


@dataclasses.dataclass(frozen=True)
class Above:
    """Numbers larger than `low`, up to and including `high`."""

    low: float
    high: float = math.inf
    note: str = ''  # on the upper bound

    def __str__(self) -> str:
        return f'above {_number(self.low)}{_up_to(self.high)}{self.note}'

    def problem(self, value: Any) -> str:
        """Returns what is wrong with a value, to stand after `name=value`; '' if nothing is."""
        return '' if self.low < value <= self.high else f'must be {self}'


@dataclasses.dataclass(frozen=True)
class HalfOpen:
    """Numbers from `low`, included, to `high`, excluded."""

    low: float
    high: float

    def __str__(self) -> str:
        return f'at least {_number(self.low)} and below {_number(self.high)}'

    def problem(self, value: Any) -> str:
        """Returns what is wrong with a value, to stand after `name=value`; '' if nothing is."""
        return '' if self.low <= value < self.high else f'must be {self}'


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of several words."""

    choices: tuple[str, ...]

    def __str__(self) -> str:
        return f'one of {", ".join(self.choices)}'

    def problem(self, value: Any) -> str:
        """Returns what is wrong with a value, to stand after `name=value`; '' if nothing is."""
        return '' if value in self.choices else f'is none of {", ".join(self.choices)}'


Range = AtLeast | Above | HalfOpen | OneOf
