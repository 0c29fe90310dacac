"""Catalogues of ImageNet's tars as they are downloaded (§2).

Three kinds of folders are supported:

- ILSVRC2012_img_{train,val,test}.tar, any of them;
- ILSVRC2010_images_{train,val,test}.tar, any of them, and the unpacked devkit;
- n*.tar, one tar per synset, as in the Fall 2011 release of ImageNet.

Sources: TFDS's imagenet2012 (labels.txt, validation_labels.txt) for the classes and the labels of
the validation images; image-net.org for the numbers of images and the MD5 sums.
"""

import hashlib
import re
from pathlib import Path

import tensorflow_datasets as tfds

from alexnet_jax.data.preparation.catalogue import (
    NO_LABEL,
    Catalogue,
    Entries,
    Report,
    is_held_out,
    to_identifier,
)
from alexnet_jax.data.preparation.layouts.tar_files import list_members
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, first_line

IMAGES_2012 = {'train': 1_281_167, 'validation': 50_000, 'test': 100_000}
IMAGES_2010 = {'train': 1_261_406, 'validation': 50_000, 'test': 150_000}
MD5_2012 = {
    'ILSVRC2012_img_train.tar': '1d675b47d978889d74fa0da5fadfb00e',
    'ILSVRC2012_img_val.tar': '29b22e2961454d5413ddabcf34fc5622',
}


def list_images(folder: Path, report: Report) -> Catalogue:
    """Lists the images in a folder of tars.

    Args:
      folder: the folder, of one of the kinds above.
      report: receives progress.

    Raises:
      UserError: the folder has none of these tars, or a tar is damaged.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder')
    kinds = {
        'ILSVRC2012_img_*.tar': list_ilsvrc2012,
        'ILSVRC2010_images_*.tar': list_ilsvrc2010,
        'n*.tar': list_synset_tars,
    }
    for pattern, list_kind in kinds.items():
        tars = sorted(folder.glob(pattern))
        if no_file := [tar for tar in tars if not tar.is_file()]:
            raise UserError(
                f'{no_file[0]} is not a file: put the tar there as it was downloaded, not unpacked'
            )
        if tars:
            catalogue = list_kind(folder, report)
            catalogue.source = {'tars': str(folder.resolve())}
            for split, entries in catalogue.splits.items():
                if not len(entries):
                    raise UserError(
                        f'{entries.files[0]} has no images for {split}: download it again'
                    )
            if catalogue.splits:
                if catalogue.published is IMAGES_2012:
                    catalogue.sort()  # as from the other layouts of these images
                return catalogue
    raise UserError(
        f'{folder} has neither ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, nor '
        'ILSVRC2010_images_*.tar, nor tars of synsets (n01440764.tar ...): pass --tars=DIR with '
        'the folder that has them'
    )


def list_ilsvrc2012(folder: Path, report: Report) -> Catalogue:
    """Lists the images of the 2012 challenge from those of its three tars that are present."""
    classes = labels_2012()
    splits = {}
    train, val = (folder / f'ILSVRC2012_img_{part}.tar' for part in ('train', 'val'))
    test = next(iter(sorted(folder.glob('ILSVRC2012_img_test*.tar'))), None)
    if train.exists():
        splits['train'] = _list_tar_of_tars(train, classes, report)
    if val.exists():
        labels = [classes.index(synset) for synset in validation_synsets_2012().values()]
        splits['validation'] = _list_numbered(val, labels, report)
    if test:
        splits['test'] = _list_numbered(test, [], report)
    return Catalogue(
        name='imagenet2012',
        description='ILSVRC-2012, classes by WordNet id.',
        classes=classes,
        splits=splits,
        published=IMAGES_2012,
    )


def list_ilsvrc2010(folder: Path, report: Report) -> Catalogue:
    """Lists the images of the 2010 challenge; the devkit's labels must be beside the tars.

    The devkit has meta.mat and the ground truths. The test labels of 2010 are published: Table 1
    of the paper is measured on them.
    """
    synsets = _read_meta(_find_file(folder, 'meta.mat'))
    classes = sorted(synsets.values())
    labels = {number: classes.index(synset) for number, synset in synsets.items()}
    splits = {}
    train = folder / 'ILSVRC2010_images_train.tar'
    if train.exists():
        splits['train'] = _list_tar_of_tars(train, classes, report)
    for split, part in (('validation', 'val'), ('test', 'test')):
        tar = folder / f'ILSVRC2010_images_{part}.tar'
        if tar.exists():
            truth = _find_file(folder, f'ILSVRC2010_{split}_ground_truth.txt')
            splits[split] = _list_numbered(tar, _read_truth(truth, labels), report)
    return Catalogue(
        name='imagenet2010',
        description='ILSVRC-2010, classes by WordNet id.',
        classes=classes,
        splits=splits,
        published=IMAGES_2010,
    )


def list_synset_tars(folder: Path, report: Report, held_out: int = 50) -> Catalogue:
    """Lists the images of any number of tars, one per class.

    Args:
      folder: has the tars.
      report: receives progress.
      held_out: one image in so many is for validation.
    """
    tars = sorted(folder.glob('n*.tar'))
    classes = [tar.stem for tar in tars]
    splits = {split: Entries() for split in ('train', 'validation')}
    for label, tar in enumerate(tars):
        for entries in splits.values():
            entries.start_file(tar)
        for name, offset, size in list_members(tar):
            split = 'validation' if is_held_out(name, held_out) else 'train'
            splits[split].add(name, label, offset, size)
        report(tar.name, label + 1, len(tars))
    return Catalogue(
        name=f'synsets_{to_identifier(folder.name)}',
        description=(
            f'{len(tars)} synsets of ImageNet; one image in {held_out} is for validation.'
        ),
        classes=classes,
        splits={split: entries for split, entries in splits.items() if len(entries)},
    )


def verify_md5(folder: Path, report: Report) -> list[str]:
    """Compares the tars of a folder with the published MD5 sums.

    Args:
      folder: has the tars.
      report: receives progress in bytes.

    Returns:
      A line about each tar.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: a sum differs, or there are no tars.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder')
    lines = []
    for tar in sorted(tar for tar in folder.glob('*.tar') if tar.is_file()):
        published = MD5_2012.get(tar.name)
        if published is None:
            lines.append(f'{tar.name}: no MD5 is published for it')
            continue
        digest, size, done = hashlib.md5(), tar.stat().st_size, 0
        with open(tar, 'rb') as file:
            while block := file.read(1 << 24):
                raise_if_stopped()
                digest.update(block)
                done += len(block)
                report(tar.name, done, size)
        if digest.hexdigest() != published:
            raise UserError(
                f'{tar} has MD5 {digest.hexdigest()}, but {published} is published: '
                'download it again'
            )
        lines.append(f'{tar.name}: MD5 as published')
    if not lines:
        raise UserError(f'{folder} has no tars to verify: pass --tars=DIR with the folder of them')
    return lines


