"""Where images come from (§2): TFDS data sets in ArrayRecord, read without TensorFlow.

A source is a sequence of `{'image': ..., 'label': int}`, the image as the bytes of a file or as a
uint8 array of (rows, columns, 1 or 3). ImageNet is prepared by `alexnet_jax.prepare`, a folder of
one's own images when it is first used, and any other TFDS data set of images and labels too.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from alexnet_jax.config import schema
from alexnet_jax.data import catalogue, writing
from alexnet_jax.data import digits as digits  # registers its builder with TFDS
from alexnet_jax.data.records import Records
from alexnet_jax.data.synthetic import Synthetic
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError, first_line


class Source(Protocol):
    """A sequence of examples; asking for one that cannot be read raises BadImage.

    Attributes:
      size: pixels across, if all images are squares of one size; else 0.
      classes: names of the labels.
    """

    size: int
    classes: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def where(self, index: int) -> str:
        """Names an example, for a message about it."""
        ...


# What to download, and what to run, for data sets that no program may fetch by itself.
_TARS = (
    'download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org into '
    'DIR, then run: python -m alexnet_jax.prepare --tars=DIR'
)
BY_HAND = {
    'imagenet2012_256': _TARS,
    'imagenet2012_256_raw': f'{_TARS} --storage=raw',
    'imagenet2012': f'{_TARS} --size=original',
    'imagenet2012_256_lanczos': f'{_TARS} --filter=lanczos',
    'imagenet2010_256': (
        'put ILSVRC2010_images_train.tar, _val.tar and _test.tar and the unpacked devkit into DIR, '
        'then run: python -m alexnet_jax.prepare --tars=DIR'
    ),
    'synsets_fall2011_256': (
        'put the tars of the synsets (n00004475.tar ...) into a folder named fall2011, then run: '
        'python -m alexnet_jax.prepare --tars=fall2011'
    ),
}


class Splits(NamedTuple):
    """The two parts of a data set that a run reads."""

    train: Source
    eval: Source
    folder: str  # where what was computed from the data may be kept; '' for none


def data_dir(given: str) -> Path:
    """Where TFDS keeps data sets: as given, or $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(given or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()


def open_splits(dataset: schema.Dataset, skip_bad: int = 0) -> Splits:
    """The training and the evaluation split, prepared if they can be.

    Args:
      skip_bad: training images that may be left out where a folder of images is prepared.

    Raises:
      UserError: the data set is unknown or not prepared, a split does not exist, or it is not of
        images and labels with the stated number of classes.
    """
    if dataset.name == 'synthetic':
        train, evaluation = (
            Synthetic(n, dataset.image_size, dataset.classes) for n in Synthetic.SIZES
        )
        return Splits(train, evaluation, folder='')
    builder = _from_folder(dataset, skip_bad) if dataset.folder else _by_name(dataset)
    check_features(builder)
    _check_classes(builder.name, builder.info.features['label'].num_classes, dataset)
    train, evaluation = (
        open_split(builder, split) for split in (dataset.train_split, dataset.eval_split)
    )
    return Splits(train, evaluation, str(builder.data_dir))


def open_split(builder: tfds.core.DatasetBuilder, split: str) -> Records:
    """A split of a prepared data set, in TFDS's words: 'train', 'train[:10%]'.

    Raises:
      UserError: it has no such split.
    """
    try:
        return Records(builder, split)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f'{builder.name} in {builder.data_dir} has no split {split!r}: {first_line(error)} '
            f'(its splits: {", ".join(builder.info.splits)})'
        ) from error


def _by_name(dataset: schema.Dataset) -> tfds.core.DatasetBuilder:
    hint = ' (or point --config.dataset.data_dir to where it is)'
    try:
        builder = find_builder(dataset.name, dataset.data_dir)
    except UserError as error:
        if dataset.name in BY_HAND:
            raise UserError(_not_there(dataset) + hint) from error
        raise
    if not builder.is_prepared():
        if dataset.name in BY_HAND:
            raise UserError(_not_there(dataset) + hint)
        print(f'preparing {dataset.name} in {builder.data_dir}', flush=True)
        tfds.disable_progress_bar()
        prepare(builder)
    return builder


