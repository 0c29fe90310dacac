"""Shards: the files of a prepared data set, each written by one process (§2).

A shard gets its final name once it is complete, and its summary (what was counted, which images
were skipped) is written only after that. So a shard that has a summary is complete, and a restart
keeps it.

Images are stored in the order of a hash of their names. Which image is in which record is thus a
function of the catalogue alone, however many processes write and however often they are stopped.
"""

import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import image_index, pixel_statistics
from alexnet_jax.data.images import BadImage
from alexnet_jax.data.preparation.catalogue import (
    Catalogue,
    Entries,
    encode_name,
    fingerprint,
    may_differ_since,
)
from alexnet_jax.data.preparation.file_readers import FileReader
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.data.records import locate_features
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

MAX_SHARDS = 256  # per split: where the limit allows, a reader keeps all of them open
MIN_IMAGES = 500  # per shard
MAX_BAD_SHOWN = 10  # bad images that one message names
SUMMARIES = '.records'  # folder of the summaries, while the data set is being written


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard to write, with all that a worker process needs to know.

    Attributes:
      split: name of the split.
      path: the ArrayRecord file, once it is complete.
      names: names of the images.
      labels: (n,) int32.
      files: paths of the files that contain these images.
      locations: (n, 3) int64: index into `files`, first byte, length in bytes.
      reader: reads the images at these locations.
      storage: how the images are stored.
      upright: whether images are rotated as their EXIF orientation says.
      count_pixels: whether pixels are counted for the statistics.
      skip_bad: whether images that cannot be decoded are left out.
    """

    split: str
    path: Path
    names: list[str]
    labels: np.ndarray
    files: list[str]
    locations: np.ndarray
    reader: type[FileReader]
    storage: Storage
    upright: bool
    count_pixels: bool
    skip_bad: bool

    @property
    def summary_file(self) -> Path:
        """Returns the file whose presence means that the shard is complete."""
        return self.path.parent / SUMMARIES / f'{self.path.name}.npz'

    def fingerprint(self) -> str:
        """Returns a text that changes with the images and with how they are stored."""
        images = fingerprint(self.names, self.labels, self.locations[:, 2])
        return f'{images} {self.storage} {self.upright}'


def divide(catalogue: Catalogue, storage: Storage, folder: Path, skip_bad: bool) -> list[Shard]:
    """Divides the images of a catalogue into shards.

    Args:
      catalogue: the images.
      storage: how they are stored.
      folder: is to hold the shards.
      skip_bad: whether training images that cannot be decoded are left out.
    """
    name = storage.name(catalogue.name)
    shards = []
    for split, entries in catalogue.splits.items():
        order, labels, locations = entries.storage_order(), entries.labels, entries.locations
        number_of_shards = max(1, min(MAX_SHARDS, len(order) // MIN_IMAGES))
        for number, part in enumerate(np.array_split(order, number_of_shards)):
            files, part_locations = _own_files(entries, locations[part])
            file = f'{name}-{split}.array_record-{number:05d}-of-{number_of_shards:05d}'
            shards.append(
                Shard(
                    split=split,
                    path=folder / file,
                    names=[entries.names[i] for i in part],
                    labels=labels[part],
                    files=files,
                    locations=part_locations,
                    reader=entries.reader,
                    storage=storage,
                    upright=catalogue.upright,
                    count_pixels=split == 'train',
                    skip_bad=skip_bad and split == 'train',
                )
            )
    return shards


def _own_files(entries: Entries, locations: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Returns the files at these locations, and the locations as indices into them.

    A worker process is sent these files alone: a folder of images has one file for each.
    """
    used, indices = np.unique(locations[:, 0], return_inverse=True)
    return [entries.files[i] for i in used], np.column_stack([indices, locations[:, 1:]])


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts from writing a shard.

    Attributes:
      images: number of images in the shard.
      skipped: names of the images that were left out because they cannot be decoded.
      sums: pixel statistics; None where they are not counted.
      index: the index of the images, (images,) image_index.ENTRY; without entries if there is none.
    """

    images: int
    skipped: list[str]
    sums: pixel_statistics.Sums | None
    index: np.ndarray

    def save(self, shard: Shard) -> None:
        """Writes the summary of a complete shard.

        Raises:
          UserError: the file cannot be written.
        """
        values: dict[str, Any] = {'images': self.images, 'skipped': np.array(self.skipped, 'U')}
        values['index'] = self.index
        if self.sums:
            values |= {'pixels_HWC': self.sums.pixels_HWC, 'products': self.sums.products}
        with (
            explain_os_errors(f'write {shard.summary_file}'),
            atomic_files.replace(shard.summary_file) as partial,
            partial.open('wb') as file,
        ):
            np.savez(file, fingerprint=shard.fingerprint(), **values)

    @classmethod
    def load(cls, shard: Shard) -> 'Summary | None':
        """Reads the summary of a shard; None unless it was completed from the same images."""
        try:
            with (
                shard.summary_file.open('rb') as opened,
                np.load(opened, allow_pickle=False) as file,
            ):
                complete = os.fstat(opened.fileno()).st_mtime
                if file['fingerprint'] != shard.fingerprint():
                    return None
                if may_differ_since(shard.files, complete):
                    return None
                images, skipped = int(file['images']), [str(name) for name in file['skipped']]
                index = file['index'] if 'index' in file else np.zeros(0, image_index.ENTRY)
                counted = (file['pixels_HWC'], file['products']) if 'products' in file else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        sums = pixel_statistics.Sums(images, *counted) if counted else None
        return cls(images, skipped, sums, index)


def write_shard(shard: Shard, count_image: Callable[[], None]) -> None:
    """Writes a shard and then its summary, each under its final name once it is complete.

    Args:
      shard: the shard to write.
      count_image: is called after each image.

    Raises:
      UserError: an image cannot be read or decoded, or a file cannot be written.
    """
    sums = None
    if shard.count_pixels:
        sums = pixel_statistics.Sums.zeros(shard.storage.statistics_size)
    skipped = []
    bad: list[str] = []
    with atomic_files.replace(shard.path) as partial:
        writer = RecordWriter(partial)
        with shard.reader(shard.files) as reader:
            for name, label, location in zip(
                shard.names, shard.labels, shard.locations, strict=True
            ):
                try:
                    stored, pixels_HWC = shard.storage.convert(
                        reader.read(*location), shard.upright
                    )
                except BadImage as error:
                    skipped.append(name)
                    if not shard.skip_bad:
                        bad.append(_describe_bad_image(shard.files[location[0]], name, error))
                    if len(bad) == MAX_BAD_SHOWN:
                        break
                    continue
                if not bad:  # after a bad one, the others are decoded only to name all bad ones
                    writer.write(stored, int(label), name)
                    if sums is not None:
                        sums.add(pixels_HWC)
                count_image()
        writer.close()
        if bad:
            raise _bad_images_error(shard, bad)
        index = writer.index()
    Summary(len(shard.names) - len(skipped), skipped, sums, index).save(shard)


def _describe_bad_image(file: str, name: str, reason: BadImage) -> str:
    location = file if file.endswith(name) else f'{name} in {file}'
    return f'{printable(location)}: {reason}'


def _bad_images_error(shard: Shard, bad: list[str]) -> UserError:
    advice = 'repair or replace the image' if len(bad) == 1 else 'repair or replace the images'
    if shard.split == 'train':
        advice += ', or allow N bad training images with --skip_bad=N'
    number = f'{len(bad)} images cannot be decoded: ' if len(bad) > 1 else ''
    more = 'there may be more; ' if len(bad) == MAX_BAD_SHOWN else ''
    return UserError(f'{number}{"; ".join(bad)}; {more}{advice}')


class RecordWriter:
    """Writes an ArrayRecord file; errors name the file."""

    def __init__(self, path: Path) -> None:
        self._path, self._index = path, image_index.ShardIndex()
        with self._naming_errors():
            # Not compressed: JPEGs do not shrink, and raw pixels are stored to be read fast.
            self._file = array_record_module.ArrayRecordWriter(
                str(path), 'group_size:1,uncompressed'
            )

    def write(self, image: bytes, label: int, name: str) -> None:
        """Adds a record, serialized as TFDS does it."""
        example = tf_example_pb2.Example()  # pyrefly: ignore[missing-attribute]
        feature = example.features.feature
        feature['image'].bytes_list.value.append(image)
        feature['label'].int64_list.value.append(label)
        feature['file_name'].bytes_list.value.append(encode_name(name))
        record = example.SerializeToString(deterministic=True)
        place = locate_features(record, (b'image',))[b'image']
        self._index.add(len(record), place, label, image)
        with self._naming_errors():
            self._file.write(record)

    def close(self) -> None:
        """Writes what is still buffered."""
        with self._naming_errors():
            self._file.close()

    def index(self) -> np.ndarray:
        """Returns the index of the images, (n,) image_index.ENTRY, once the file is closed."""
        with explain_os_errors(f'read {self._path}'):
            return self._index.finish(self._path)

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f'cannot write {self._path}: {first_line(error)}') from error
