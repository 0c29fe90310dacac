"""Catalogues of a user's own images: one folder of images per class (§2).

There may be folders for the splits, under the usual names. A folder that can be read in two ways is
refused; the notes of the catalogue say what was read.
"""

import dataclasses
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.data.preparation.catalogue import (
    Catalogue,
    Entries,
    hex_hash,
    to_identifier,
)
from alexnet_jax.data.preparation.folder_tree import (
    SUFFIXES,
    ImageFile,
    find_images,
    identity,
    list_entries,
    list_folders,
)
from alexnet_jax.data.preparation.layouts import advice
from alexnet_jax.data.preparation.own_images.description import (
    describe_files,
    describe_splits,
    describe_unread,
)
from alexnet_jax.data.preparation.own_images.holding_out import (
    choose_held_out,
    choose_held_out_before,
)
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.user_errors import UserError

SPLIT_NAMES = {  # in any case
    'train': ('train', 'training'),
    'validation': ('val', 'valid', 'validation', 'dev', 'eval'),
    'test': ('test', 'testing'),
}
MAX_BYTES = 40  # of a folder's name in that of its data set: file names have at most 255 bytes

# Part of the hash in a data set's name. The first form put black behind transparent pixels; what
# was prepared with it is not used, as if it were on white.
FORM = '2'


def list_images(folder: Path, held_out: int = 10) -> Catalogue:
    """Lists the images of a folder that has one folder per class.

    Args:
      folder: has the class folders; or has a folder for each of the splits, which have them.
      held_out: where there are no folders for splits, one image in so many of each class is for
        validation; see `holding_out`.

    Raises:
      UserError: the folder can be read in two ways; there are fewer than two classes, or one has no
        images or a name that cannot be kept; a split has no images, or other classes; links make
        one folder part of two classes, or of the training images and others.
    """
    try:
        catalogue = _list_images(folder, held_out)
    except UserError as error:
        if end := advice.end_of_error(folder):
            raise UserError(f'{error}{end}') from error
        raise
    catalogue.notes += advice.notes_on_classes(catalogue.classes, folder)
    return catalogue


def _list_images(folder: Path, held_out: int) -> Catalogue:
    if not folder.is_dir():
        raise UserError(f'dataset.folder={printable(str(folder))} is not a folder')
    roots, notes = _split_roots(folder)
    folders = {split: _class_folders(root) for split, root in roots.items()}
    if 'test' in folders and 'validation' in folders and not folders['test']:
        notes.append(f'{printable(roots["test"].name)} has no class folders and is left out')
        del roots['test'], folders['test']
    classes = _common_classes(roots, folders)
    held_out = 0 if len(roots) > 1 else held_out
    listed, others = _list_classes(roots, folders, classes)
    in_sub_folders: Counter[str] = Counter()
    for images in listed:
        in_sub_folders[classes[images.label]] += sum(image.depth > 0 for image in images.images)
    about_files = [*notes, *describe_files(in_sub_folders, others, folder)]
    chosen = [choose_held_out(x.keys, held_out) if held_out else set() for x in listed]
    arguments = folder, classes, held_out, roots, listed, about_files
    catalogue = _catalogue(*arguments, chosen)
    for split, entries in catalogue.splits.items():
        if not len(entries):
            raise UserError(f'{folder} has too few images for a {split} split: add images')
    catalogue.newest = max(images.newest() for images in listed)
    if held_out:
        before = [
            choose_held_out_before(images.keys, held_out) if _is_exception(images, names) else names
            for images, names in zip(listed, chosen, strict=True)
        ]
        if before != chosen and any(before):
            catalogue.earlier = _catalogue(*arguments, before)
            catalogue.earlier.newest = catalogue.newest
    return catalogue


@dataclasses.dataclass
class _Class:
    """The images of a class in a split, and their names in the data set."""

    label: int
    split: str
    images: list[ImageFile]
    keys: list[str]

    def newest(self) -> tuple[float, str]:
        """Returns when one of the images was last written, and its name; 0 and '' if none."""
        times = [image.modified for image in self.images]
        return max(zip(times, self.keys, strict=True), default=(0.0, ''))

    def add_to(self, splits: dict[str, Entries], chosen: set[str]) -> None:
        """Adds the images to their splits; those that were chosen are for validation."""
        for key, image in zip(self.keys, self.images, strict=True):
            entries = splits['validation' if key in chosen else self.split]
            entries.start_file(image.path)
            entries.add(key, self.label, 0, image.size)


