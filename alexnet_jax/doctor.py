"""The doctor: what is wrong with a prepared data set, if anything (§2).

Every record is read, so a flipped bit is found; labels are counted per class and compared with what
is published; class orders are told apart; a sample is decoded.
"""

import concurrent.futures
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax import datasets, images, statistics
from alexnet_jax.datasets import catalogue, writing
from alexnet_jax.errors import UserError
from alexnet_jax.progress import Bars

SHOWN = 5  # of the faults of one kind

# The devkit numbers the classes of 2012 in an order of its own; its first ones tell it from others.
DEVKIT_2012 = ('n02119789', 'n02100735', 'n02110185', 'n02096294', 'n02102040')


def examine(data_dir: Path, name: str, sample: int) -> int:
    """Prints a page on each data set of a folder, or on one.

    Args:
      sample: images per split to decode; 0 is all.

    Returns:
      The exit code: 0 if all is well, 1 if anything is wrong.

    Raises:
      UserError: there is no such data set.
    """
    builders = list(_builders(data_dir, name))
    if not builders:
        raise UserError(
            f'{data_dir} has no prepared data set{f" {name}" if name else ""}: prepare one with '
            'python -m alexnet_jax.prepare --tars=DIR, or give --data_dir'
        )
    faults = 0
    for builder in builders:
        print(f'{builder.name} in {builder.data_dir}')
        for line in _unfinished(Path(builder.data_dir)):
            print(f'  {line}')
        for split in builder.info.splits:
            found = _examine_split(builder, split, sample)
            faults += len(found)
            for line in found[:SHOWN]:
                print(f'    WRONG: {line}')
            if len(found) > SHOWN:
                print(f'    WRONG: and {len(found) - SHOWN} more')
    print('nothing is wrong' if not faults else f'{faults} faults')
    return 1 if faults else 0


def _builders(data_dir: Path, name: str) -> Iterator[tfds.core.DatasetBuilder]:
    for file in sorted(data_dir.glob(f'{name or "*"}/**/dataset_info.json')):
        if '.incomplete' not in str(file):
            yield tfds.builder_from_directory(str(file.parent))


def _unfinished(folder: Path) -> Iterator[str]:
    for other in sorted(folder.parent.glob('.*.incomplete')):
        yield f'unfinished beside it: {other.name}; the same prepare command goes on'


def _examine_split(builder: tfds.core.DatasetBuilder, split: str, sample: int) -> list[str]:
    """Prints what is there and gives what is wrong."""
    records = datasets.open_split(builder, split)
    classes = records.features['label'].num_classes
    every = len(records)
    chosen = set(np.linspace(0, every - 1, min(sample or every, every)).astype(int).tolist())
    labels: Counter[int] = Counter()
    named: dict[str, int] = {}
    faults: list[str] = []
    image = records.features['image']

    def look(index: int) -> tuple[int, str]:
        """Reads, and if it is in the sample decodes, a record: its label and name."""
        example = records[index]
        if index in chosen and isinstance(example['image'], bytes):
            pixels = images.decode(example['image'])
            if image.shape[0] and pixels.shape != image.shape:
                raise images.BadImage(f'is {pixels.shape}, not {image.shape}')
        return int(example['label']), example['name']

    def attempt(index: int) -> tuple[int, str] | str:
        try:
            return look(index)
        except images.BadImage as error:
            return f'{records.where(index)} {error}'

    with Bars() as bars, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, every, 1024):
            indices = range(first, min(first + 1024, every))
            for found in pool.map(attempt, indices):
                if isinstance(found, str):
                    faults.append(found)
                    continue
                labels[found[0]] += 1
                if found[1]:
                    named[found[1]] = found[0]
            bars.reading(f'reading {split}', indices[-1] + 1, every)
    size = image.shape[0] or writing.STATISTICS_SIZE
    kept = statistics.file_of(Path(builder.data_dir), split, size)
    counts = np.array([labels[label] for label in range(classes)])
    expected = _published(builder.name).get(split)
    of = '' if expected is None else f' of {expected:,} published'
    print(f'  {split}: {every:,} images{of}; {_per_class(counts, labels)}; {len(chosen):,} decoded')
    if kept.exists():
        sums = statistics.Sums.load(kept)
        print(f'    {_describe(sums)}')
        if sums.images != every:
            faults.append(f'{kept.name} counted {sums.images:,} images, not {every:,}')
    if expected is not None and every != expected:
        faults.append(f'{split} has {every:,} images and {expected:,} are published')
    if counts.any() and not counts.all() and split == 'train':
        faults.append(
            f'{(counts == 0).sum()} classes have no image, the first is {counts.argmin()}'
        )
    if expected and split == 'validation' and every == expected and set(counts) != {50}:
        faults.append('the validation set should have 50 images in every class')
    return faults + list(_class_order(builder, split, named, classes))


def _published(name: str) -> dict[str, int]:
    year = {'imagenet2012': catalogue.IMAGES_2012, 'imagenet2010': catalogue.IMAGES_2010}
    return next((n for prefix, n in year.items() if name.startswith(prefix)), {})


def _per_class(counts: np.ndarray, labels: Counter[int]) -> str:
    if labels[catalogue.NO_LABEL]:
        return f'{labels[catalogue.NO_LABEL]:,} without a label'
    least, most = counts.min(), counts.max()
    each = f'{least:,}' if least == most else f'{least:,} to {most:,}'
    return f'{each} in each of {len(counts):,} classes'


def _class_order(
    builder: tfds.core.DatasetBuilder, split: str, named: dict[str, int], classes: int
) -> Iterator[str]:
    """Says by the images' names which class order the labels are in, and whether they agree."""
    of_synset: dict[str, set[int]] = {}
    truth = catalogue.validation_2012() if split == 'validation' else {}
    for name, label in named.items():
        synset = name.partition('_')[0] if split == 'train' else truth.get(name, '')
        if synset.startswith('n') and synset[1:].isdigit():
            of_synset.setdefault(synset, set()).add(label)
    if not of_synset or not builder.name.startswith('imagenet2012'):
        return
    mixed = [synset for synset, found in of_synset.items() if len(found) > 1]
    if mixed:
        yield f'images of {mixed[0]} have different labels: {sorted(of_synset[mixed[0]])}'
        return
    sorted_ids = {synset: i for i, synset in enumerate(catalogue.labels_2012())}
    if all({sorted_ids.get(synset)} == found for synset, found in of_synset.items()):
        print('    classes in the order of their WordNet ids (TFDS, Caffe, torchvision)')
    elif all(of_synset.get(s, {i}) == {i} for i, s in enumerate(DEVKIT_2012)):
        yield "classes in the devkit's order (the 2012 code's): other nets' outputs do not fit"
    else:
        yield f'labels do not fit the names of the {classes} classes in any known order'


def _describe(sums: statistics.Sums) -> str:
    """The statistics of a training set in a line."""
    colours = sums.colours
    mean = ', '.join(f'{x:.2f}' for x in colours.mean)
    roots = ', '.join(f'{x:.2f}' for x in np.sqrt(colours.eigenvalues))
    return f'mean colour {mean}; principal colours deviate by {roots}'
