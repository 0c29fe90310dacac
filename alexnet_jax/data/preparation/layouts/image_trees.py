"""Catalogues of ImageNet as a tree of folders: on a disk, in a zip, or in a tar (§2).

The tree has train/ and val/ somewhere: as torchvision's examples want it, with a folder for each
synset in both; as Kaggle has it, ILSVRC/Data/CLS-LOC/{train,val,test} with all validation images in
one folder; or as the Hub's archives, whose names tell the split. Imagenette is such a tree, too.

A zip has a directory, by which members are read in place. A compressed tar can only be read from
its beginning to its end: once to list it, and once to copy the images out of it.
"""

import contextlib
import csv
import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from alexnet_jax.data.preparation.catalogue import Report
from alexnet_jax.data.preparation.file_readers import FileReader, ZipReader
from alexnet_jax.data.preparation.folder_tree import find_images, list_folders
from alexnet_jax.data.preparation.layouts.collection import Collector
from alexnet_jax.data.preparation.layouts.image_names import (
    SPLITS,
    SYNSET,
    parse_name,
    parse_path,
    split_of_file,
)
from alexnet_jax.data.preparation.layouts.imagenet_tars import validation_synsets_2012
from alexnet_jax.data.preparation.layouts.numbered_files import missing_files
from alexnet_jax.data.preparation.layouts.tar_files import list_members, read_members
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

SOLUTION = 'LOC_val_solution.csv'  # Kaggle's: image, and synset with boxes
COMPRESSED = ('.tar.gz', '.tgz')
ALL_IMAGES = 1_431_167  # of the three splits, for a progress bar
REPORT_EVERY = 1000  # images
ROOTS = ('', 'CLS-LOC', 'Data/CLS-LOC', 'ILSVRC/Data/CLS-LOC')  # where train/ may be


def find_root(folder: Path) -> Path | None:
    """Returns the folder that has train/ or val/ of ImageNet; None if there is none."""
    for root in (folder / part for part in ROOTS):
        if root.is_dir() and any(_looks_like_imagenet(part) for part in _split_folders(root)):
            return root
    return None


def _split_folders(root: Path) -> list[Path]:
    return [path for path in list_folders(root) if path.name.lower() in SPLITS]


def _looks_like_imagenet(folder: Path) -> bool:
    """Checks whether a folder has synsets, or images with names of ImageNet, by the first ones."""
    names = [path.name for path in list_folders(folder)]
    if names:
        return sum(bool(SYNSET.fullmatch(name)) for name in names) > len(names) / 2
    image = next(find_images(folder, Counter()), None)
    return image is not None and bool(parse_name(image.path.name).name)


def collect_folder(root: Path, report: Report) -> Collector:
    """Collects the images of a tree on a disk.

    Args:
      root: has train/ and val/.
      report: receives progress.

    Raises:
      UserError: a folder cannot be read, or an image is not one of ImageNet.
    """
    collector = Collector(str(root))
    others: Counter[str] = Counter()
    number = 0
    for folder in _split_folders(root):
        split = SPLITS[folder.name.lower()]
        for image in find_images(folder, others):
            number += 1
            path = image.path.relative_to(root).as_posix()
            parsed = parse_path(path)
            collector.add(
                split, path, str(image.path), 0, image.size, parsed.synset if parsed else ''
            )
            if number % REPORT_EVERY == 0:
                report(folder.name, number, ALL_IMAGES)
    for place in (root, *list(root.absolute().parents)[:3]):
        if (place / SOLUTION).is_file():
            collector.notes.append(_check_solution(_read(place / SOLUTION)))
            break
    return collector


def has_compressed_tar(path: Path) -> bool:
    """Checks whether an archive is a zip with a gzipped tar in it, as Kaggle had it."""
    if path.suffix.lower() != '.zip':
        return False
    with _open_zip(path) as file:
        return _tar_in_zip(file) is not None


def collect_archive(path: Path, report: Report) -> Collector:
    """Collects the images of a tree in an archive.

    Args:
      path: a zip, a tar or a gzipped tar; or a zip with a gzipped tar in it, as Kaggle had it.
      report: receives progress.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: the archive is damaged, or an image is not one of ImageNet.
    """
    if path.name.lower().endswith(COMPRESSED):
        collector = _collect_members(path, _compressed_members(path), FileReader, report)
        solution = path.parent / SOLUTION
        if solution.is_file():
            collector.notes.append(_check_solution(_read(solution)))
        return collector
    if path.suffix.lower() != '.zip':
        return _collect_members(path, list_members(path), FileReader, report)
    with _open_zip(path) as file:
        solutions = [name for name in file.namelist() if name.rpartition('/')[2] == SOLUTION]
        note = (
            _check_solution(file.read(solutions[0]).decode(errors='replace')) if solutions else ''
        )
        compressed = _tar_in_zip(file) is not None
        members = _compressed_members(path) if compressed else _zip_members(file)
        reader = FileReader if compressed else ZipReader
        collector = _collect_members(path, members, reader, report)
    if note:
        collector.notes.append(note)
    return collector


