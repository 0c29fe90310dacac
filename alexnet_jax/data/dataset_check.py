"""The doctor: what is wrong with a prepared data set, if anything (§2).

Every record is read, so a flipped bit is found; labels are counted per class and compared with what
is published; class orders are told apart; a sample is decoded.
"""

import concurrent.futures
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from alexnet_jax.data import catalogue, images, pixel_statistics, sources, writing
from alexnet_jax.runtime.cpu_devices import processor_count
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError, first_line

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
    faults = examined = 0
    for file in _data_sets(data_dir, name):
        examined += 1
        try:
            builder = tfds.builder_from_directory(str(file.parent))
            sources.check_features(builder)
        except (UserError, ParseError, ValueError, OSError, KeyError) as error:
            print(f'{file.parent}\n  {"WRONG" if name else "not looked at"}: {first_line(error)}')
            faults += bool(name)
            continue
        print(f'{builder.name} in {builder.data_dir}')
        for other in sorted(file.parent.parent.glob('.*.incomplete')):
            print(f'  unfinished beside it: {other.name}; the same prepare command goes on')
        for split in builder.info.splits:
            found = _examine_split(builder, split, sample)
            faults += len(found)
            for line in found[:SHOWN]:
                print(f'    WRONG: {line}')
            if len(found) > SHOWN:
                print(f'    WRONG: and {len(found) - SHOWN} more')
    if not examined:
        raise UserError(
            f'{data_dir} has no prepared data set{f" {name}" if name else ""}: prepare one with '
            'python -m alexnet_jax.prepare --tars=DIR, or give --data_dir'
        )
    print('nothing is wrong' if not faults else f'{faults} faults')
    return 1 if faults else 0


def _data_sets(data_dir: Path, name: str) -> list[Path]:
    """Their dataset_info.json."""
    if name and not all(c.isalnum() or c in '_-' for c in name):
        raise UserError(f'--name={name} is no name of a data set: give its folder as --data_dir')
    found = data_dir.glob(f'{name or "*"}/**/dataset_info.json')
    return sorted(file for file in found if '.incomplete' not in str(file))


def _examine_split(builder: tfds.core.DatasetBuilder, split: str, sample: int) -> list[str]:
    """Prints what is there and gives what is wrong."""
    records = sources.open_split(builder, split)
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
            if records.size and pixels.shape != image.shape:
                raise images.BadImage(f'is {pixels.shape}, not {image.shape}')
        return int(example['label']), example['name']

    def attempt(index: int) -> tuple[int, str] | str:
        try:
            return look(index)
        except images.BadImage as error:
            return f'{records.where(index)} {error}'

    with ProgressBars() as bars, concurrent.futures.ThreadPoolExecutor(processor_count()) as pool:
        for first in range(0, every, 1024):
            indices = range(first, min(first + 1024, every))
            for found in pool.map(attempt, indices):
                if isinstance(found, str):
                    faults.append(found)
                    continue
                labels[found[0]] += 1
                if found[1]:
                    named[found[1]] = found[0]
            bars.show_images(f'reading {split}', indices[-1] + 1, every)
    kept = pixel_statistics.file_of(Path(builder.data_dir), split, records.size)
    counts = np.array([labels[label] for label in range(classes)])
    published, should = _expected(builder, split)
    of = '' if published is None else f' of {published:,} published'
    print(f'  {split}: {every:,} images{of}; {_per_class(counts, labels)}; {len(chosen):,} decoded')
    if kept.exists():
        try:
            sums = pixel_statistics.Sums.load(kept)
        except UserError as error:
            faults.append(str(error))
        else:
            print(f'    {_describe(sums)}')
            if sums.images != every:
                faults.append(f'{kept.name} counted {sums.images:,} images, not {every:,}')
    if should is not None and every != should:
        faults.append(f'{split} has {every:,} images, not {should:,}')
    if counts.any() and not counts.all() and split == 'train':
        faults.append(
            f'{(counts == 0).sum()} classes have no image, the first is {counts.argmin()}'
        )
    if split == 'validation' and every == published and set(counts) != {published // classes}:
        faults.append('the validation set should have the same number of images in every class')
    return faults + list(_class_order(builder, split, named, classes))


def _expected(builder: tfds.core.DatasetBuilder, split: str) -> tuple[int | None, int | None]:
    """Images that are published, and that there should be: fewer if that was allowed."""
    try:
        known = json.loads((Path(builder.data_dir) / writing.SOURCE).read_text())
        return known['published'].get(split), known['images'][split]
    except (OSError, ValueError, KeyError):  # not written by this program
        published = catalogue.IMAGES_2012 if builder.name == 'imagenet2012' else {}
        return published.get(split), published.get(split)


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


def _describe(sums: pixel_statistics.Sums) -> str:
    """The statistics of a training set in a line."""
    colours = sums.colours
    mean = ', '.join(f'{x:.2f}' for x in colours.mean)
    roots = ', '.join(f'{x:.2f}' for x in np.sqrt(colours.eigenvalues))
    return f'mean colour {mean}; principal colours deviate by {roots}'
