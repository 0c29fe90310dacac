"""Opens data sets (§2): TFDS data sets in ArrayRecord, read without TensorFlow.

A source is a sequence of `{'image': ..., 'label': int}`; the image is the bytes of a file or a
uint8 array of shape (rows, columns, 1 or 3). ImageNet is prepared by `alexnet_jax.prepare`. A
folder of the user's own images, and any other TFDS data set of images and labels, is prepared when
it is first used.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from alexnet_jax.config import schema
from alexnet_jax.data import digits as digits  # registers its builder with TFDS
from alexnet_jax.data.preparation import class_folders, writing
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.data.records import Records
from alexnet_jax.data.synthetic import Synthetic
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


# What to download and what to run, for data sets that no program may download by itself.
_TARS = (
    'download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org into '
    'DIR, then run: python -m alexnet_jax.prepare --tars=DIR'
)
INSTRUCTIONS = {
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
    """The two splits of a data set that a run uses.

    Attributes:
      train: the training images.
      eval: the images of the evaluation.
      folder: the folder of the data set, where its pixel statistics are saved; '' if none.
    """

    train: Source
    eval: Source
    folder: str


def data_dir(path: str) -> Path:
    """Returns where TFDS keeps data sets: `path`, or $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(path or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()


def open_splits(dataset: schema.Dataset, skip_bad: int = 0) -> Splits:
    """Opens the training and the evaluation split; prepares the data set if that is possible.

    Args:
      dataset: the section of the config.
      skip_bad: number of training images that may be left out when a folder of images is prepared.

    Raises:
      UserError: the data set is unknown or not prepared, it has no such split, or it does not
        consist of images and labels with the configured number of classes.
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
    """Opens a split of a prepared data set.

    Args:
      builder: the data set.
      split: in TFDS's notation: 'train', 'train[:10%]'.

    Raises:
      UserError: the data set has no such split.
    """
    try:
        return Records(builder, split)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f'{builder.name} in {builder.data_dir} has no split {split!r}: {first_line(error)} '
            f'(its splits: {", ".join(builder.info.splits)})'
        ) from error


def _by_name(dataset: schema.Dataset) -> tfds.core.DatasetBuilder:
    hint = ' (or set --config.dataset.data_dir to the folder that has it)'
    try:
        builder = find_builder(dataset.name, dataset.data_dir)
    except UserError as error:
        if dataset.name in INSTRUCTIONS:
            raise UserError(_missing(dataset) + hint) from error
        raise
    if not builder.is_prepared():
        if dataset.name in INSTRUCTIONS:
            raise UserError(_missing(dataset) + hint)
        print(f'preparing {dataset.name} in {builder.data_dir}', flush=True)
        tfds.disable_progress_bar()
        prepare(builder)
    return builder


def _missing(dataset: schema.Dataset) -> str:
    folder = data_dir(dataset.data_dir)
    return f'the data set {dataset.name} is not in {folder}: {INSTRUCTIONS[dataset.name]}'


def _from_folder(dataset: schema.Dataset, skip_bad: int) -> tfds.core.DatasetBuilder:
    """Opens a user's own images, prepared on first use at the size used for training."""
    catalogue = class_folders.list_images(Path(dataset.folder).expanduser())
    _check_classes(dataset.folder, len(catalogue.classes), dataset)
    for split in (dataset.train_split, dataset.eval_split):
        if split.partition('[')[0] not in catalogue.splits:
            raise UserError(f'{dataset.folder} is split into train and validation, not {split}')
    storage = Storage(size=dataset.image_size, filter=dataset.resize)
    counts = ', '.join(f'{len(entries):,} {split}' for split, entries in catalogue.splits.items())
    with ProgressBars() as bars:
        bars.print_line(f'{dataset.folder}: {counts}, {len(catalogue.classes)} classes')
        result = writing.write(
            catalogue,
            storage,
            data_dir(dataset.data_dir),
            0,
            skip_bad,
            bars.print_line,
            bars.show_preparing,
        )
    return tfds.builder_from_directory(str(result.folder))


def find_builder(name: str, folder: str) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of this name, for ArrayRecord.

    Args:
      name: name of the data set.
      folder: where TFDS keeps data sets; '' for its default.

    Raises:
      UserError: TFDS knows no such data set.
    """
    try:
        return tfds.builder(name, data_dir=str(data_dir(folder)), file_format='array_record')
    except (tfds.core.DatasetNotFoundError, ValueError, OSError, ParseError) as error:
        raise UserError(
            f'{name!r} is not a TFDS data set, and none in {data_dir(folder)}: {first_line(error)}'
        ) from error


def prepare(builder: tfds.core.DatasetBuilder) -> None:
    """Prepares a data set with TFDS, which gives the folder its name when it is complete.

    Raises:
      UserError: a package or a download is missing, or the data set cannot be written.
    """
    try:
        builder.download_and_prepare(file_format='array_record')
    except ModuleNotFoundError as error:
        raise UserError(
            f'TFDS needs {error.name} to prepare {builder.name}: pip install {error.name}'
        ) from error
    except AssertionError as error:  # how TFDS asks for files to be downloaded manually
        raise UserError(f'{builder.name} cannot be prepared: {first_line(error)}') from error
    except OSError as error:
        raise UserError(
            f'cannot prepare {builder.name} in {builder.data_dir}: {first_line(error)}; if that '
            'is a problem of the disk, choose another folder (--config.dataset.data_dir=DIR, or '
            '--data_dir=DIR of alexnet_jax.prepare)'
        ) from error


def check_features(builder: tfds.core.DatasetBuilder) -> None:
    """Checks that a prepared data set has images and labels, and allows random access.

    Raises:
      UserError: it does not.
    """
    features = builder.info.features or {}
    complete = 'image' in features and 'label' in features
    if not complete or not hasattr(features['label'], 'num_classes'):
        raise UserError(
            f'{builder.name} is not a data set of images with a label (its features: '
            f'{", ".join(features)}): choose another one'
        )
    image = features['image']
    raw = getattr(image, 'np_dtype', None) == np.uint8 and len(image.shape or ()) == 3
    if not isinstance(image, tfds.features.Image) and not raw:
        raise UserError(
            f'the images of {builder.name} are stored as {image}, which is not supported: choose '
            'another data set'
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f'{builder.data_dir} is in the format {builder.info.file_format.value}; only '
            'array_record allows random access: prepare the data set again in another data_dir'
        )


def _check_classes(name: str, classes: int, dataset: schema.Dataset) -> None:
    if classes != dataset.classes:
        raise UserError(
            f'{name} has {classes} classes, not {dataset.classes}: '
            f'set --config.dataset.classes={classes}'
        )