def _list_classes(
    roots: dict[str, Path], folders: dict[str, dict[str, Path]], classes: list[str]
) -> tuple[list[_Class], Counter[str]]:
    """Returns the images of each class in each split, and the number of other files by suffix."""
    listed, places = [], {}
    others: Counter[str] = Counter()
    labels = {name: label for label, name in enumerate(classes)}
    for split, root in roots.items():
        others.update(_files_outside_classes(root))
        for name, images in _images_by_class(split, folders[split], classes, others):
            _check_folders(images, split, name, places)
            keys = [image.path.relative_to(root).as_posix() for image in images]
            listed.append(_Class(labels[name], split, images, keys))
    return listed, others


def _is_exception(images: _Class, chosen: set[str]) -> bool:
    """Checks whether a class may be one in which the hashes choose no image, or all."""
    return len(chosen) == 1 or len(chosen) == len(images.keys) - 1


def _catalogue(
    folder: Path,
    classes: list[str],
    held_out: int,
    roots: dict[str, Path],
    listed: list[_Class],
    about_files: list[str],
    chosen: list[set[str]],
) -> Catalogue:
    splits = {split: Entries() for split in ('train', 'validation', *roots)}
    for images, names in zip(listed, chosen, strict=True):
        images.add_to(splits, names)
    split_by = f'one image in {held_out} for validation' if held_out else 'its own folders'
    name = to_identifier(folder.resolve().name).encode()[:MAX_BYTES].decode('utf-8', 'ignore')
    other_names = {} if held_out else {root.name.lower(): split for split, root in roots.items()}
    return Catalogue(
        name=f'folder_{name}_{hex_hash(f"{FORM} {folder.resolve()}")}',
        description=f'The images of a folder, {len(classes)} classes; split by {split_by}.',
        classes=classes,
        splits=splits,
        upright=True,
        source={'folder': str(folder.resolve())},
        movable=True,
        other_names=other_names,
        notes=[*describe_splits(classes, splits, roots, held_out), *about_files],
    )


