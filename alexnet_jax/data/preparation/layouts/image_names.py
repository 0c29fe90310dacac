"""The names of ImageNet's images, which tell the class of each (§2).

A training image is called n01440764_10026.JPEG, after its synset; a validation image
ILSVRC2012_val_00000293.JPEG, and the devkit lists the synsets of these numbers. The Hub's copies
have the synset once more at the end: n01440764_10026_n01440764.JPEG.
"""

import functools
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_jax.data.preparation.folder_tree import IGNORED, SUFFIXES
from alexnet_jax.data.preparation.layouts.imagenet_tars import validation_synsets_2012

SYNSET = re.compile(r'n\d{8}')
SPLITS = {  # names of folders and of files, and the splits
    'train': 'train',
    'training': 'train',
    'val': 'validation',
    'valid': 'validation',
    'validation': 'validation',
    'test': 'test',
}
_OF_IMAGENET = re.compile(r'(?:(n\d{8})_\d+|ILSVRC2012_(?:val|test)_\d{8})(?=_n\d{8}$|$)')


class ImageName(NamedTuple):
    """The name of an image, and what it tells.

    Attributes:
      name: the name in the published tars; '' if this is not a name of ImageNet.
      synset: the synset of the image; '' if the name does not tell it.
    """

    name: str
    synset: str


def parse_name(name: str) -> ImageName:
    """Reads a file name or a key, with folders before it or without."""
    stem = PurePosixPath(name).name
    base, dot, suffix = stem.rpartition('.')
    if dot and f'.{suffix.lower()}' in SUFFIXES:
        stem = base
    match = _OF_IMAGENET.match(stem)
    if not match:
        return ImageName('', '')
    published = f'{match[0]}.JPEG'
    return ImageName(published, match[1] or _validation_synsets().get(published, ''))


class ImagePath(NamedTuple):
    """The split and the class that the path of an image in a tree of folders tells.

    Attributes:
      split: the split; '' if no folder tells it.
      synset: the folder of a class in which it lies; '' if none.
    """

    split: str
    synset: str


def parse_path(path: str) -> ImagePath | None:
    """Reads a path in a tree of train/n01440764/NAME and val/NAME; None if it is no image."""
    *folders, name = PurePosixPath(path).parts or ('',)
    if not name.lower().endswith(SUFFIXES):
        return None
    if any(part.startswith('.') or part.lower() in IGNORED for part in (*folders, name)):
        return None
    split = next((SPLITS[part.lower()] for part in folders[::-1] if part.lower() in SPLITS), '')
    synset = next((part for part in folders[::-1] if SYNSET.fullmatch(part)), '')
    return ImagePath(split, synset)


def split_of_shard(path: Path) -> str:
    """Returns the split in the name of a file, or in that of its folder; '' if none."""
    return split_of_file(path.name) or split_of_file(path.parent.name)


def split_of_file(name: str) -> str:
    """Returns the split in a file name, as train-00000-of-00294.parquet has it; '' if none."""
    words = re.split(r'[^a-z]+', name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), '')


@functools.cache
def _validation_synsets() -> dict[str, str]:
    return validation_synsets_2012()
