"""Collects the images of a layout of ImageNet, finds out their classes, and makes a catalogue (§2).

Whatever the layout, an image gets the name that it has in the published tars where that can be
told, and its class by that name or by its folder. A number as label only confirms it; where nothing
else tells the class, the numbers are those of the other images, or of the sorted WordNet ids.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from alexnet_jax.data.preparation.catalogue import Catalogue, Entries
from alexnet_jax.data.preparation.file_readers import FileReader
from alexnet_jax.data.preparation.layouts.image_names import parse_name
from alexnet_jax.data.preparation.layouts.imagenet_tars import IMAGES_2012, labels_2012
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.user_errors import UserError

# The devkit numbers the classes of 2012 in an order of its own, which these first ones identify.
DEVKIT_2012 = ('n02119789', 'n02100735', 'n02110185', 'n02096294', 'n02102040')
FEW_SYNSETS = 500  # fewer are taken for a subset, and more for ImageNet with synsets missing


class Collector:
    """Collects images, file by file.

    Attributes:
      place: the file or folder that has the images, for messages.
      notes: lines for the user.
      missing: names of files that should be there.
    """

    def __init__(self, place: str, reader: type[FileReader] = FileReader) -> None:
        self.place = place
        self.notes: list[str] = []
        self.missing: list[str] = []
        self._reader = reader
        self._splits: dict[str, Entries] = {}
        self._files: dict[str, str] = {}  # the file of each split that was started last
        self._synsets: list[str] = []
        self._codes: dict[str, int] = {}  # positions in _synsets
        self._synset_of_label: dict[int, str] = {}
        self._example: dict[int, str] = {}  # an image of each label, for messages
        self._unlabelled: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._splits.values()))

    def add(
        self,
        split: str,
        path: str,
        file: str,
        offset: int,
        size: int,
        folder: str = '',
        label: int | None = None,
    ) -> None:
        """Adds an image, whose class is told by its name, its folder or its label.

        Args:
          split: its split; images of 'test' are counted and left out, as they have no labels.
          path: its path or key, which ends in its name.
          file: the file that contains it.
          offset: its location in this file, as the reader takes it.
          size: its length in bytes.
          folder: the synset that its folder is called by; '' if none.
          label: its number; None if it has none.

        Raises:
          UserError: its class cannot be told, or these contradict each other.
        """
        if split == 'test':
            self._unlabelled[split] += 1
            return
        name, synset = parse_name(path)
        if synset and folder and synset != folder:
            raise UserError(
                f'{printable(path)} in {self.place} lies in the folder of {folder}, but it is an '
                f'image of {synset}: move it'
            )
        synset = synset or folder
        if label is not None and synset:
            self._confirm(label, synset, path)
        if not synset and label is None:
            raise UserError(
                f'the class of {printable(path)} in {self.place} cannot be told: its name is not '
                'one of ImageNet, and it is not in the folder of a synset (n01440764 ...); for '
                'images of your own, pass --folder=DIR'
            )
        entries = self._splits.setdefault(split, Entries(self._reader))
        if self._files.get(split) != file:
            self._files[split] = file
            entries.files.append(file)
        code = self._code(synset) if synset else -1 - (label or 0)
        own_name = f'{folder}/{PurePosixPath(path).name}' if folder else path
        entries.add(name or own_name, code, offset, size)

    def _confirm(self, label: int, synset: str, path: str) -> None:
        """Checks that all images with a label are of the same synset."""
        first = self._synset_of_label.setdefault(label, synset)
        example = self._example.setdefault(label, path)
        if first != synset:
            raise UserError(
                f'{self.place} has images of {first} and of {synset} with the same label {label} '
                f'({printable(example)}, {printable(path)}): its labels are wrong'
            )

    def _code(self, synset: str) -> int:
        if synset not in self._codes:
            self._codes[synset] = len(self._synsets)
            self._synsets.append(synset)
        return self._codes[synset]

    def catalogue(self, kind: str, synsets: Sequence[str], partial: bool) -> Catalogue:
        """Returns the catalogue of all images, or of those of a list of synsets.

        Args:
          kind: what was recognized, for a note.
          synsets: the classes of a subset, in the order of their labels; empty for all.
          partial: whether ImageNet may have missing synsets, whatever their number.

        Raises:
          UserError: there are no images, their classes cannot be told or are not those of 2012, or
            two images have the same name.
        """
        if not self._splits:
            raise UserError(f'{self.place} has no images of ImageNet: {kind} was expected')
        order = self._resolve_labels()
        classes = self._classes(synsets, partial)
        self._number(classes)
        for split, entries in self._splits.items():
            if not len(entries):
                raise UserError(
                    f'{self.place} has no {split} images of these {len(classes)} classes'
                )
            if len(set(entries.names)) < len(entries):
                twice = next(name for name, n in Counter(entries.names).items() if n > 1)
                raise UserError(f'{self.place} has the {split} image {twice} twice: remove one')
        complete = len(classes) == len(labels_2012())
        notes = [f'recognized: {kind} in {self.place}', *self.notes]
        if order:
            notes.append(order)
        if not complete:
            notes.append(f'a subset of {len(classes)} classes: {list_names(classes)}')
        notes += [
            f'{number:,} {split} images have no labels and are left out'
            for split, number in self._unlabelled.items()
        ]
        if 'validation' not in self._splits:
            notes.append('no validation images: training needs a validation split')
        return Catalogue(
            name='imagenet2012' if complete else subset_name(classes),
            description=(
                'ILSVRC-2012, classes by WordNet id.' if complete else _describe_subset(classes)
            ),
            classes=classes,
            splits={s: self._splits[s] for s in ('train', 'validation') if s in self._splits},
            published=IMAGES_2012 if complete else {},
            notes=notes,
            place=self.place,
            missing=self.missing,
        )

    def _resolve_labels(self) -> str:
        """Gives images that only have a number their synset; returns a line about the order."""
        labels = self._synset_of_label
        in_order = labels_2012()
        is_sorted = all(in_order[k : k + 1] == [synset] for k, synset in labels.items())
        unnamed = {
            -1 - code
            for entries in self._splits.values()
            for code in np.unique(entries.labels).tolist()
            if code < 0
        }
        if unnamed - labels.keys():
            if not is_sorted:
                raise UserError(
                    f'{self.place} has labels in an order of its own, in which the class of '
                    f'{min(unnamed - labels.keys())} cannot be told: its images have no names'
                )
            if not all(0 <= label < len(in_order) for label in unnamed):
                raise UserError(
                    f'{self.place} has labels from {min(unnamed)} to {max(unnamed)}, not from 0 to '
                    f'{len(in_order) - 1}'
                )
        table = {label: labels.get(label) or in_order[label] for label in unnamed}
        for entries in self._splits.values():
            codes = entries.labels
            values = np.unique(codes)
            new = [self._code(table[-1 - v]) if v < 0 else v for v in values.tolist()]
            entries.replace_labels(np.array(new)[np.searchsorted(values, codes)])
        if not labels and not unnamed:
            return ''
        return _describe_order(labels, is_sorted, bool(unnamed))

    def _classes(self, synsets: Sequence[str], partial: bool) -> list[str]:
        """Returns the classes in the order of their labels."""
        published = labels_2012()
        if synsets:
            return list(synsets)
        if unknown := sorted(set(self._synsets) - set(published)):
            raise UserError(
                f'{self.place} has {list_names(unknown)}, not among the classes of ILSVRC-2012: '
                'prepare them with --folder=DIR, or choose classes with --synsets=FILE'
            )
        if len(self._synsets) <= FEW_SYNSETS and not partial and not self.missing:
            return sorted(self._synsets)
        return published

    def _number(self, classes: list[str]) -> None:
        """Numbers the classes, and leaves out the images of others."""
        numbers = {synset: number for number, synset in enumerate(classes)}
        table = np.array([numbers.get(synset, -1) for synset in self._synsets])
        for entries in self._splits.values():
            labels = table[entries.labels]
            entries.replace_labels(labels)
            if (labels < 0).any():
                entries.select(np.flatnonzero(labels >= 0))


def choose_classes(catalogue: Catalogue, synsets: Sequence[str]) -> Catalogue:
    """Returns the catalogue of the images of some classes, which are numbered in this order.

    Raises:
      UserError: these are not the images of 2012, or a split has no image of these classes.
    """
    if catalogue.name != 'imagenet2012':
        raise UserError(f'--synsets chooses classes of ILSVRC-2012, not of {catalogue.name}')
    numbers = {synset: number for number, synset in enumerate(synsets)}
    table = np.array([numbers.get(synset, -1) for synset in catalogue.classes])
    for split, entries in catalogue.splits.items():
        labels = table[entries.labels]
        entries.replace_labels(labels)
        entries.select(np.flatnonzero(labels >= 0))
        if not len(entries):
            raise UserError(f'{entries.files[0]} has no {split} images of these classes')
    return dataclasses.replace(
        catalogue,
        name=subset_name(synsets),
        description=_describe_subset(synsets),
        classes=list(synsets),
        place=catalogue.source.get('tars', ''),
        published={},
        earlier_fingerprint='',
        notes=[f'a subset of {len(synsets)} classes: {list_names(synsets)}'],
    )


def _describe_subset(classes: Sequence[str]) -> str:
    return f'{len(classes)} classes of ILSVRC-2012, by WordNet id.'


def _describe_order(labels: dict[int, str], is_sorted: bool, assumed: bool) -> str:
    """Returns the line about the order of numbers that images have as labels."""
    if is_sorted and labels:
        return 'labels: numbers of the sorted WordNet ids, as the names of the images confirm'
    if is_sorted and assumed:
        return 'labels: taken for numbers of the sorted WordNet ids, as no name tells the class'
    devkit = dict(enumerate(DEVKIT_2012)), dict(enumerate(DEVKIT_2012, 1))
    kind = 'an order of their own'
    if any(all(labels.get(k) == synset for k, synset in table.items()) for table in devkit):
        kind = "the devkit's order"
    return f'labels: numbers in {kind}; here the sorted WordNet ids are numbered, by the names'


def subset_name(classes: Sequence[str]) -> str:
    """Returns the name of the data set of these classes in this order."""
    digest = hashlib.blake2b('\n'.join(classes).encode(), digest_size=4).hexdigest()
    return f'imagenet2012_{len(classes)}_{digest}'
