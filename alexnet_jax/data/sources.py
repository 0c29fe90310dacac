"""Opens data sets (§2): TFDS data sets in ArrayRecord, read without TensorFlow.

A source is a sequence of `{'image': ..., 'label': int}`; the image is the bytes of a file or a
uint8 array of shape (rows, columns, 1 or 3). ImageNet is prepared by `alexnet_jax.prepare`. A
folder of the user's own images, and any other TFDS data set of images and labels, is prepared when
it is first used.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import tensorflow_datasets as tfds

from alexnet_jax.config import schema
from alexnet_jax.data.preparation import writing
from alexnet_jax.data.preparation.catalogue import Catalogue
from alexnet_jax.data.preparation.own_images import class_folders, description, earlier_split
from alexnet_jax.data.preparation.prepared_sets import read_source, remedy
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.data.preparation.tfds_sets import (
    INSTRUCTIONS,
    UnknownDataSet,
    check_class_names,
    check_features,
    data_dir,
    find_builder,
    prepare,
)
from alexnet_jax.data.records import Records
from alexnet_jax.data.synthetic import Synthetic
from alexnet_jax.runtime.paths import BUCKET, check_path
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError, first_line


class Source(Protocol):
    """A sequence of examples; indexing raises BadImage for one that cannot be read.

    Attributes:
      size: pixels across an image, if all are squares of one size; else 0.
      classes: names of the labels.
    """

    size: int
    classes: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def where(self, index: int) -> str:
        """Returns the location of an example, for messages."""
        ...


class Splits(NamedTuple):
    """The two splits of a data set that a run uses.

    Attributes:
      train: the training images.
      eval: the images of the evaluation.
      folder: the folder of the data set, where its pixel statistics are saved; '' if none.
      skipped: names of the images that were left out when the data set was prepared.
      fingerprints: a hash of the images of `train`, and one of those of `eval`; both change with
        any image of the data set.
      lists: the same for the names, labels and sizes of the images of one split alone; '' where
        they are not known.
    """

    train: Source
    eval: Source
    folder: str
    skipped: tuple[str, ...] = ()
    fingerprints: tuple[str, str] = ('', '')
    lists: tuple[str, str] = ('', '')

    def identity(self) -> dict[str, Any]:
        """Returns what tells these images from others, wherever they are.

        Returns:
          'folder': the folder of the data set, '' if none; 'train' and 'eval': the number of
          'images' and a 'fingerprint', which is equal for a copy of the data set; and where it is
          known a 'list', which changes with the names, labels and sizes of this split alone.
        """
        identity: dict[str, Any] = {
            'folder': str(Path(self.folder).absolute()) if self.folder else ''
        }
        parts = zip(('train', 'eval'), self[:2], self.fingerprints, self.lists, strict=True)
        for name, images, fingerprint, names in parts:
            identity[name] = {'images': len(images), 'fingerprint': fingerprint}
            identity[name] |= {'list': names} if names else {}
        return identity


def open_splits(
    dataset: schema.Dataset,
    skip_bad: int = 0,
    create: bool = True,
    catalogue: Catalogue | None = None,
) -> Splits:
    """Opens the training and the evaluation split; prepares the data set if that is possible.

    Args:
      dataset: the section of the config.
      skip_bad: number of training images that may be left out when a folder of images is prepared.
      create: whether a data set of TFDS may be prepared in a data_dir that the settings name.
        Programs that use a run which exists do not: it would be the wrong place.
      catalogue: the images of the folder, where they have been listed and described already.

    Raises:
      Stopped: a signal asked this process to stop while the data set was prepared.
      UserError: the data set is unknown or not prepared, it has no such split, or it does not
        consist of images and labels with the configured number of classes.
    """
    if dataset.name == 'synthetic':
        if dataset.folder:
            raise UserError(
                "dataset.name='synthetic' has no use for dataset.folder: leave out one of them"
            )
        return _synthetic(dataset)
    names = {'train_split': dataset.train_split, 'eval_split': dataset.eval_split}
    for setting, split in names.items():
        if not split.strip():
            raise UserError(f'dataset.{setting} is empty: set the name of a split, such as train')
    skipped: tuple[str, ...] = ()
    if dataset.folder:
        builder, names, skipped = _from_folder(dataset, names, skip_bad, create, catalogue)
    else:
        builder = _by_name(dataset, create, names.values())
    check_features(builder)
    check_class_names(builder)
    _check_classes(builder.name, builder.info.features['label'].num_classes, dataset, create)
    train, evaluation = (open_split(builder, split) for split in names.values())
    first, second = (_fingerprint(builder, split) for split in names.values())
    lists = _list(builder, names['train_split']), _list(builder, names['eval_split'])
    return Splits(train, evaluation, str(builder.data_dir), skipped, (first, second), lists)


def open_split(builder: tfds.core.DatasetBuilder, split: str) -> Records:
    """Opens a split of a prepared data set.

    Args:
      builder: the data set.
      split: in TFDS's notation: 'train', 'train[:10%]'.

    Raises:
      UserError: the data set has no such split, the split has no images, or its files cannot be
        opened.
    """
    splits = ', '.join(builder.info.splits)
    try:
        parts = builder.info.splits[split].file_instructions
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        reason = first_line(error).replace('Error parsing split', 'cannot read split')
        raise UserError(
            f'{builder.name} in {builder.data_dir} has no split {split!r}: {reason} '
            f'(its splits: {splits})'
        ) from error
    if not parts or any(part.take <= 0 for part in parts):
        raise UserError(
            f'the split {split!r} of {builder.name} selects no images: write it as '
            f'train[:90%] or train[1000:] (its splits: {splits})'
        )
    try:
        for part in parts:
            Path(part.filename).stat()
        records = Records(builder, split)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise UserError(
            f'the split {split!r} in {builder.data_dir} cannot be opened: {first_line(error)}; if '
            f'it is damaged, {remedy(Path(builder.data_dir))}'
        ) from error
    records.remedy = remedy(Path(builder.data_dir))
    return records


def _synthetic(dataset: schema.Dataset) -> Splits:
    train, evaluation = (Synthetic(n, dataset.image_size, dataset.classes) for n in Synthetic.SIZES)
    first, second = (
        _hash(['synthetic', n, dataset.image_size, dataset.classes]) for n in Synthetic.SIZES
    )
    return Splits(train, evaluation, folder='', fingerprints=(first, second))


def count_classes(dataset: schema.Dataset) -> int:
    """Returns the number of classes of a data set that is named, without preparing it.

    Raises:
      UserError: the data set is unknown, is not prepared and cannot be, or has no labels.
    """
    if dataset.name == 'synthetic':
        raise UserError(
            "dataset.name='synthetic' has any number of classes: set --config.dataset.classes"
        )
    features = _find_by_name(dataset, create=True).info.features or {}
    number = getattr(features['label'], 'num_classes', 0) if 'label' in features else 0
    if not number:
        raise UserError(
            f'{printable(dataset.name)} does not say how many classes it has: set '
            '--config.dataset.classes'
        )
    return int(number)


def _find_by_name(
    dataset: schema.Dataset, create: bool, splits: Iterable[str] = ()
) -> tfds.core.DatasetBuilder:
    """Returns the builder of a data set that is prepared, or that TFDS can prepare.

    Of a data set in a bucket, what is missing of these splits is copied to this machine.
    """
    if BUCKET.match(dataset.data_dir):
        from alexnet_jax.data.buckets import copies  # with TensorStore, which few runs need here

        return copies.fetch(dataset.data_dir, dataset.name, splits)
    if not create and dataset.data_dir and not data_dir(dataset.data_dir).is_dir():
        raise UserError(
            f'dataset.data_dir={data_dir(dataset.data_dir)} is not a folder: choose the one that '
            'has the data set, with --data_dir=DIR'
        )
    flag = '--config.dataset.data_dir' if create else '--data_dir'
    hint = f' (or set {flag} to the folder that has it)'
    try:
        builder = find_builder(dataset.name, dataset.data_dir)
    except UnknownDataSet as error:
        if dataset.name in INSTRUCTIONS:
            raise UserError(_missing(dataset) + hint) from error
        raise
    if not builder.is_prepared():
        if dataset.name in INSTRUCTIONS:
            raise UserError(_missing(dataset) + hint)
        if dataset.data_dir and not create:
            raise UserError(
                f'the data set {dataset.name} is not in {data_dir(dataset.data_dir)}: choose the '
                'folder that has it, with --data_dir=DIR'
            )
    return builder


def _by_name(
    dataset: schema.Dataset, create: bool, splits: Iterable[str]
) -> tfds.core.DatasetBuilder:
    builder = _find_by_name(dataset, create, splits)
    if not builder.is_prepared():
        tfds.disable_progress_bar()
        builder = prepare(builder)
    return builder


def _missing(dataset: schema.Dataset) -> str:
    folder = data_dir(dataset.data_dir)
    return f'the data set {dataset.name} is not in {folder}: {INSTRUCTIONS[dataset.name]}'


def _from_folder(
    dataset: schema.Dataset,
    names: dict[str, str],
    skip_bad: int,
    create: bool,
    listed: Catalogue | None,
) -> tuple[tfds.core.DatasetBuilder, dict[str, str], tuple[str, ...]]:
    """Opens a user's own images, prepared on first use at the size used for training.

    Returns:
      The data set, its splits for the settings in `names`, and the images that were left out.
    """
    folder = check_path(dataset.folder, '--config.dataset.folder')
    catalogue = listed or class_folders.list_images(folder)
    _check_classes(dataset.folder, len(catalogue.classes), dataset, create)
    names = {
        setting: _split_of_folder(catalogue, dataset.folder, setting, split, create)
        for setting, split in names.items()
    }
    root = data_dir(dataset.data_dir)
    storage = Storage(size=dataset.image_size, filter=dataset.resize, background=dataset.background)
    with ProgressBars() as bars:
        if listed is None:
            bars.print_line(description.describe(catalogue, dataset.folder, brief=not create))
            if create:
                bars.print_line(description.describe_use(dataset))
        catalogue, note = earlier_split.prefer_prepared(catalogue, storage, root)
        if note:
            bars.print_line(note)
        result = writing.write(
            catalogue,
            storage,
            root,
            0,
            skip_bad,
            bars.print_line,
            bars.show_preparing,
        )
        if note := description.describe_edits(catalogue, result.folder):
            bars.print_line(note)
        if result.skipped:
            bars.print_line(
                f'left out when prepared: {len(result.skipped)} images that cannot be decoded: '
                f'{list_names(result.skipped)}'
            )
    try:
        builder = tfds.builder_from_directory(str(result.folder))
    except Exception as error:  # of many kinds, for damaged files
        raise UserError(
            f'{result.folder} cannot be opened ({first_line(error)}): {remedy(result.folder)}'
        ) from error
    return builder, names, tuple(result.skipped)


def _split_of_folder(
    catalogue: Catalogue, folder: str, setting: str, split: str, create: bool
) -> str:
    """Returns a split as the prepared data set names it, for what the settings call it."""
    parts = []
    for part in split.split('+'):
        name, bracket, rest = part.strip().partition('[')
        own = name if name in catalogue.splits else catalogue.other_names.get(name.lower(), '')
        if not own:
            splits = list(catalogue.splits)
            other = splits[0 if setting == 'train_split' else 1]
            advice = f'set --config.dataset.{setting}={other}'
            if not create:  # by a program that has no settings
                advice = 'choose one of these with --split'
            raise UserError(
                f'{printable(folder)} is split into {" and ".join(splits)}, not '
                f'{printable(name)}: {advice}'
            )
        parts.append(f'{own}{bracket}{rest}')
    return '+'.join(parts)


def _fingerprint(builder: tfds.core.DatasetBuilder, split: str) -> str:
    """Returns a hash of what is known of a split without reading its images.

    It covers the length and the size in bytes of each shard, the part of it that is used, and what
    the data set was prepared from, but neither paths nor names of files.
    """
    shards = [
        (part.skip, part.take, part.examples_in_shard, Path(part.filename).stat().st_size)
        for part in builder.info.splits[split].file_instructions
    ]
    source = read_source(Path(builder.data_dir))
    return _hash([shards, source.get('fingerprint', ''), source.get('content', '')])


def _list(builder: tfds.core.DatasetBuilder, split: str) -> str:
    """Returns a hash of the names, labels and sizes of a split; '' if they were not recorded."""
    recorded = read_source(Path(builder.data_dir)).get('splits', {})
    return recorded.get(split, '') if isinstance(recorded, dict) else ''


def _hash(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def _check_classes(name: str, classes: int, dataset: schema.Dataset, create: bool) -> None:
    if dataset.classes not in (0, classes):
        advice = (
            f'set --config.dataset.classes={classes}, or choose the images that a run which has '
            'begun was trained on'
        )
        if not create:  # the net has as many outputs as it has
            advice = 'choose the images that the run was trained on'
        raise UserError(f'{printable(name)} has {classes} classes, not {dataset.classes}: {advice}')
