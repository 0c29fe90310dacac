"""What is to be prepared: every image's name, its label, and where its bytes lie in which file.

Tars are read where they lie and never unpacked: a catalogue remembers at which byte of the tar an
image begins. Each function here knows one kind of source:

- ilsvrc: ILSVRC2012_img_{train,val,test}.tar, or ILSVRC2010's, as they are downloaded;
- synset_tars: a folder of n*.tar, one a class, as the Fall 2011 release of ImageNet;
- class_folders: a folder with one folder of images per class.

Facts about the official files: TFDS's imagenet2012 (labels.txt, validation_labels.txt) for the
classes and the labels of the validation images, image-net.org for counts and check sums.
"""

import array
import dataclasses
import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.runtime.user_errors import UserError, first_line

IMAGES_2012 = {'train': 1_281_167, 'validation': 50_000, 'test': 100_000}
MD5_2012 = {
    'ILSVRC2012_img_train.tar': '1d675b47d978889d74fa0da5fadfb00e',
    'ILSVRC2012_img_val.tar': '29b22e2961454d5413ddabcf34fc5622',
}
IMAGES_2010 = {'train': 1_261_406, 'validation': 50_000, 'test': 150_000}
NO_LABEL = -1  # of the ILSVRC-2012 test images, which are not published
SUFFIXES = ('.jpeg', '.jpg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff')

Tell = Callable[[str, int, int], None]  # what is being read, how many are done, of how many


class Entries:
    """The images of a split, in columns.

    Attributes:
      names: of the images, unique within the split.
      labels: (n,) int32.
      files: the files the images lie in.
      where: (n, 3) int64: which of `files`, at which byte, how many bytes.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.files: list[str] = []
        self._numbers = array.array('q')  # label, file, offset, size: of 15 million, if need be

    def add(self, name: str, label: int, offset: int, size: int) -> None:
        """Notes an image in the file that was begun last."""
        self.names.append(name)
        self._numbers.extend((label, len(self.files) - 1, offset, size))

    def begin(self, file: Path) -> None:
        """What is added next lies in this file."""
        self.files.append(str(file))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int32."""
        return self._columns[:, 0].astype(np.int32)

    @property
    def where(self) -> np.ndarray:
        """(n, 3) int64."""
        return self._columns[:, 1:]

    @property
    def _columns(self) -> np.ndarray:
        return np.array(self._numbers, np.int64).reshape(-1, 4)

    def shuffled(self) -> np.ndarray:
        """The order in which they are stored, once and for all: by a hash of their names."""
        hashes = b''.join(hashlib.blake2b(bytes_of(n), digest_size=8).digest() for n in self.names)
        return np.argsort(np.frombuffer(hashes, '>u8'), kind='stable')


@dataclasses.dataclass
class Catalogue:
    """All that is to be prepared.

    Attributes:
      name: of the data set.
      description: a sentence for its metadata.
      classes: their names, in the order of their labels.
      splits: by name.
      upright: whether images are to be turned as their EXIF data say.
      expected: images that a complete split has, where that is published.
      missing: classes without a training image.
    """

    name: str
    description: str
    classes: list[str]
    splits: dict[str, Entries]
    upright: bool = False
    expected: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        train = self.splits.get('train')
        there = set(train.labels.tolist()) if train else range(len(self.classes))
        self.missing = [name for label, name in enumerate(self.classes) if label not in there]

    def fingerprint(self) -> str:
        """Changes when any image is added, taken away or replaced by one of another size."""
        digest = hashlib.blake2b(digest_size=16)
        for split, entries in sorted(self.splits.items()):
            digest.update(f'{split} {len(entries)} {len(self.classes)} '.encode())
            digest.update(fingerprint(entries.names, entries.labels, entries.where[:, 2]).encode())
        return digest.hexdigest()

    def check_complete(self) -> None:
        """Compares the number of images with what is published.

        Raises:
          UserError: there are fewer, or more, or a class has none.
        """
        partial = 'download it again, or give --partial to prepare what is there'
        if self.missing:
            raise UserError(
                f'{self.splits["train"].files[0]} lacks {len(self.missing)} of '
                f'{len(self.classes)} synsets, {self.missing[0]} among them: {partial}'
            )
        for split, entries in self.splits.items():
            expected = self.expected.get(split, len(entries))
            if len(entries) != expected:
                raise UserError(
                    f'{entries.files[0]} has {len(entries):,} images and {expected:,} are '
                    f'published: {partial}'
                )


