"""Where images come from (§2): TFDS data sets, read without TensorFlow.

A source is a sequence of `{'image': ..., 'label': int}`, the image as bytes of a JPEG or PNG or as
a uint8 array of (rows, columns, 1 or 3). The builders of this package are prepared on first use;
any other TFDS data set of images and labels is read by its name once it is prepared in a format
with random access (ArrayRecord).
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import tensorflow_datasets as tfds

from alexnet_jax import config as settings
from alexnet_jax.datasets import digits as digits  # registers its builder with TFDS
from alexnet_jax.datasets.synthetic import Synthetic
from alexnet_jax.errors import UserError, first_line


class Source(Protocol):
    """A sequence of examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


EMBEDDED = ('digits',)

# What to download, and what to run, for data sets that no program may fetch by itself.
BY_HAND = {
    'imagenet2012': (
        'download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org '
        'into DIR, then run: pip install tensorflow && '
        'python -m alexnet_jax.prepare --name=imagenet2012 --tars=DIR'
    ),
}


class Splits(NamedTuple):
    """The two parts of a data set that a run reads."""

    train: Source
    eval: Source
    folder: str  # where what was computed from the data may be kept; '' for none


def open_splits(dataset: settings.Dataset) -> Splits:
    """The training and the evaluation split, prepared if they can be.

    Raises:
      UserError: the data set is unknown or not prepared, a split does not exist, or it is not of
        images and labels with the stated number of classes.
    """
    if dataset.name == 'synthetic':
        train, evaluation = (
            Synthetic(n, dataset.image_size, dataset.classes) for n in Synthetic.SIZES
        )
        return Splits(train, evaluation, folder='')
    builder = _builder(dataset)
    _check_features(builder, dataset)
    encoded = {'image': tfds.decode.SkipDecoding()}  # the loader decodes, in its threads
    try:
        train, evaluation = (
            builder.as_data_source(split=split, decoders=encoded)
            for split in (dataset.train_split, dataset.eval_split)
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UserError(
            f'{dataset.name} in {builder.data_dir} cannot be read: {first_line(error)} '
            f'(its splits: {", ".join(builder.info.splits)}; its format must be array_record)'
        ) from error
    return Splits(train, evaluation, str(builder.data_dir))


def _builder(dataset: settings.Dataset) -> tfds.core.DatasetBuilder:
    builder = find_builder(dataset.name, dataset.data_dir)
    if builder.is_prepared():
        return builder
    if dataset.name not in EMBEDDED:
        how = BY_HAND.get(dataset.name, f'run: python -m alexnet_jax.prepare --name={dataset.name}')
        raise UserError(
            f'the data set {dataset.name} is not in {builder.data_dir}: {how} '
            '(or point --config.dataset.data_dir to where it is)'
        )
    tfds.disable_progress_bar()
    prepare(builder)
    return builder


def find_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The TFDS builder of this name, for ArrayRecord.

    Args:
      data_dir: where TFDS keeps data sets; '' is its default.

    Raises:
      UserError: there is none.
    """
    where = os.path.expanduser(data_dir) or None
    try:
        return tfds.builder(name, data_dir=where, file_format='array_record')
    except (tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise UserError(f'{name!r} is no TFDS data set here: {first_line(error)}') from error


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str = '') -> None:
    """Writes the data set, as TFDS does: nothing half-written is ever taken for whole.

    Args:
      manual_dir: of files that had to be downloaded by hand.

    Raises:
      UserError: something it needs is missing, or the disk does not take it.
    """
    downloads = tfds.download.DownloadConfig(manual_dir=os.path.expanduser(manual_dir) or None)
    try:
        builder.download_and_prepare(download_config=downloads, file_format='array_record')
    except ModuleNotFoundError as error:
        raise UserError(
            f'TFDS needs {error.name} to prepare {builder.name}: pip install {error.name}'
        ) from error
    except AssertionError as error:  # how TFDS says that files are not in manual_dir
        raise UserError(f'{builder.name} cannot be prepared: {first_line(error)}') from error
    except OSError as error:
        raise UserError(
            f'cannot write the data set to {builder.data_dir}: {error}; choose another place '
            '(--config.dataset.data_dir=DIR, or --data_dir=DIR of alexnet_jax.prepare)'
        ) from error


def _check_features(builder: tfds.core.DatasetBuilder, dataset: settings.Dataset) -> None:
    features = builder.info.features or {}
    if 'image' not in features or 'label' not in features:
        raise UserError(
            f'{dataset.name} has no images with a label (features: {", ".join(features)})'
        )
    classes = features['label'].num_classes
    if classes != dataset.classes:
        raise UserError(
            f'{dataset.name} has {classes} classes, not {dataset.classes}: '
            f'set --config.dataset.classes={classes}'
        )
