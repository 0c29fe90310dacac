"""The names of the classes of a net whose file of weights has none."""

import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.data.preparation.layouts import imagenet_tars
from alexnet_jax.evaluation.prediction import class_descriptions
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError

_WORDNET_LINE = re.compile(r'(n\d{8})(?:\s+(.*))?')


def read_names(path: Path, number: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reads a file with the name of a class on each line, in the order of the net's outputs.

    Args:
      path: lines such as 'n01440764 tench, Tinca tinca', 'n01440764' or 'tench'. A WordNet id is
        the name, and what follows it the description; any other line is a name.
      number: the number of classes of the net.

    Returns:
      The names, and the descriptions; '' where there is none.

    Raises:
      UserError: the file cannot be read, has another number of names, or has a name twice.
    """
    lines, shown = class_descriptions.read_lines(path, '--classes'), printable(str(path))
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) != number:
        raise UserError(
            f'{shown} names {len(lines):,} classes, but the net has {number:,}: give as many, in '
            "the order of the net's outputs"
        )
    names, descriptions = [], []
    for line in lines:
        match = _WORDNET_LINE.fullmatch(line)
        names.append(match[1] if match else line)
        descriptions.append((match[2] or '') if match else '')
    first: dict[str, int] = {}
    for index, name in enumerate(names, 1):
        if not name:
            raise UserError(f'line {index} of {shown} is empty: name a class in each line')
        if name in first:
            raise UserError(
                f'lines {first[name]} and {index} of {shown} both name {printable(name)}: give '
                'each class a name of its own'
            )
        first[name] = index
    return tuple(names), tuple(descriptions)


def default_names(number: int) -> tuple[str, ...]:
    """Returns the WordNet ids of ILSVRC-2012 for 1,000 classes, else class_0, class_1, ...

    The published nets have the ids in sorted order: Caffe's synset_words.txt, torchvision's
    categories.
    """
    if number == 1000:
        return tuple(imagenet_tars.labels_2012())
    return tuple(f'class_{index}' for index in range(number))


def order_note(names: Sequence[str]) -> str:
    """Returns a warning where WordNet ids are not in the order of the published nets; else ''."""
    is_wordnet = all(_WORDNET_LINE.fullmatch(name) for name in names)
    if not is_wordnet or list(names) == sorted(names):
        return ''
    return (
        'the WordNet ids are not in sorted order, as the published nets have them: the names are '
        'right only if this net was trained with the classes in this order'
    )
