"""Checks prepared data sets for faults (§2).

Every record is read, so that a flipped bit is detected; labels are counted per class and the counts
compared with the published ones; the order of the classes is identified; a sample of the images is
decoded.
"""

import concurrent.futures
import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from alexnet_jax.data import image_index, images, pixel_statistics, sources
from alexnet_jax.data.preparation import prepared_sets, tfds_sets
from alexnet_jax.data.preparation.catalogue import NO_LABEL
from alexnet_jax.data.preparation.layouts import imagenet_tars
from alexnet_jax.data.preparation.layouts.collection import DEVKIT_2012
from alexnet_jax.data.preparation.layouts.image_names import parse_name
from alexnet_jax.data.records import Records
from alexnet_jax.data.system_errors import SystemTrouble
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, first_line

MAX_FAULTS_SHOWN = 5  # per split


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts from reading the records of a split.

    Attributes:
      images: number of records.
      decoded: number of images that were decoded.
      per_class: (K,) int64, number of images of each class.
      unlabelled: number of images without a label.
      labels: the label of each image that has a name.
      faults: a line about each record that cannot be read or decoded.
    """

    images: int
    decoded: int
    per_class: np.ndarray
    unlabelled: int
    labels: dict[str, int]
    faults: list[str]


def examine(data_dir: Path, name: str, sample: int) -> int:
    """Checks the data sets in a folder, or one of them, and prints what it has counted.

    Args:
      data_dir: where TFDS keeps data sets.
      name: the data set to check; '' for all.
      sample: number of images per split to decode; 0 for all.

    Returns:
      The exit code: 0 if there are no faults, else 1. A data set that cannot be opened is a fault.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: there is no such data set.
    """
    folders = _find_folders(data_dir, name)
    if not folders:
        raise UserError(
            f'{data_dir} has no prepared data set{f" {name}" if name else ""}: prepare one with '
            'python -m alexnet_jax.prepare --imagenet=DIR, or choose another folder with --data_dir'
        )
    number_of_faults = sum(_examine_folder(folder, bool(name), sample) for folder in folders)
    print(f'{number_of_faults or "no"} fault{"s" * (number_of_faults != 1)}')
    return 1 if number_of_faults else 0


def _examine_folder(folder: Path, chosen: bool, sample: int) -> int:
    """Checks a data set and prints what it has counted; returns the number of faults.

    Args:
      folder: the folder of the data set.
      chosen: whether the user asked for this data set; if not, one that training has no use for is
        not a fault.
      sample: number of images per split to decode; 0 for all.
    """
    repair = f'    {prepared_sets.remedy(folder)}'
    try:
        builder = tfds.builder_from_directory(str(folder))
        splits = list(builder.info.splits)
        if not splits:
            raise UserError('it has no splits')
        tfds_sets.check_class_names(builder)
        if prepared_sets.lacks_source(folder):
            raise UserError(f'{prepared_sets.SOURCE} is missing or damaged')
    except Exception as error:  # of many kinds, for damaged files
        print(f'{printable(str(folder))}\n  FAULT: cannot be opened: {first_line(error)}\n{repair}')
        return 1
    try:
        tfds_sets.check_features(builder)
    except UserError as error:
        kind = 'FAULT' if chosen else 'not checked'
        print(f'{printable(str(folder))}\n  {kind}: {first_line(error)}')
        return int(chosen)
    print(f'{builder.name} in {printable(str(builder.data_dir))}')
    for unfinished in sorted(folder.parent.glob('.*.incomplete')):
        print(f'  unfinished: {unfinished.name}; the command that prepares it resumes there')
    faults = 0
    for split in splits:
        try:
            faults += _examine_split(builder, split, sample)
        except SystemTrouble:
            raise
        except UserError as error:
            print(f'  {split}\n    FAULT: {first_line(error)}')
            faults += 1
    if faults:
        print(repair)
    return faults


def _find_folders(data_dir: Path, name: str) -> list[Path]:
    """Returns the folders of the data sets of this name, also of those that lack a file.

    A folder that has its name is complete, so that what is missing in it is a fault. The folders of
    data sets that are being written are hidden, or named incomplete.*.
    """
    if name and not all(c.isalnum() or c in '_-' for c in name):
        raise UserError(
            f'--name={name} is not the name of a data set: pass its folder as --data_dir'
        )
    if data_dir.is_dir() and (data_dir / 'dataset_info.json').exists():
        raise UserError(f'{data_dir} is itself a data set: pass the folder two above as --data_dir')
    names = ('dataset_info.json', 'features.json', prepared_sets.SOURCE, '*.array_record*')
    folders = {
        file.parent for pattern in names for file in data_dir.glob(f'{name or "*"}/**/{pattern}')
    }
    return sorted(
        folder
        for folder in folders
        if not any(
            part.startswith(('.', 'incomplete.')) for part in folder.relative_to(data_dir).parts
        )
    )


def _examine_split(builder: tfds.core.DatasetBuilder, split: str, sample: int) -> int:
    """Checks a split and prints what it has counted; returns the number of faults."""
    records = sources.open_split(builder, split)
    counts = _count(records, split, sample)
    published, expected = _expected_images(builder, split)
    faults = [*_judge_lengths(builder, split), *counts.faults]
    if records.index_fault:
        faults.append(f'{image_index.FILE} {records.index_fault}')
    sums = None
    file = pixel_statistics.statistics_file(Path(builder.data_dir), split, records.size)
    if file.exists():
        try:
            sums = pixel_statistics.Sums.load(file)
        except SystemTrouble:
            raise
        except UserError as error:
            faults.append(str(error))
    if sums is not None and sums.images != counts.images:
        faults.append(f'{file.name} is of {sums.images:,} images, not {counts.images:,}')
    faults += _judge_counts(counts, split, published, expected)
    labels_by_synset = {}
    if builder.name.startswith('imagenet2012'):
        labels_by_synset = _group_by_synset(counts.labels)
    in_order = imagenet_tars.labels_2012()
    if len(records.classes) < len(in_order):  # a subset, in an order that the user has chosen
        in_order = records.classes
    faults += _judge_class_order(labels_by_synset, in_order)

    print(_describe_counts(counts, split, published))
    if sums is not None:
        print(f'    {_describe_sums(sums)}')
    if (
        labels_by_synset
        and in_order == sorted(in_order)
        and _is_numbered(labels_by_synset, in_order)
    ):
        print('    classes in the order of their WordNet ids (TFDS, Caffe, torchvision)')
    for line in faults[:MAX_FAULTS_SHOWN]:
        print(f'    FAULT: {line}')
    if len(faults) > MAX_FAULTS_SHOWN:
        print(f'    FAULT: and {len(faults) - MAX_FAULTS_SHOWN} more')
    return len(faults)


def _count(records: Records, split: str, sample: int) -> Counts:
    """Reads every record of a split in several threads, and decodes a sample of the images."""
    total = len(records)
    chosen = np.linspace(0, total - 1, min(sample or total, total)).astype(int)
    chosen = set(chosen.tolist())
    image = records.features['image']

    def read(index: int) -> tuple[str, int] | str:
        """Returns the name and label of a record, or a line about what is wrong with it."""
        try:
            example = records[index]
            if records.differs_from_index(index, example):
                return f'{records.where(index)} differs from {image_index.FILE}'
            if index in chosen and isinstance(example['image'], bytes):
                pixels = images.decode(example['image'])
                if records.size and pixels.shape != image.shape:
                    raise images.BadImage(f'is {pixels.shape}, not {image.shape}')
        except images.BadImage as error:
            return f'{records.where(index)} {error}'
        return example['name'], int(example['label'])

    per_label: Counter[int] = Counter()
    labels: dict[str, int] = {}
    faults: list[str] = []
    with (
        ProgressBars() as bars,
        concurrent.futures.ThreadPoolExecutor(cpu_devices.processor_count()) as pool,
    ):
        for first in range(0, total, 1024):
            indices = range(first, min(first + 1024, total))
            raise_if_stopped()
            for result in pool.map(read, indices):
                if isinstance(result, str):
                    faults.append(result)
                    continue
                name, label = result
                per_label[label] += 1
                if name:
                    labels[name] = label
            bars.show_images(f'reading {split}', indices[-1] + 1, total)
    per_class = np.array([per_label[k] for k in range(len(records.classes))])
    return Counts(total, len(chosen), per_class, per_label[NO_LABEL], labels, faults)


def _expected_images(
    builder: tfds.core.DatasetBuilder, split: str
) -> tuple[int | None, int | None]:
    """Returns the number of images that is published, and the number that was prepared."""
    source = prepared_sets.read_source(Path(builder.data_dir))
    try:
        return source['published'].get(split), source['images'][split]
    except KeyError:  # not written by this program
        published = imagenet_tars.IMAGES_2012 if builder.name == 'imagenet2012' else {}
        return published.get(split), published.get(split)


def _judge_lengths(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[str]:
    """Yields the shards whose number of records is not the one that the metadata state."""
    for part in builder.info.splits[split].file_instructions:
        file = Path(part.filename).name
        try:
            reader = array_record_module.ArrayRecordReader(str(part.filename))
            number = reader.num_records()
            reader.close()
        except (RuntimeError, ValueError) as error:
            yield f'{file} cannot be read: {first_line(error)[:120]}'
            continue
        if number != part.examples_in_shard:
            expected = part.examples_in_shard
            yield f'{file} has {number:,} records, and dataset_info.json says {expected:,}'


def _judge_counts(
    counts: Counts, split: str, published: int | None, expected: int | None
) -> Iterator[str]:
    """Yields what is wrong with the number of images and of images per class."""
    total, per_class = counts.images, counts.per_class
    if expected is not None and total != expected:
        yield f'{split} has {total:,} images, not {expected:,}'
    if per_class.any() and not per_class.all() and split == 'train':
        yield f'{(per_class == 0).sum()} classes have no images; the first is {per_class.argmin()}'
    equal = set(per_class.tolist()) == {(published or 0) // len(per_class)}
    if split == 'validation' and total == published and not equal:
        yield 'the validation set should have the same number of images in every class'


def _group_by_synset(labels: dict[str, int]) -> dict[str, set[int]]:
    """Returns the labels that the images of each synset have, where names tell the synset."""
    labels_by_synset: dict[str, set[int]] = {}
    for name, label in labels.items():
        if synset := parse_name(name).synset:
            labels_by_synset.setdefault(synset, set()).add(label)
    return labels_by_synset


def _is_numbered(labels_by_synset: dict[str, set[int]], in_order: list[str]) -> bool:
    """Checks whether the labels number these classes in this order."""
    expected = {synset: label for label, synset in enumerate(in_order)}
    return all({expected.get(synset)} == labels for synset, labels in labels_by_synset.items())


def _judge_class_order(labels_by_synset: dict[str, set[int]], in_order: list[str]) -> Iterator[str]:
    """Yields what is wrong with the order of the classes, by the names of the images."""
    if _is_numbered(labels_by_synset, in_order):
        return
    mixed = [synset for synset, labels in labels_by_synset.items() if len(labels) > 1]
    if mixed:
        labels = sorted(labels_by_synset[mixed[0]])
        yield f'images of {mixed[0]} have different labels: {labels}'
    elif all(labels_by_synset.get(s, {i}) == {i} for i, s in enumerate(DEVKIT_2012)):
        yield (
            "classes in the devkit's order (that of the 2012 code): not comparable with the "
            'outputs of other nets'
        )
    else:
        yield f'labels do not fit the names of the {len(in_order)} classes in any known order'


def _describe_counts(counts: Counts, split: str, published: int | None) -> str:
    """Returns the line about a split."""
    least, most = counts.per_class.min(), counts.per_class.max()
    each = f'{least:,}' if least == most else f'{least:,} to {most:,}'
    classes = f'{each} in each of {len(counts.per_class):,} classes'
    if counts.unlabelled:
        classes = f'{counts.unlabelled:,} without a label'
    of_published = '' if published is None else f' of {published:,} published'
    return (
        f'  {split}: {counts.images:,} images{of_published}; {classes}; {counts.decoded:,} decoded'
    )


def _describe_sums(sums: pixel_statistics.Sums) -> str:
    """Returns the line about the pixel statistics of a training set."""
    colours = sums.colours
    mean = ', '.join(f'{x:.2f}' for x in colours.mean)
    deviations = ', '.join(f'{x:.2f}' for x in np.sqrt(colours.eigenvalues))
    return f'mean colour {mean}; standard deviations along the principal colours {deviations}'
