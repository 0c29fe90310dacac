"""Copies images out of files that can only be read from the beginning to the end (§2).

The images of a data set are stored in an order of their own. A gzipped tar would have to be
decompressed once for each shard, and a parquet file has a hundred images in a block. So their
images are copied first: as they are, one after the other, into hidden files beside the shards,
which are removed when the data set is complete. A restart keeps the files that are complete.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_jax.data.preparation.catalogue import Catalogue, Entries, fingerprint
from alexnet_jax.data.preparation.file_readers import FileReader
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

COPIES = '.copies'  # folder of the copies, beside the shards
IMAGES_PER_FILE = 5000  # of the copies: what a restart repeats at most


@dataclasses.dataclass(frozen=True)
class _Part:
    """Images that are copied into one file.

    Attributes:
      split: their split.
      source: the file that has them.
      rows: (n,) their indices in the split, in the order in which the source has them.
      positions: (n,) where they are in the source.
      sizes: (n,) their lengths in bytes.
      path: the file of the copies, whose name changes with the images.
    """

    split: str
    source: str
    rows: np.ndarray
    positions: np.ndarray
    sizes: np.ndarray
    path: Path

    def is_complete(self) -> bool:
        return self.path.exists() and self.path.stat().st_size == self.sizes.sum()


def missing_bytes(catalogue: Catalogue, folder: Path) -> int:
    """Returns how many bytes are still to be copied into this folder."""
    parts = _divide(catalogue, folder / COPIES)
    return sum(int(part.sizes.sum()) for part in parts if not part.is_complete())


def copy_images(
    catalogue: Catalogue, folder: Path, report: Callable[[int, int], None]
) -> Catalogue:
    """Copies the images of a catalogue, each source file in one pass.

    Args:
      catalogue: the images, with a stream that reads them.
      folder: receives the folder of the copies.
      report: receives the number of images that are copied, and of all images.

    Returns:
      The same images in the same order, located in the copies.

    Raises:
      Stopped: a signal asked this process to stop; the same call resumes.
      UserError: a file cannot be read or written, or has changed since it was listed.
    """
    assert catalogue.stream is not None
    copies = folder / COPIES
    parts = _divide(catalogue, copies)
    with explain_os_errors(f'write in {copies}'):
        copies.mkdir(parents=True, exist_ok=True)
        for file in set(copies.iterdir()) - {part.path for part in parts}:
            file.unlink()
    total = sum(len(part.rows) for part in parts)
    done = sum(len(part.rows) for part in parts if part.is_complete())
    for source in dict.fromkeys(part.source for part in parts):
        missing = [part for part in parts if part.source == source and not part.is_complete()]
        if missing:
            for _ in _copy_source(source, missing, catalogue.stream(source)):
                done += 1
                report(done, total)
    return _relocate(catalogue, parts)


def _divide(catalogue: Catalogue, copies: Path) -> list[_Part]:
    """Divides the images into files of copies."""
    parts = []
    for split, entries in catalogue.splits.items():
        locations = entries.locations
        order = np.lexsort((locations[:, 1], locations[:, 0]))
        sources, first = np.unique(locations[order, 0], return_index=True)
        for source, rows in zip(sources, np.split(order, first[1:]), strict=True):
            for start in range(0, len(rows), IMAGES_PER_FILE):
                chosen = rows[start : start + IMAGES_PER_FILE]
                _, positions, sizes = locations[chosen].T
                names = [entries.names[i] for i in chosen]
                name = fingerprint(names, positions, sizes)
                path = copies / f'{split}-{name}'
                parts.append(_Part(split, entries.files[source], chosen, positions, sizes, path))
    return parts


def _copy_source(
    source: str, parts: list[_Part], images: Iterator[tuple[int, bytes]]
) -> Iterator[None]:
    """Copies the images of these parts in one pass; yields after each of them.

    Images of several splits may alternate in the source, so that several files are open at a time.
    """
    positions = np.concatenate([part.positions for part in parts])
    sizes = np.concatenate([part.sizes for part in parts])
    owners = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    remaining = [len(part.rows) for part in parts]
    files: dict[int, BinaryIO] = {}
    with contextlib.ExitStack() as stack:
        open_parts: dict[int, contextlib.ExitStack] = {}
        for i in np.argsort(positions, kind='stable'):
            raise_if_stopped()
            owner = int(owners[i])
            position, data = next((x for x in images if x[0] >= positions[i]), (-1, b''))
            if position != positions[i] or len(data) != sizes[i]:
                raise UserError(f'{source} changed since it was listed: run the same command again')
            with explain_os_errors(f'write {parts[owner].path}'):
                if owner not in files:
                    open_parts[owner] = stack.enter_context(contextlib.ExitStack())
                    partial = open_parts[owner].enter_context(
                        atomic_files.replace(parts[owner].path)
                    )
                    files[owner] = open_parts[owner].enter_context(partial.open('wb'))
                files[owner].write(data)
                remaining[owner] -= 1
                if not remaining[owner]:
                    open_parts[owner].close()
            yield


def _relocate(catalogue: Catalogue, parts: list[_Part]) -> Catalogue:
    """Returns a catalogue of the same images, which lie in the copies."""
    splits = {}
    for split, entries in catalogue.splits.items():
        own = [part for part in parts if part.split == split]
        locations = np.empty((len(entries), 3), np.int64)
        for number, part in enumerate(own):
            offsets = np.cumsum(part.sizes) - part.sizes
            locations[part.rows] = np.column_stack(
                [np.full_like(offsets, number), offsets, part.sizes]
            )
        copied = Entries(FileReader)
        copied.files = [str(part.path) for part in own]
        for name, label, (file, offset, size) in zip(
            entries.names, entries.labels.tolist(), locations.tolist(), strict=True
        ):
            copied.add_at(name, label, file, offset, size)
        splits[split] = copied
    return dataclasses.replace(catalogue, splits=splits, stream=None)
