"""A catalogue of images to prepare (§2): each image's name, its label, and where its bytes lie.

Archives are read in place and not unpacked: a catalogue records at which byte of a tar an image
begins. layouts/ makes catalogues of ImageNet, own_images/ of the images of a user.
"""

import array
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.preparation.file_readers import FileReader
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

FORMATS_OF_EQUAL_SIZES = ('.bmp', '.tif', '.tiff')  # the size says nothing about the picture

NO_LABEL = -1  # label of the ILSVRC-2012 test images: their labels are not published

Report = Callable[[str, int, int], None]  # receives what is being read, items done, items in total

# Yields position and contents of all images of a file that can only be read from its beginning to
# its end; the positions increase.
Stream = Callable[[str], Iterator[tuple[int, bytes]]]


class Entries:
    """The images of a split, stored in columns.

    Attributes:
      names: names of the images, unique within the split.
      labels: (n,) int32.
      files: paths of the files that contain the images.
      locations: (n, 3) int64: index into `files`, first byte, length in bytes.
      reader: reads the images at these locations.
    """

    def __init__(self, reader: type[FileReader] = FileReader) -> None:
        self.names: list[str] = []
        self.files: list[str] = []
        self.reader = reader
        # Label, file, first byte and length of each image; compact, as there may be 15 million.
        self._numbers = array.array('q')

    def add(self, name: str, label: int, offset: int, size: int) -> None:
        """Adds an image that lies in the file started last."""
        self.add_at(name, label, len(self.files) - 1, offset, size)

    def add_at(self, name: str, label: int, file: int, offset: int, size: int) -> None:
        """Adds an image that lies in the file with this index."""
        self.names.append(name)
        self._numbers.extend((label, file, offset, size))

    def start_file(self, file: Path) -> None:
        """Sets the file that contains the images added from now on."""
        self.files.append(str(file))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> np.ndarray:
        """Returns the labels, (n,) int32."""
        return self._columns[:, 0].astype(np.int32)

    @property
    def locations(self) -> np.ndarray:
        """Returns file index, first byte and length of each image, (n, 3) int64."""
        return self._columns[:, 1:]

    @property
    def _columns(self) -> np.ndarray:
        return np.array(self._numbers, np.int64).reshape(-1, 4)

    def replace_labels(self, labels: np.ndarray) -> None:
        """Gives the images these labels, (n,) integers, in their order."""
        self._set_columns(np.column_stack([labels, self.locations]))

    def select(self, indices: np.ndarray) -> None:
        """Keeps the images with these indices, in this order."""
        self.names = [self.names[i] for i in indices]
        self._set_columns(self._columns[indices])

    def _set_columns(self, columns: np.ndarray) -> None:
        self._numbers = array.array('q', columns.astype(np.int64).tobytes())

    def storage_order(self) -> np.ndarray:
        """Returns the order in which the images are stored: sorted by a hash of their names."""
        hashes = b''.join(_hash(name, 8) for name in self.names)
        return np.argsort(np.frombuffer(hashes, '>u8'), kind='stable')