def fingerprint(names: list[str], labels: np.ndarray, sizes: np.ndarray) -> str:
    """Of images: by their names, labels and sizes in bytes."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(b'\0'.join(map(bytes_of, names)))
    digest.update(labels.astype('<i4').tobytes() + sizes.astype('<i8').tobytes())
    return digest.hexdigest()


def find(folder: Path, tell: Tell) -> Catalogue:
    """Looks at what a folder of tars holds and lists it.

    Args:
      tell: is called now and then with what has been read.

    Raises:
      UserError: there is nothing known, or a tar is damaged.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is no folder')
    known = {
        'ILSVRC2012_img_*.tar': ilsvrc2012,
        'ILSVRC2010_images_*.tar': ilsvrc2010,
        'n*.tar': synset_tars,
    }
    for pattern, look in known.items():
        if any(folder.glob(pattern)):
            found = look(folder, tell)
            for split, entries in found.splits.items():
                if not len(entries):
                    raise UserError(f'{entries.files[0]} has no images for {split}')
            if found.splits:
                return found
    raise UserError(
        f'{folder} has neither ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, nor '
        'ILSVRC2010_images_*.tar, nor tars of synsets (n01440764.tar ...): give --tars=DIR'
    )


def ilsvrc2012(folder: Path, tell: Tell) -> Catalogue:
    """The challenge of 2012, from the tars that are there of train, val and test."""
    classes = labels_2012()
    splits = {}
    train, val = (folder / f'ILSVRC2012_img_{part}.tar' for part in ('train', 'val'))
    test = next(iter(sorted(folder.glob('ILSVRC2012_img_test*.tar'))), None)
    if train.exists():
        splits['train'] = _tar_of_tars(train, classes, tell)
    if val.exists():
        labels = [classes.index(synset) for synset in validation_2012().values()]
        splits['validation'] = _numbered(val, labels, tell)
    if test:
        splits['test'] = _numbered(test, [], tell)
    return Catalogue(
        'imagenet2012', 'ILSVRC-2012, classes by WordNet id.', classes, splits, False, IMAGES_2012
    )


def ilsvrc2010(folder: Path, tell: Tell) -> Catalogue:
    """The challenge of 2010; meta.mat and the ground truths of its devkit lie beside the tars.

    Its test labels are published: Table 1 of the paper is measured on them.
    """
    ids = _meta(_one(folder, 'meta.mat'))
    classes = sorted(ids.values())
    label = {number: classes.index(synset) for number, synset in ids.items()}
    splits = {}
    train = folder / 'ILSVRC2010_images_train.tar'
    if train.exists():
        splits['train'] = _tar_of_tars(train, classes, tell)
    for split, part in (('validation', 'val'), ('test', 'test')):
        tar = folder / f'ILSVRC2010_images_{part}.tar'
        if tar.exists():
            truth = _one(folder, f'ILSVRC2010_{split}_ground_truth.txt').read_text().split()
            splits[split] = _numbered(tar, [label[int(number)] for number in truth], tell)
    return Catalogue(
        'imagenet2010', 'ILSVRC-2010, classes by WordNet id.', classes, splits, False, IMAGES_2010
    )