def _split_roots(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Returns the folder of the class folders of each split, and notes for the user.

    It is 'train' alone, the folder itself, if there are no folders for splits.
    """
    roots: dict[str, Path] = {}
    rest = []
    for path in list_folders(folder):
        split = next((s for s, names in SPLIT_NAMES.items() if path.name.lower() in names), None)
        if split is None:
            rest.append(path)
        elif split in roots:
            raise UserError(
                f'{folder} has two folders of {split} images, {roots[split].name} and {path.name}: '
                'move one of them away'
            )
        else:
            roots[split] = path
    if not roots:
        return {'train': folder}, []
    names = ', '.join(root.name for root in roots.values())
    with_images = [path for path in rest if next(find_images(path, Counter()), None)]
    if with_images:
        raise UserError(
            f'{folder} has folders with the names of splits ({names}) beside others '
            f'({list_names([path.name for path in with_images])}): rename a class that is called '
            'like a split, or move the folders away that are not splits'
        )
    if 'train' not in roots:
        raise UserError(f'{folder} has {names} and no folder train: add the training images')
    if len(roots) == 1:
        raise UserError(
            f'{folder} has {names} and no folder for validation: add one named val, or set '
            f'--config.dataset.folder={roots["train"]}, of which one image in ten is held out'
        )
    if 'validation' not in roots:
        roots = {'train': roots['train'], 'validation': roots['test']}
    ignored = [path.name for path in rest]
    return roots, [f'without images, ignored: {list_names(ignored)}'] if ignored else []


def _class_folders(root: Path) -> dict[str, Path]:
    """Returns the class folders by the names of the classes, sorted.

    TFDS keeps the names of the classes as the lines of a file, without blanks at the ends. The same
    letter may be one character or two (Unicode normalization), as a different system wrote it:
    names are compared in the composed form.

    Raises:
      UserError: a name cannot be kept, or two names are the same text.
    """
    folders: dict[str, Path] = {}
    for path in list_folders(root):
        problem = _problem_of_name(path.name)
        if problem:
            raise UserError(
                f'the class folder {path.name!r} in {printable(str(root))} {problem}: rename it'
            )
        name = unicodedata.normalize('NFC', path.name)
        if name in folders:
            raise UserError(
                f'the class folders {path.name!a} and {folders[name].name!a} in '
                f'{printable(str(root))} have the same name in Unicode: rename one of them'
            )
        folders[name] = path
    return dict(sorted(folders.items()))


def _problem_of_name(name: str) -> str:
    """Returns why a class cannot have this name; '' if it can."""
    categories = {unicodedata.category(character) for character in name}
    if 'Cs' in categories:
        return 'has a name that is not UTF-8'
    if categories & {'Cc', 'Zl', 'Zp'}:
        return 'has a line break or another control character in its name'
    if name != name.strip():
        return 'has a blank at an end of its name'
    return ''


def _common_classes(roots: dict[str, Path], folders: dict[str, dict[str, Path]]) -> list[str]:
    """Returns the classes of the training split, which the other splits must have, too.

    Raises:
      UserError: there are fewer than two, or the splits differ; a test split may lack some.
    """
    classes = list(folders['train'])
    if len(classes) < 2:
        raise UserError(
            f'{roots["train"]} has {len(classes)} class folders: it needs two or more, each with '
            'the images of one class'
        )
    for split, root in roots.items():
        if untrained := [name for name in folders[split] if name not in folders['train']]:
            raise UserError(
                f'{root} has classes without training images: {list_names(untrained)}; add '
                'training images, or move their images away'
            )
        missing = [name for name in classes if name not in folders[split]]
        if missing and split == 'validation':
            raise UserError(
                f'{root} lacks classes that {roots["train"]} has: {list_names(missing)}; add '
                'images of them, or move their training images away'
            )
    return classes


def _images_by_class(
    split: str, folders: dict[str, Path], classes: list[str], others: Counter[str]
) -> Iterator[tuple[str, list[ImageFile]]]:
    """Yields each class and its images in a split.

    Raises:
      UserError: a class has no images, or has folders of images and no images of its own.
    """
    inner_folders: dict[str, set[str]] = defaultdict(set)  # of classes without images of their own
    for name in classes:
        here: Counter[str] = Counter()
        images = list(find_images(folders[name], here)) if name in folders else []
        others.update(here)
        if not images and split != 'test':
            unread = describe_unread(here, folders[name])
            remedy = f'only {unread}' if unread else 'add images, or move the folder away'
            raise UserError(f'{folders[name]} has no images ({", ".join(SUFFIXES)}): {remedy}')
        if images and all(image.depth for image in images):
            parts = (image.path.relative_to(folders[name]).parts[0] for image in images)
            inner_folders[name].update(parts)
        yield name, images
    every_class = len(inner_folders) == len(classes)  # such as n01443537/images/0.jpg
    if inner_folders and not (every_class and len(set().union(*inner_folders.values())) == 1):
        name, inner = next(iter(inner_folders.items()))
        raise UserError(
            f'{folders[name]} has no images of its own, only folders ({list_names(sorted(inner))}):'
            ' choose the folder whose folders are the classes, or move the images up'
        )


# The split, the class and the path by which each folder with images was reached.
_Places = dict[tuple[int, int], tuple[str, str, Path]]


def _check_folders(images: list[ImageFile], split: str, name: str, places: _Places) -> None:
    """Refuses images of a class that are in another class, or in another split, through a link.

    Args:
      images: the images of the class.
      split: their split.
      name: the name of the class.
      places: what is known of the folders of other classes; those of this class are added.

    Raises:
      UserError: a folder belongs to two classes, or to the training images and to others.
    """
    for folder in dict.fromkeys(image.path.parent for image in images):
        other_split, other_name, other = places.setdefault(identity(folder), (split, name, folder))
        if other_name != name or (other_split == 'train') != (split == 'train'):
            raise UserError(
                f'{printable(str(other))} and {printable(str(folder))} are the same folder, so '
                'that its images would be in two classes or splits: remove a link'
            )


def _files_outside_classes(root: Path) -> Counter[str]:
    """Counts the files that lie beside class folders, by suffix."""
    outside: Counter[str] = Counter()
    for path in list_entries(root):
        if path.is_file():
            suffix = path.suffix.lower()
            kind = 'images outside the class folders' if suffix in SUFFIXES else printable(suffix)
            outside[kind or 'without a suffix'] += 1
    return outside
