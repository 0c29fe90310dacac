"""Catalogues of ImageNet in parquet files, as the Hub's ILSVRC/imagenet-1k has it (§2).

The files are called data/train-00000-of-00294.parquet, or train/0000.parquet. A row has an image
(its bytes, and its path n01440764_10026_n01440764.JPEG) and a label. Blocks of some hundred rows
are compressed together, so that the files are read from the beginning to the end: once to list the
images with their lengths, and once to copy them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from alexnet_jax.data.preparation.catalogue import Report
from alexnet_jax.data.preparation.layouts.collection import Collector
from alexnet_jax.data.preparation.layouts.image_names import split_of_shard
from alexnet_jax.data.preparation.layouts.numbered_files import missing_files
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

IMAGE, LABEL = ('image', 'jpg', 'img'), ('label', 'cls', 'labels', 'fine_label')  # columns
BATCH = 128  # rows


def find_files(folder: Path) -> list[Path]:
    """Returns the parquet files in a folder, in data/, or in the folders of the splits."""
    places = ('*.parquet', 'data/*.parquet', '*/*.parquet', 'default/*/*.parquet')
    for pattern in places:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def collect(folder: Path, files: list[Path], report: Report) -> Collector:
    """Collects the images of parquet files.

    Args:
      folder: has the files, for messages.
      files: the files, whose names or folders tell the split.
      report: receives progress.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: a file is damaged or has other columns, or the labels contradict the names.
    """
    collector = Collector(str(folder))
    collector.missing = missing_files(file.relative_to(folder).as_posix() for file in files)
    for done, file in enumerate(files, 1):
        split = split_of_shard(file)
        if not split:
            raise UserError(f'the name of {file} does not tell the split: call it train-...parquet')
        row = 0
        for images, paths, labels in _batches(file, need_label=split != 'test'):
            lengths = pyarrow.compute.call_function('binary_length', [images]).to_pylist()
            for length, path, label in zip(lengths, paths, labels, strict=True):
                if length is None:
                    raise UserError(
                        f'{file} has no bytes of the image in row {row:,}, only its path: download '
                        'the files with the images'
                    )
                name = path or f'{file.stem}/{row:07d}.JPEG'
                collector.add(split, name, str(file), row, length, label=label)
                row += 1
        report(file.name, done, len(files))
    return collector


def read_images(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields the images of a file: number of the row, and contents.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: the file is damaged.
    """
    row = 0
    for images, _, _ in _batches(Path(path), need_label=False):
        for image in images:
            yield row, image.as_py() or b''
            row += 1


def _batches(file: Path, need_label: bool) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """Yields images, paths and labels of the rows of a file, some at a time."""
    try:
        with explain_os_errors(f'read {file}'), pyarrow.parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            image = next((name for name in IMAGE if name in names), '')
            label = next((name for name in LABEL if name in names), '')
            if not image or (need_label and not label):
                raise UserError(
                    f'{file} has no columns image and label, but {", ".join(names)}: choose the '
                    'files of ILSVRC/imagenet-1k'
                )
            columns = [image, label] if label else [image]
            for batch in table.iter_batches(BATCH, columns=columns):
                raise_if_stopped()
                images, paths = batch[image], [None] * len(batch)
                if pyarrow.types.is_struct(images.type):
                    fields = [field.name for field in images.type]
                    paths = images.field('path').to_pylist() if 'path' in fields else paths
                    images = images.field('bytes')
                yield images, paths, batch[label].to_pylist() if label else [None] * len(batch)
    except (pyarrow.ArrowException, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f'{file} is truncated or damaged ({first_line(error)}): download it again'
        ) from error