def synset_tars(folder: Path, tell: Tell, held_out: int = 50) -> Catalogue:
    """A folder of tars, one a class, any number of them; one image in `held_out` is validated."""
    tars = sorted(folder.glob('n*.tar'))
    classes = [tar.stem for tar in tars]
    every = {split: Entries() for split in ('train', 'validation')}
    for label, tar in enumerate(tars):
        for entries in every.values():
            entries.begin(tar)
        for name, offset, size in members(tar):
            split = 'validation' if _draw(name) % held_out == 0 else 'train'
            every[split].add(name, label, offset, size)
        tell(tar.name, label + 1, len(tars))
    return Catalogue(
        f'synsets_{_safe(folder.name)}',
        f'{len(tars)} synsets of ImageNet; one image in {held_out} is for validation.',
        classes,
        {split: entries for split, entries in every.items() if len(entries)},
    )


def class_folders(folder: Path, held_out: int = 10) -> Catalogue:
    """Images in one folder per class.

    Where `folder` has train/ and val/ (or validation/, or test/), these are the splits; else one
    image in `held_out`, by a hash of its name, is for validation.

    Raises:
      UserError: there are no such folders, or no images in one.
    """
    if not folder.is_dir():
        raise UserError(f'dataset.folder={folder} is no folder')
    halves = [folder / name for name in ('val', 'validation', 'test') if (folder / name).is_dir()]
    ready = (folder / 'train').is_dir() and bool(halves)
    roots = {'train': folder / 'train', 'validation': halves[0]} if ready else {'train': folder}
    classes = sorted(d.name for d in roots['train'].iterdir() if _is_class(d))
    if len(classes) < 2:
        raise UserError(
            f'{roots["train"]} has {len(classes)} folders: one folder of images per class is needed'
        )
    splits = {split: Entries() for split in ('train', 'validation')}
    for split, root in roots.items():
        for label, name in enumerate(classes):
            files = sorted(filter(_is_image, (root / name).rglob('*')))
            if not files:
                raise UserError(f'{root / name} has no images ({", ".join(SUFFIXES)})')
            for file in files:
                key = file.relative_to(root).as_posix()
                part = 'validation' if not ready and _draw(key) % held_out == 0 else split
                splits[part].begin(file)
                splits[part].add(key, label, 0, file.stat().st_size)
    stray = [d.name for root in roots.values() for d in root.iterdir() if _is_class(d)]
    unknown = sorted(set(stray) - set(classes))
    if unknown:
        raise UserError(f'{folder} has a class for validation only: {", ".join(unknown)}')
    for split, entries in splits.items():
        if not len(entries):
            raise UserError(f'{folder} has too few images for a {split} split')
    split_by = 'its own folders' if ready else f'one image in {held_out} for validation'
    path = hashlib.blake2b(bytes_of(str(folder.resolve())), digest_size=4).hexdigest()
    return Catalogue(
        f'folder_{_safe(folder.name)}_{path}',
        f'The images of a folder, {len(classes)} classes; split by {split_by}.',
        classes,
        splits,
        upright=True,
    )


