"""Catalogues of ImageNet in WebDataset's shards, as the Hub's timm/imagenet-1k-wds has it (§2).

A shard is a tar, imagenet1k-train-0000.tar. The files of a sample have the same name up to its
first dot: KEY.jpg, KEY.cls (the number of the class), and KEY.json, which may tell the file's
original name, as {"filename": "n01440764/n01440764_3778.JPEG", "label": 0}.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.data.preparation.catalogue import Report
from alexnet_jax.data.preparation.file_readers import FileReader
from alexnet_jax.data.preparation.folder_tree import SUFFIXES
from alexnet_jax.data.preparation.layouts.collection import Collector
from alexnet_jax.data.preparation.layouts.image_names import (
    SYNSET,
    ImageName,
    parse_name,
    parse_path,
    split_of_file,
)
from alexnet_jax.data.preparation.layouts.numbered_files import missing_files
from alexnet_jax.data.preparation.layouts.tar_files import list_members
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError

_LABELS = ('cls', 'json', 'txt')  # suffixes of the small files, which are read
_MOST_BYTES = 1 << 20  # of such a file


def find_files(folder: Path) -> list[Path]:
    """Returns the shards in a folder, or in the folders of the splits."""
    for pattern in ('*.tar', '*/*.tar'):
        files = [file for file in sorted(folder.glob(pattern)) if _split(file)]
        if files:
            return files
    return []


def is_shard(path: Path) -> bool:
    """Checks whether a tar has samples of WebDataset, by its first two members."""
    members = list_members(path)
    keys = [name.partition('.') for name, _, _ in (next(members, ('', 0, 0)) for _ in range(2))]
    return keys[0][0] == keys[1][0] and bool({'cls', 'json'} & {keys[0][2], keys[1][2]})


def collect(folder: Path, files: list[Path], report: Report) -> Collector:
    """Collects the images of shards.

    Args:
      folder: has the shards, for messages.
      files: the shards, whose names or folders tell the split.
      report: receives progress.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: a shard is damaged, or the labels contradict the names.
    """
    collector = Collector(str(folder))
    collector.missing = missing_files(file.relative_to(folder).as_posix() for file in files)
    for done, file in enumerate(files, 1):
        split = _split(file)
        with FileReader([str(file)]) as reader:
            for key, members in _samples(file):
                image = next((k for k in members if f'.{k.lower()}' in SUFFIXES), '')
                if not image:
                    raise UserError(f'{file} has no image for {printable(key)}: download it again')
                label, name, synset = _describe(reader, members, key)
                if not parse_name(name).name:
                    name = f'{file.stem}/{key}.{image}'
                collector.add(split, name, str(file), *members[image], synset, label)
        report(file.name, done, len(files))
    return collector


def _split(file: Path) -> str:
    return split_of_file(file.name) or split_of_file(file.parent.name)


def _samples(file: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yields the key of each sample, and location and length of its files by their suffixes."""
    key, members = '', {}
    for path, offset, size in list_members(file):
        folder, slash, name = path.rpartition('/')
        base, _, suffix = name.partition('.')
        own = f'{folder}{slash}{base}'
        if not base or not suffix:  # hidden, or no file of a sample
            continue
        if own != key and members:
            yield key, members
            members = {}
        key = own
        members[suffix.lower()] = offset, size
    if members:
        yield key, members


def _describe(
    reader: FileReader, members: dict[str, tuple[int, int]], key: str
) -> tuple[int | None, str, str]:
    """Returns the label of a sample, its original name or its key, and its synset if it is told."""
    texts = {
        suffix: reader.read(0, *members[suffix]).decode(errors='replace').strip()
        for suffix in _LABELS
        if suffix in members and members[suffix][1] <= _MOST_BYTES
    }
    try:
        info = json.loads(texts.get('json') or '{}')
    except ValueError:
        info = {}
    info = info if isinstance(info, dict) else {}
    names = [str(info.get('filename', '')), key]
    name = next((name for name in names if parse_name(name) != ImageName('', '')), key)
    parsed = parse_path(names[0])
    synset = parsed.synset if parsed else ''
    label = None
    for value in (texts.get('cls'), info.get('label'), texts.get('txt')):
        text = str(value)
        if SYNSET.fullmatch(text):
            synset = text
        elif label is None and text.isdecimal():
            label = int(text)
    return label, name, synset
