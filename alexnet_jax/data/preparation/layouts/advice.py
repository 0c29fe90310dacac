"""Says so where a folder of a user's own images is really ImageNet (§2)."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.data.preparation.layouts.image_names import SYNSET
from alexnet_jax.data.preparation.layouts.image_trees import find_root
from alexnet_jax.data.preparation.prepared_sets import PROGRAM
from alexnet_jax.runtime.user_errors import UserError


def end_of_error(folder: Path) -> str:
    """Returns the end of an error about a folder, which names the program for ImageNet; '' if none.

    The validation images of ImageNet may all lie in one folder, which is refused as a folder of
    classes.
    """
    place = _imagenet_at(folder)
    return f'; but this is ImageNet: {_command(place)}' if place else ''


def notes_on_classes(classes: Sequence[str], folder: Path) -> list[str]:
    """Returns a line that names the program for ImageNet, if a folder has classes of ImageNet."""
    if not all(SYNSET.fullmatch(name) for name in classes):
        return []
    place = _imagenet_at(folder) or _imagenet_at(folder.absolute().parent)
    if not place:
        return []
    return [
        'these are classes of ImageNet, read as images of your own; to have them with the '
        f'published names and labels, {_command(place)}'
    ]


def _imagenet_at(folder: Path) -> Path | None:
    """Returns the folder if ImageNet is there: as folders, or as the tars of image-net.org."""
    try:
        if folder.is_dir() and next(folder.glob('ILSVRC2012_img_*.tar'), None):
            return folder
        return folder if folder.is_dir() and find_root(folder) else None
    except (OSError, UserError):
        return None


def _command(folder: Path) -> str:
    return (
        f'run {PROGRAM} --imagenet={shlex.quote(str(folder))} and then the command that it prints'
    )