def members(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """The files in a tar: name, first byte (counted in `path`) and length.

    Args:
      start: where in `path` the tar begins, for a tar within a tar.
      end: the first byte after it; None is the end of `path`.

    Raises:
      UserError: this is no tar, or not all of one.
    """
    end = path.stat().st_size if end is None else end
    with open(path, 'rb') as file:
        file.seek(start)
        try:
            tar = tarfile.TarFile(fileobj=file)
            for member in tar:
                if member.offset_data + member.size > end:
                    raise UserError(f'{path} is cut off within {member.name}: download it again')
                if member.isreg():
                    yield member.name, member.offset_data, member.size
                tar.members = []  # pyrefly: ignore[missing-attribute]  # it would keep them all
        except tarfile.TarError as error:
            raise UserError(f'{path} cannot be read at byte {start:,}: {error}') from error
        # The library takes whatever is no header for the end.
        file.seek(tar.offset)
        if tar.offset >= end or file.read(tarfile.BLOCKSIZE).strip(b'\0'):
            raise UserError(f'{path} breaks off at byte {tar.offset:,}: download it again')


def check_md5(folder: Path, tell: Tell) -> list[str]:
    """Compares the tars of a folder with the published MD5 sums; a line on each.

    Raises:
      UserError: one differs.
    """
    lines = []
    for tar in sorted(folder.glob('*.tar')):
        published = MD5_2012.get(tar.name)
        if published is None:
            lines.append(f'{tar.name}: no published MD5 is known here')
            continue
        digest, size, done = hashlib.md5(), tar.stat().st_size, 0
        with open(tar, 'rb') as file:
            while block := file.read(1 << 24):
                digest.update(block)
                done += len(block)
                tell(tar.name, done, size)
        if digest.hexdigest() != published:
            raise UserError(
                f'{tar} has MD5 {digest.hexdigest()}, published is {published}: download it again'
            )
        lines.append(f'{tar.name}: MD5 as published')
    return lines


def labels_2012() -> list[str]:
    """The 1,000 synsets of 2012 in the order of their labels: sorted."""
    return _tfds_lines('labels.txt')


def validation_2012() -> dict[str, str]:
    """The synset of each validation image of 2012, by the image's name."""
    synsets = _tfds_lines('validation_labels.txt')
    return {f'ILSVRC2012_val_{n:08d}.JPEG': synset for n, synset in enumerate(synsets, 1)}


def _tfds_lines(name: str) -> list[str]:
    path = tfds.core.tfds_path(f'datasets/imagenet2012/{name}')
    return path.read_text().split()


def _tar_of_tars(tar: Path, classes: list[str], tell: Tell) -> Entries:
    label = {synset: i for i, synset in enumerate(classes)}
    entries = Entries()
    entries.begin(tar)
    for done, (inner, offset, size) in enumerate(members(tar), 1):
        synset = Path(inner).stem
        if synset not in label:
            raise UserError(f'{tar} has {inner}, which is none of the {len(classes)} classes')
        try:
            for name, at, length in members(tar, offset, offset + size):
                entries.add(name, label[synset], at, length)
        except UserError as error:
            raise UserError(f'{inner} in {first_line(error)}') from error
        tell(tar.name, done, len(classes))
    return entries


def _numbered(tar: Path, labels: list[int], tell: Tell) -> Entries:
    """Images whose name ends in their number, from 1, by which they are labelled."""
    entries = Entries()
    entries.begin(tar)
    for name, offset, size in members(tar):
        number = re.search(r'_(\d+)\.JPEG$', name)
        if number is None or (labels and not 1 <= int(number[1]) <= len(labels)):
            raise UserError(f'{tar} has {name}, which is no image of this split')
        label = labels[int(number[1]) - 1] if labels else NO_LABEL
        entries.add(Path(name).name, label, offset, size)
        if len(entries) % 1000 == 0:
            tell(tar.name, len(entries), len(labels) or len(entries))
    return entries


def _meta(path: Path) -> dict[int, str]:
    """The synsets of a devkit's meta.mat by their number, of the classes that are leaves."""
    from scipy.io import loadmat  # comes with scikit-learn; needed for 2010 only

    synsets = loadmat(path, squeeze_me=True)['synsets']
    numbers, ids = synsets[synsets.dtype.names[0]], synsets['WNID']
    return {int(n): str(synset) for n, synset in zip(numbers, ids, strict=True) if int(n) <= 1000}


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise UserError(f'{folder} lacks {name}: unpack the devkit of the challenge there')
    return found[0]


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith('.')


def _is_image(file: Path) -> bool:
    """By its name; what systems hide (._cat.jpg) is none."""
    hidden = file.name.startswith('.')
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def _draw(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(bytes_of(name), digest_size=4).digest(), 'big')


def bytes_of(name: str) -> bytes:
    """A file's name as the system has it, whatever its encoding."""
    return name.encode('utf-8', 'surrogateescape')


def _safe(name: str) -> str:
    return re.sub(r'\W+', '_', name.lower()).strip('_') or 'images'