@dataclasses.dataclass
class Catalogue:
    """All images of a data set that is to be prepared.

    Attributes:
      name: name of the data set.
      description: a sentence for the metadata of the data set.
      classes: names of the classes, in the order of their labels.
      splits: the images of each split.
      upright: whether images are rotated as their EXIF orientation says.
      published: number of images of each complete split, where it is published.
      source: the flag of alexnet_jax.prepare that selects these images, and its value; empty where
        there is none.
      movable: whether a data set that was prepared from the same images in another folder is used.
      other_names: other names that a user may give to splits, and the splits.
      notes: lines for the user about what was found where the images are.
      place: the file or folder that has the images, for messages; '' where `files` says it.
      missing: names of files that should be there, because others are numbered like them.
      stream: reads the files of images that can only be read from the beginning to the end; their
        locations have a position in place of a first byte. None: images are read in place.
      earlier_fingerprint: the fingerprint by which an earlier version knew the same images.
      earlier: the same images in the splits that an earlier version of this program made, where
        they differ; a data set that was prepared of them is still used.
      newest: the time, in seconds, at which one of the images was last written, and its name; 0 and
        '' where it is not known.
      empty_classes: names of the classes without a training image.
    """

    name: str
    description: str
    classes: list[str]
    splits: dict[str, Entries]
    upright: bool = False
    published: dict[str, int] = dataclasses.field(default_factory=dict)
    source: dict[str, str] = dataclasses.field(default_factory=dict)
    movable: bool = False
    other_names: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    place: str = ''
    missing: list[str] = dataclasses.field(default_factory=list)
    stream: Stream | None = None
    earlier_fingerprint: str = ''
    earlier: 'Catalogue | None' = None
    newest: tuple[float, str] = (0.0, '')
    empty_classes: list[str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        train = self.splits.get('train')
        labels = set(train.labels.tolist()) if train else range(len(self.classes))
        self.empty_classes = [name for k, name in enumerate(self.classes) if k not in labels]

    def fingerprint(self) -> str:
        """Returns a hash that changes with the name, label or size in bytes of any image."""
        digest = hashlib.blake2b(digest_size=16)
        for split, entries in sorted(self.splits.items()):
            digest.update(f'{split} {len(entries)} {len(self.classes)} '.encode())
            sizes = entries.locations[:, 2]
            digest.update(fingerprint(entries.names, entries.labels, sizes).encode())
        return digest.hexdigest()

    def split_fingerprints(self) -> dict[str, str]:
        """Returns for each split a hash of the names, labels and sizes in bytes of its images."""
        return {
            split: fingerprint(entries.names, entries.labels, entries.locations[:, 2])
            for split, entries in self.splits.items()
        }

    def content_fingerprint(self, most: int = 64) -> str:
        """Returns a hash of the contents of images that are files of their own.

        Names and sizes tell compressed images apart, so that `most` of these are enough. Images in
        FORMATS_OF_EQUAL_SIZES are all read.

        Raises:
          UserError: an image cannot be read.
        """
        digest = hashlib.blake2b(digest_size=16)
        for _, entries in sorted(self.splits.items()):
            remaining = most
            files = entries.locations[:, 0]
            for index in entries.storage_order():
                path = entries.files[files[index]]
                compressed = not path.lower().endswith(FORMATS_OF_EQUAL_SIZES)
                if compressed and not remaining:
                    continue
                remaining -= compressed
                raise_if_stopped()
                with explain_os_errors(f'read {printable(path)}'):
                    digest.update(hashlib.blake2b(Path(path).read_bytes()).digest())
        return digest.hexdigest()

    def may_differ_since(self, time: float) -> bool:
        """Checks whether pictures may have changed since a time without a change of their sizes."""
        return any(may_differ_since(entries.files, time) for entries in self.splits.values())

    def sort(self) -> None:
        """Sorts the images as they are stored: all layouts have the same fingerprint then."""
        self.earlier_fingerprint = self.fingerprint()
        for entries in self.splits.values():
            entries.select(entries.storage_order())

    def check_complete(self) -> None:
        """Compares the number of images with the published number.

        Raises:
          UserError: a split has fewer or more images, a class has no training image, or a file is
            missing.
        """
        advice = 'download it again, or pass --partial to prepare the images that it has'
        if self.missing:
            raise UserError(f'{self.place} lacks {list_names(self.missing)}: {advice}')
        if self.empty_classes:
            example = f', for example {self.empty_classes[0]}'
            if self.place:
                example = f': {list_names(self.empty_classes)}'
            raise UserError(
                f'{self.place or self.splits["train"].files[0]} lacks {len(self.empty_classes)} of '
                f'{len(self.classes)} synsets{example}: {advice}'
            )
        for split, entries in self.splits.items():
            published = self.published.get(split, len(entries))
            if len(entries) != published:
                kind = f'{split} images' if self.place else 'images'
                raise UserError(
                    f'{self.place or entries.files[0]} has {len(entries):,} {kind} instead of the '
                    f'published {published:,}: {advice}'
                )


def fingerprint(names: list[str], labels: np.ndarray, sizes: np.ndarray) -> str:
    """Returns a hash of the names, labels and sizes in bytes of images."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(b'\0'.join(map(encode_name, names)))
    digest.update(labels.astype('<i4').tobytes() + sizes.astype('<i8').tobytes())
    return digest.hexdigest()


def may_differ_since(files: list[str], time: float) -> bool:
    """Checks for files in FORMATS_OF_EQUAL_SIZES that were written or moved since a time.

    Args:
      files: paths of files.
      time: in seconds, as of `os.stat_result.st_mtime`.

    Raises:
      UserError: a file cannot be read.
    """
    for path in files:
        if path.lower().endswith(FORMATS_OF_EQUAL_SIZES):
            try:
                status = os.stat(path)
            except OSError as error:
                raise UserError(f'cannot read {printable(path)}: {error.strerror}') from error
            # A copy may keep the time of its original, but not that of the change of the file.
            if max(status.st_mtime, status.st_ctime) > time:
                return True
    return False


def is_held_out(name: str, one_in: int) -> bool:
    """Chooses one image in `one_in` for validation, by a hash of its name."""
    return int.from_bytes(_hash(name, 4), 'big') % one_in == 0


def hex_hash(name: str) -> str:
    """Returns eight hexadecimal digits that distinguish this name from others."""
    return _hash(name, 4).hex()


def _hash(name: str, size: int) -> bytes:
    return hashlib.blake2b(encode_name(name), digest_size=size).digest()


def encode_name(name: str) -> bytes:
    """Returns a file name as the bytes that the file system has, whatever its encoding."""
    return name.encode('utf-8', 'surrogateescape')


def to_identifier(name: str) -> str:
    """Returns a folder's name as that of a data set: lower case, with _ for other characters."""
    return re.sub(r'\W+', '_', name.lower()).strip('_') or 'images'