def _not_there(dataset: schema.Dataset) -> str:
    where = data_dir(dataset.data_dir)
    return f'the data set {dataset.name} is not in {where}: {BY_HAND[dataset.name]}'


def _from_folder(dataset: schema.Dataset, skip_bad: int) -> tfds.core.DatasetBuilder:
    """One's own images, prepared on first use at the size that is trained on."""
    found = catalogue.class_folders(Path(dataset.folder).expanduser())
    _check_classes(dataset.folder, len(found.classes), dataset)
    for split in (dataset.train_split, dataset.eval_split):
        if split.partition('[')[0] not in found.splits:
            raise UserError(f'{dataset.folder} is split into train and validation, not {split}')
    storage = writing.Storage(size=dataset.image_size, filter=dataset.resize)
    counts = ', '.join(f'{len(entries):,} {split}' for split, entries in found.splits.items())
    with ProgressBars() as bars:
        bars.print_line(f'{dataset.folder}: {counts}, {len(found.classes)} classes')
        result = writing.write(
            found,
            storage,
            data_dir(dataset.data_dir),
            0,
            skip_bad,
            bars.print_line,
            bars.show_preparing,
        )
    return tfds.builder_from_directory(str(result.folder))


def find_builder(name: str, where: str) -> tfds.core.DatasetBuilder:
    """The TFDS builder of this name, for ArrayRecord.

    Args:
      where: the folder TFDS keeps data sets in; '' is its default.

    Raises:
      UserError: there is none.
    """
    try:
        return tfds.builder(name, data_dir=str(data_dir(where)), file_format='array_record')
    except (tfds.core.DatasetNotFoundError, ValueError, OSError, ParseError) as error:
        raise UserError(f'{name!r} is no TFDS data set here: {first_line(error)}') from error


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Writes the data set, as TFDS does: nothing half-written is ever taken for whole.

    Raises:
      UserError: something it needs is missing, or the disk does not take it.
    """
    try:
        builder.download_and_prepare(file_format='array_record')
    except ModuleNotFoundError as error:
        raise UserError(
            f'TFDS needs {error.name} to prepare {builder.name}: pip install {error.name}'
        ) from error
    except AssertionError as error:  # how TFDS says that files are to be downloaded by hand
        raise UserError(f'{builder.name} cannot be prepared: {first_line(error)}') from error
    except OSError as error:
        raise UserError(
            f'cannot prepare {builder.name} in {builder.data_dir}: {first_line(error)}; if the '
            'disk is to blame choose another place (--config.dataset.data_dir=DIR, or '
            '--data_dir=DIR of alexnet_jax.prepare)'
        ) from error


def check_features(builder: tfds.core.DatasetBuilder) -> None:
    """Looks whether a prepared data set is one of images and labels, and can be read at random.

    Raises:
      UserError: it is not.
    """
    features = builder.info.features or {}
    there = 'image' in features and 'label' in features
    if not there or not hasattr(features['label'], 'num_classes'):
        raise UserError(
            f'{builder.name} has no images with a label (features: {", ".join(features)})'
        )
    image = features['image']
    raw = getattr(image, 'np_dtype', None) == np.uint8 and len(image.shape or ()) == 3
    if not isinstance(image, tfds.features.Image) and not raw:
        raise UserError(f'the images of {builder.name} are stored in an unknown way: {image}')
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f'{builder.data_dir} is in the format {builder.info.file_format.value}; only '
            'array_record can be read at random: prepare it again in another --data_dir'
        )


def _check_classes(name: str, classes: int, dataset: schema.Dataset) -> None:
    if classes != dataset.classes:
        raise UserError(
            f'{name} has {classes} classes, not {dataset.classes}: '
            f'set --config.dataset.classes={classes}'
        )
