"""Names of files that are numbered: train-00000-of-00294.parquet, imagenet1k-train-0000.tar."""

import re
from collections import defaultdict
from collections.abc import Iterable

_NUMBER = re.compile(r'(?P<before>.*?)(?P<number>\d+)(?P<of>-of-(?P<total>\d+))?(?P<after>\D*)')


def missing_files(names: Iterable[str]) -> list[str]:
    """Returns the names that are missing in sequences of numbered files.

    A sequence begins with 0, or with 1 where there is no 0; where its names do not tell how many
    there are, it ends with the highest number that is there.
    """
    sequences: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for name in names:
        if match := _NUMBER.fullmatch(name):
            key = match['before'], match['of'] or '', match['after']
            sequences[key][int(match['number'])] = match['number']
    missing = []
    for (before, of, after), numbers in sequences.items():
        first = 0 if of or 0 in numbers else 1
        last = int(of.removeprefix('-of-')) if of else max(numbers) + 1
        width = len(next(iter(numbers.values())))
        missing += [
            f'{before}{number:0{width}d}{of}{after}'
            for number in range(first, last)
            if number not in numbers
        ]
    return sorted(missing)