def read_images(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields the images of a compressed tar: position in the decompressed tar, and contents.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: the archive is truncated or damaged.
    """
    with _open_compressed(Path(path)) as file:
        for member, contents in read_members(path, file):
            if contents is not None and parse_path(member.name):
                yield member.offset_data, contents.read()


def collect_compressed(folder: Path, paths: list[Path], report: Report) -> Collector:
    """Collects the images of gzipped tars whose names tell the split, as the Hub had them.

    They are data/train_images_0.tar.gz to train_images_4.tar.gz, and val_images.tar.gz.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: an archive is damaged, or an image is not one of ImageNet.
    """
    collector = Collector(str(folder))
    collector.missing = missing_files(path.name for path in paths)
    for path in paths:
        if split_of_file(path.name) != 'test':  # which is long, and has no labels
            _add_members(collector, path, _compressed_members(path), report)
    return collector


def _collect_members(
    path: Path,
    members: Iterable[tuple[str, int, int]],
    reader: type[FileReader],
    report: Report,
) -> Collector:
    collector = Collector(str(path), reader)
    _add_members(collector, path, members, report)
    return collector


def _add_members(
    collector: Collector, path: Path, members: Iterable[tuple[str, int, int]], report: Report
) -> None:
    """Adds the images among the members of an archive: name, position and length of each."""
    for name, position, size in members:
        parsed = parse_path(name)
        if parsed is None:
            continue
        split = parsed.split or split_of_file(path.name)
        if not split:
            raise UserError(
                f'{path} has {printable(name)}, which is in no folder train or val: pack a folder '
                'that has both'
            )
        collector.add(split, name, str(path), position, size, parsed.synset)
        if len(collector) % REPORT_EVERY == 0:
            report(path.name, len(collector), ALL_IMAGES)


@contextlib.contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with explain_os_errors(f'read {path}'), zipfile.ZipFile(path) as file:
            yield file
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise UserError(f'{path} is truncated or damaged ({error}): download it again') from error


def _zip_members(file: zipfile.ZipFile) -> Iterator[tuple[str, int, int]]:
    """Yields name, position of the local header and length of each member of a zip."""
    for info in file.infolist():
        if not info.is_dir():
            raise_if_stopped()
            yield info.filename, info.header_offset, info.file_size


def _tar_in_zip(file: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    return next(
        (info for info in file.infolist() if info.filename.lower().endswith(COMPRESSED)), None
    )


@contextlib.contextmanager
def _open_compressed(path: Path) -> Iterator[BinaryIO]:
    """Opens a gzipped tar, or the one in a zip."""
    with contextlib.ExitStack() as stack:
        if path.suffix.lower() == '.zip':
            file = stack.enter_context(_open_zip(path))
            info = _tar_in_zip(file)
            if info is None:
                raise UserError(f'{path} changed while it was read: run the same command again')
            yield stack.enter_context(file.open(info))  # pyrefly: ignore[invalid-yield]
        else:
            stack.enter_context(explain_os_errors(f'read {path}'))
            yield stack.enter_context(open(path, 'rb'))


def _compressed_members(path: Path) -> Iterator[tuple[str, int, int]]:
    with _open_compressed(path) as file:
        for member, _ in read_members(str(path), file):
            yield _describe(member)


def _describe(member: tarfile.TarInfo) -> tuple[str, int, int]:
    return member.name, member.offset_data, member.size


def _read(solution: Path) -> str:
    with explain_os_errors(f'read {solution}'):
        return solution.read_text(encoding='utf-8', errors='replace')


def _check_solution(text: str) -> str:
    """Compares Kaggle's labels of the validation images with the devkit's; returns a line.

    Raises:
      UserError: more than one in a hundred differ.
    """
    truth = validation_synsets_2012()
    labels = {
        row[0]: row[1].split()[0]
        for row in csv.reader(io.StringIO(text))
        if len(row) > 1 and row[1].strip() and row[0] != 'ImageId'
    }
    different = [name for name, synset in labels.items() if truth.get(f'{name}.JPEG') != synset]
    if len(different) * 100 > len(labels):
        raise UserError(
            f'{SOLUTION} has other labels than the devkit for {len(different):,} of '
            f'{len(labels):,} images, for example {printable(different[0])}: download it again'
        )
    if different:
        return (
            f'{SOLUTION} has other labels than the devkit for {len(different):,} images; the '
            "devkit's are used"
        )
    return f"{SOLUTION} has the devkit's labels for all {len(labels):,} images that it lists"
