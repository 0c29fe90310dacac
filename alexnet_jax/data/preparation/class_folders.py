"""Catalogues of a user's own images: one folder of images per class (§2)."""

from pathlib import Path

from alexnet_jax.data.preparation.catalogue import (
    Catalogue,
    Entries,
    hex_hash,
    is_held_out,
    to_identifier,
)
from alexnet_jax.runtime.user_errors import UserError

SUFFIXES = ('.jpeg', '.jpg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff')


def list_images(folder: Path, held_out: int = 10) -> Catalogue:
    """Lists the images of a folder that has one folder per class.

    Args:
      folder: has the class folders; or has train/ and one of val/, validation/ and test/, which
        have them and are then the two splits.
      held_out: where `folder` has no such splits, one image in so many is for validation, chosen
        by a hash of its name.

    Raises:
      UserError: there are fewer than two class folders, or one has no images, or a split has none.
    """
    if not folder.is_dir():
        raise UserError(f'dataset.folder={folder} is not a folder')
    roots = _split_roots(folder)
    separate = 'validation' in roots
    classes = _class_names(folder, roots)
    splits = {split: Entries() for split in ('train', 'validation')}
    for split, root in roots.items():
        for label, name in enumerate(classes):
            for file in _image_files(root / name):
                key = file.relative_to(root).as_posix()
                part = 'validation' if not separate and is_held_out(key, held_out) else split
                splits[part].start_file(file)
                splits[part].add(key, label, 0, file.stat().st_size)
    for split, entries in splits.items():
        if not len(entries):
            raise UserError(f'{folder} has too few images for a {split} split: add images')
    split_by = 'its own folders' if separate else f'one image in {held_out} for validation'
    return Catalogue(
        name=f'folder_{to_identifier(folder.name)}_{hex_hash(str(folder.resolve()))}',
        description=f'The images of a folder, {len(classes)} classes; split by {split_by}.',
        classes=classes,
        splits=splits,
        upright=True,
    )


def _split_roots(folder: Path) -> dict[str, Path]:
    """Returns, for each split, the folder of its class folders; 'train' if there are no splits."""
    validation = [folder / name for name in ('val', 'validation', 'test')]
    validation = [root for root in validation if root.is_dir()]
    if validation and (folder / 'train').is_dir():
        return {'train': folder / 'train', 'validation': validation[0]}
    return {'train': folder}


def _class_names(folder: Path, roots: dict[str, Path]) -> list[str]:
    """Returns the classes: the folders of the training split, sorted."""
    classes = sorted(path.name for path in roots['train'].iterdir() if _is_class(path))
    if len(classes) < 2:
        raise UserError(
            f'{roots["train"]} has {len(classes)} class folders: it needs two or more, each with '
            'the images of one class'
        )
    names = {path.name for root in roots.values() for path in root.iterdir() if _is_class(path)}
    if untrained := sorted(names - set(classes)):
        raise UserError(
            f'{folder} has classes without training images: {", ".join(untrained)}; add training '
            'images, or move their validation images away'
        )
    return classes


def _image_files(folder: Path) -> list[Path]:
    files = sorted(filter(_is_image, folder.rglob('*')))
    if not files:
        raise UserError(
            f'{folder} has no images ({", ".join(SUFFIXES)}): add images, or move the folder away'
        )
    return files


def _is_class(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith('.')


def _is_image(file: Path) -> bool:
    """Judges by the name; hidden files (._cat.jpg) are not images."""
    hidden = file.name.startswith('.')
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()
