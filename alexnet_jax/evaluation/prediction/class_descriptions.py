"""Reads names and descriptions of classes from a text such as ImageNet's synset_words.txt."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.images import BadImage
from alexnet_jax.evaluation.pictures import describe_error, read_file
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.user_errors import UserError

_SHOWN = 3  # names in a message
_WORDNET_ID = re.compile(r'n[0-9]{8}')


class Descriptions(NamedTuple):
    """Descriptions of classes.

    Attributes:
      of_classes: the description of each class; '' where the file has none.
      complaint: what does not fit together, on one line; '' if everything does.
    """

    of_classes: tuple[str, ...]
    complaint: str


def read(file: Path, flag: str) -> list[tuple[str, str]]:
    """Reads a file with a class and its description on each line.

    Args:
      file: text in UTF-8. The class ends at the first tab of a line or, without a tab, at the first
        space. Empty lines are left out.
      flag: the name of the flag that gives the file, for messages.

    Returns:
      The name and the description of the classes, in the order of the lines.

    Raises:
      UserError: the file cannot be read, or is not such a text.
    """
    pairs = []
    for line in filter(None, read_lines(file, flag)):
        name, _, description = line.partition('\t' if '\t' in line else ' ')
        pairs.append((name.strip(), ' '.join(description.split())))
    return pairs


def read_lines(file: Path, flag: str) -> list[str]:
    """Reads the lines of a text in UTF-8, without white space around them.

    Args:
      file: the file.
      flag: the name of the flag that gives it, for messages.

    Raises:
      UserError: it cannot be read, or is not such a text.
    """
    shown = f'{flag}={printable(str(file))}'
    try:
        text = read_file(file).decode('utf-8-sig')
    except (OSError, BadImage) as error:
        raise UserError(f'{shown} {describe_error(error)}') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{shown} is not text in UTF-8: {error.reason}') from error
    return [line.strip() for line in text.splitlines()]


def are_missing(classes: Sequence[str], descriptions: Sequence[str]) -> bool:
    """Returns whether the classes are WordNet ids, and none has a description."""
    return not any(descriptions) and all(map(_WORDNET_ID.fullmatch, classes))


def match(pairs: Sequence[tuple[str, str]], classes: Sequence[str], flag: str) -> Descriptions:
    """Finds the description of each class.

    Args:
      pairs: names and descriptions, as `read` returns them.
      classes: the names of the classes of a net.
      flag: the name of the flag that gives the file, for messages.

    Raises:
      UserError: no name is that of a class: it is the file of another net.
    """
    descriptions = dict(pairs)
    unknown = sorted(descriptions.keys() - set(classes))
    missing = [name for name in classes if name not in descriptions]
    if len(missing) == len(classes):
        raise UserError(
            f'{flag} describes no class of the net: its classes are {list_names(classes, _SHOWN)}, '
            f'those of the file {list_names([name for name, _ in pairs], _SHOWN) or "none"}'
        )
    twice = [name for name, number in Counter(name for name, _ in pairs).items() if number > 1]
    parts = []
    if unknown:
        parts.append(f'not in the net: {list_names(unknown, _SHOWN)}')
    if missing:
        parts.append(f'not described: {list_names(missing, _SHOWN)}')
    if twice:
        parts.append(f'described twice, the last one counts: {list_names(twice, _SHOWN)}')
    complaint = f'{flag} and the net have different classes; {"; ".join(parts)}' if parts else ''
    return Descriptions(tuple(descriptions.get(name, '') for name in classes), complaint)
