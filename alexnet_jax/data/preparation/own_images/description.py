"""Describes the images of a folder in lines for the user: classes, splits, what is not taken."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.data.preparation.catalogue import Catalogue, Entries
from alexnet_jax.data.preparation.prepared_sets import SOURCE, command_of_images, read_source
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.text_table import align_columns, cut

MOST_ROWS = 20  # classes of a table
_COLUMNS = 40  # of a class name in a table
_SHOWN = 3  # of the smallest and the largest classes
_UNEQUAL = 1.5  # times as many images in the largest class: then the number is worth a remark

# Formats that are not read, by suffix. Phones and cameras write them.
UNREAD_FORMATS = {
    **dict.fromkeys(('.heic', '.heif', '.hif'), 'HEIC'),
    **dict.fromkeys(('.avif', '.avifs'), 'AVIF'),
    '.jxl': 'JPEG XL',
    **dict.fromkeys(('.jp2', '.j2k'), 'JPEG 2000'),
    **dict.fromkeys(
        ('.3fr', '.arw', '.cr2', '.cr3', '.dng', '.erf', '.iiq', '.kdc', '.mrw', '.nef', '.nrw')
        + ('.orf', '.pef', '.raf', '.raw', '.rw2', '.sr2', '.srf', '.srw', '.x3f'),
        'raw images of cameras',
    ),
}


def describe(catalogue: Catalogue, folder: str, brief: bool = False) -> str:
    """Returns the notes of a catalogue as lines; the folder is named in each that is not indented.

    Args:
      catalogue: the images of a folder.
      folder: its name for the user.
      brief: leaves out the indented lines, which are about each class.
    """
    name = printable(folder)
    return '\n'.join(
        note if note.startswith(' ') else f'{name}: {note}'
        for note in catalogue.notes
        if not (brief and note.startswith(' '))
    )


def describe_use(dataset: schema.Dataset) -> str:
    """Returns the line about the splits that a run uses, by the names that the settings have."""
    return f'trained on {dataset.train_split}, validated on {dataset.eval_split}'


def describe_edits(catalogue: Catalogue, prepared: Path) -> str:
    """Returns the line about images that may have been edited since they were prepared.

    Their names and sizes are those that were prepared. A photograph that is turned in place by its
    EXIF orientation keeps its size.

    Args:
      catalogue: the images.
      prepared: the folder of the data set that was prepared of them.

    Returns:
      The line; '' if no image was written since.
    """
    time, name = catalogue.newest
    if time <= (prepared / SOURCE).stat().st_mtime:
        return ''
    storage = read_source(prepared).get('storage', {})
    command = command_of_images(catalogue.source, storage, prepared.parents[1])
    return (
        f'images were written after they had been prepared, the last one {printable(name)}: if '
        f'they were edited, prepare them again, for new runs: {command}'
    )


def describe_splits(
    classes: list[str], splits: Mapping[str, Entries], roots: Mapping[str, Path], held_out: int
) -> Iterator[str]:
    """Yields the lines about the classes and the splits.

    Args:
      classes: the names of the classes.
      splits: the images of each split.
      roots: the folder of each split.
      held_out: one image in so many was chosen for validation; 0: the splits are folders.
    """
    yield f'{len(classes):,} classes: {list_names(classes)}'
    counts = []
    for split, entries in splits.items():
        origin = f' (from {printable(roots[split].name)})' if not held_out else ''
        if held_out and split == 'validation':
            origin = f' (one image in {held_out} of each class, chosen by its name)'
        counts.append(f'{len(entries):,} {split}{origin}')
    yield ', '.join(counts)
    numbers = {split: count_classes(entries, len(classes)) for split, entries in splits.items()}
    yield _class_table(classes, numbers)
    yield _describe_balance(classes, numbers)


def count_classes(entries: Entries, classes: int) -> np.ndarray:
    """Counts the images of each class of a split, (classes,) int64."""
    return np.bincount(entries.labels, minlength=classes)


def _class_table(classes: list[str], numbers: Mapping[str, np.ndarray]) -> str:
    """Returns a table of the images of each class, or of some classes if there are many."""
    order = list(range(len(classes)))
    if len(classes) > MOST_ROWS:
        by_size = sorted(order, key=lambda k: (numbers['train'][k], k))
        middle = len(classes) // 2
        order = [*by_size[:_SHOWN], by_size[middle], *by_size[-_SHOWN:]]
    rows = [('class', *numbers)]
    rows += [_row(printable(classes[k]), [x[k] for x in numbers.values()]) for k in order]
    if len(classes) > MOST_ROWS:
        for place in (1 + _SHOWN, 3 + _SHOWN):
            rows.insert(place, ('...', *('' for _ in numbers)))
        rows.append(_row(f'all {len(classes):,}', [x.sum() for x in numbers.values()]))
    return '\n'.join(f'  {line}' for line in align_columns(rows).splitlines())


def _row(name: str, numbers: list[int]) -> tuple[str, ...]:
    return (cut(name, _COLUMNS), *(f'{n:,}' for n in numbers))


def _describe_balance(classes: list[str], numbers: Mapping[str, np.ndarray]) -> str:
    """Returns the line below the table: sizes of the classes, and the error of one answer."""
    train, validation = numbers['train'], numbers['validation']
    most = int(train.argmax())
    error = 1 - validation[most] / max(1, validation.sum())
    least, largest = int(train.min()), int(train.max())
    sizes = f'{least:,} training images in every class'
    if least != largest:
        sizes = f'{least:,} to {largest:,} training images in a class'
        if largest > _UNEQUAL * least:
            times = f'{largest / least:.1f} times' if least else 'many times'
            sizes += f': the largest has {times} as many as the smallest'
    return (
        f'  {sizes}; always answering {printable(classes[most])} has a validation error of '
        f'{error:.1%}'
    )


def describe_files(
    in_sub_folders: Mapping[str, int], others: Counter[str], folder: Path
) -> Iterator[str]:
    """Yields the lines about images in sub-folders, and about files that are not taken.

    Args:
      in_sub_folders: number of images that lie in sub-folders of their class, by class.
      others: number of files that are not taken, by suffix or kind.
      folder: the folder of all images.
    """
    nested = [(name, number) for name, number in in_sub_folders.items() if number]
    if len(nested) > _SHOWN:
        total = sum(number for _, number in nested)
        yield f'{total:,} images of {len(nested):,} classes are in sub-folders'
    else:
        for name, number in nested:
            yield f'{number:,} images of {printable(name)} are in sub-folders'
    unread = {suffix: number for suffix, number in others.items() if suffix in UNREAD_FORMATS}
    if unread:
        yield f'not read: {describe_unread(unread, folder)}'
    rest = [(kind, number) for kind, number in others.most_common() if kind not in unread]
    if rest:
        kinds = [f'{number:,} {kind}' for kind, number in rest]
        shown = kinds if len(kinds) <= 10 else [*kinds[:9], f'{len(kinds) - 9} other kinds']
        yield f'not taken: {", ".join(shown)}'


def describe_unread(others: Mapping[str, int], folder: Path) -> str:
    """Returns what to do about images in formats that are not read; '' if there are none.

    Args:
      others: number of files that are not taken, by suffix or kind.
      folder: where they are.
    """
    unread = {suffix: number for suffix, number in others.items() if suffix in UNREAD_FORMATS}
    if not unread:
        return ''
    counts = ', '.join(f'{number:,} {suffix}' for suffix, number in unread.items())
    kinds = ', '.join(dict.fromkeys(UNREAD_FORMATS[suffix] for suffix in unread))
    names = ' -o '.join(f"-iname '*{suffix}'" for suffix in unread)
    test = names if len(unread) == 1 else f"'(' {names} ')'"
    return (
        f'{counts} files ({kinds}) in {printable(str(folder))}: convert them to JPEG or PNG, for '
        f'example with ImageMagick: find . {test} -exec magick mogrify -format jpg {{}} +'
    )
