"""The goals of input.py and its tables."""

import math
import os
from collections.abc import Sequence
from statistics import median

from alexnet_jax.runtime.text_table import align_columns

SIZE, CROP = 256, 224  # pixels
STEPS = 5  # in a block of training steps
HOST_CORES, DEMANDS = 16, (20_000, 50_000)  # images per second
CORES = os.cpu_count() or 1
SCALING = 2 * CORES  # threads of our loader where images are scaled

OURS = 'ours, {} threads: {}'  # the name of a contender

Rates = dict[str, list[float]]  # by contender: images per second in each round

# By our contender: its rival and how many times faster it should be; or '' and images per second.
Goals = dict[str, tuple[str, float]]

ONE_CORE: Goals = {
    'ours: decodes a 256 JPEG': ('Pillow: decodes a 256 JPEG', 1.3),
    'ours: scales an original': ('Pillow: scales an original', 0),
    'ours: prepares a 256 JPEG': ('Pillow: scales an original', 1.5),
    'ours: batches, original': ('', 0),
    'ours: batches, 256 JPEG': ('', 0),
    'ours: batches, 256 raw': ('', 10_000),
}
ALL_CORES: Goals = {
    OURS.format(SCALING, 'original'): ('PyTorch: original', 2),
    OURS.format(CORES, '256 JPEG'): ('PyTorch: 256 JPEG', 2),
    OURS.format(CORES, '256 raw'): ('', 0),
}
TRAINING: Goals = {'comes from the loader': ('stays on the devices', 0)}


def number(value: float) -> str:
    """Formats a number with at least three digits; 0 as an empty string."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f'{value:,.{digits}f}' if value else ''


def table(title: str, goals: Goals, rates: Rates) -> str:
    """Formats the rates of our contenders and of their rivals."""
    header = (title, 'images/s', 'slowest', 'fastest', 'ratio', 'goal')
    rows: dict[str, tuple[str, ...]] = {'': header}
    for name, (rival, goal) in goals.items():
        own, other = rates[name], rates.get(rival, [])
        ratio = median(a / b for a, b in zip(own, other, strict=True)) if other else 0.0
        value = ratio if rival else median(own)
        verdict = f'{number(goal)}, {"met" if value >= goal else "missed"}' if goal * value else ''
        for row, numbers, rest in ((rival, other, ('', '')), (name, own, (number(ratio), verdict))):
            if numbers:
                statistics = (median(numbers), min(numbers), max(numbers))
                rows[row] = (row, *map(number, statistics), *rest)
    return align_columns([*rows.values()])


def host(forms: Sequence[str], one: Rates, many: Rates) -> str:
    """Formats what the rates on these cores would amount to on a host of 16 cores.

    Args:
      forms: names of the forms in which the images are stored.
      one: rates on one core.
      many: rates on all cores.
    """
    goal = DEMANDS[-1]
    header = ['form', 'a core', f'x {HOST_CORES}', '2 threads / 1', 'lock, us', 'lock allows']
    bandwidths = {demand: demand * SIZE**2 * 3 / 1e9 for demand in DEMANDS}
    demands = (f'{d:,} ({b:.1f} GB/s)' for d, b in bandwidths.items())
    rows = [[*header, f'goal: {goal:,}', 'GB/s', *demands]]
    for form in forms:
        rate = median(one[f'ours: batches, {form}'])
        pairs = zip(many[OURS.format(2, form)], many[OURS.format(1, form)], strict=True)
        lock = 1 / median(one[f'undecoded, {form}'])
        lock += 1 / median(one[f'tiny, {form}']) if f'tiny, {form}' in one else 0
        feeds = min(HOST_CORES * rate, 1 / lock)
        values = (rate, HOST_CORES * rate, median(two / own for two, own in pairs), lock * 1e6)
        verdict = 'met' if 1 / lock >= goal else 'missed'
        cells = (*map(number, (*values, 1 / lock)), verdict, number(feeds * SIZE**2 * 3 / 1e9))
        needs = (f'{number(d / rate)}, {math.ceil(d * lock)}' for d in DEMANDS)
        rows.append([form, *cells, *needs])
    return align_columns(rows)


# Explanations below the tables.
PREPARING = """\
'prepares' is data/writing.py with one worker: it decodes, scales, encodes, computes the pixel
statistics, writes records and metadata, and first encodes a sample of 32 images for their size."""
SQUARES = f"""\
Batches of {{batch}}. PyTorch's are crops of {CROP}, half of them flipped. Ours are complete squares
of {SIZE}, a third more bytes, since training crops and flips on the device."""
HOST = """\
The first two columns and 'lock allows' are images/s. 'lock' is the time per image, in microseconds,
in which a thread may hold Python's interpreter lock: all of the loader's work without decoding, of
which calls of the system release the lock, and a call of the decoder for a tiny image. 'lock
allows' follows from it: the rate of one process if nothing else limited it; where two threads are
hardly faster than one, the rate is lower. 'GB/s' is the transfer to the devices at the smaller of
the two rates. The last columns are the cores and, by the lock, the processes (loader.workers) that
so many images/s need. Not included: passing batches between processes, disks, and the memory and
clock that cores share."""