def labels_2012() -> list[str]:
    """Returns the 1,000 synsets of 2012 in the order of their labels, which is sorted."""
    return _read_tfds_lines('labels.txt')


def validation_synsets_2012() -> dict[str, str]:
    """Returns the synset of each validation image of 2012 by the image's name."""
    synsets = _read_tfds_lines('validation_labels.txt')
    return {f'ILSVRC2012_val_{n:08d}.JPEG': synset for n, synset in enumerate(synsets, 1)}


def _read_tfds_lines(name: str) -> list[str]:
    path = tfds.core.tfds_path(f'datasets/imagenet2012/{name}')
    return path.read_text().split()


def _list_tar_of_tars(tar: Path, classes: list[str], report: Report) -> Entries:
    """Lists the images of a tar that has a tar for each class."""
    labels = {synset: label for label, synset in enumerate(classes)}
    entries = Entries()
    entries.start_file(tar)
    for done, (inner, start, length) in enumerate(list_members(tar), 1):
        synset = Path(inner).stem
        if synset not in labels:
            raise UserError(
                f'{tar} contains {inner}, which is not one of the {len(classes)} classes: '
                'download the official tar'
            )
        try:
            for name, offset, size in list_members(tar, start, start + length):
                entries.add(name, labels[synset], offset, size)
        except UserError as error:
            raise UserError(f'{inner}: {error}') from error
        report(tar.name, done, len(classes))
    return entries


def _list_numbered(tar: Path, labels: list[int], report: Report) -> Entries:
    """Lists images whose names end in a number, counted from 1, which selects the label."""
    entries = Entries()
    entries.start_file(tar)
    for name, offset, size in list_members(tar):
        number = re.search(r'_(\d+)\.JPEG$', name)
        if number is None or (labels and not 1 <= int(number[1]) <= len(labels)):
            raise UserError(
                f'{tar} contains {name}, which is not an image of this split: '
                'download the official tar'
            )
        label = labels[int(number[1]) - 1] if labels else NO_LABEL
        entries.add(Path(name).name, label, offset, size)
        if len(entries) % 1000 == 0:
            report(tar.name, len(entries), len(labels) or len(entries))
    return entries


def _read_meta(path: Path) -> dict[int, str]:
    """Returns the synsets in a devkit's meta.mat by number; only the leaves, 1 to 1,000."""
    from scipy.io import loadmat  # comes with scikit-learn; only 2010 needs it

    try:
        synsets = loadmat(path, squeeze_me=True)['synsets']
        numbers, ids = synsets[synsets.dtype.names[0]], synsets['WNID']
        return {int(n): str(synset) for n, synset in zip(numbers, ids, strict=True) if n <= 1000}
    except MemoryError:
        raise
    except Exception as error:  # SciPy raises many kinds of errors for damaged files
        raise _damaged(path, error) from error


def _read_truth(path: Path, labels: dict[int, int]) -> list[int]:
    """Returns the label of each numbered image, from the devkit's list of their classes."""
    try:
        return [labels[int(number)] for number in path.read_text().split()]
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{printable(str(path))} is damaged ({first_line(error)}): unpack the challenge's devkit "
        'again'
    )


def _find_file(folder: Path, name: str) -> Path:
    files = sorted(folder.rglob(name))
    if not files:
        raise UserError(f"{folder} lacks {name}: unpack the challenge's devkit there")
    return files[0]
