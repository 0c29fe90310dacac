"""Says so where a folder of a user's own images is really ImageNet (§2)."""

import functools
import shlex
from collections.abc import Callable
from pathlib import Path

from alexnet_jax.data.preparation.catalogue import Catalogue
from alexnet_jax.data.preparation.layouts.image_names import SYNSET
from alexnet_jax.data.preparation.layouts.image_trees import find_root
from alexnet_jax.data.preparation.prepared_sets import PROGRAM
from alexnet_jax.runtime.user_errors import UserError


def mention_imagenet(list_images: Callable[..., Catalogue]) -> Callable[..., Catalogue]:
    """Returns a function that lists a folder, and names the program for ImageNet where it is that.

    Args:
      list_images: takes the folder first. If it cannot read a folder of ImageNet (whose validation
        images may all lie in one folder), its error names the program; if it can, a note does.
    """

    @functools.wraps(list_images)
    def list_or_advise(folder: Path, *arguments: object, **options: object) -> Catalogue:
        try:
            catalogue = list_images(folder, *arguments, **options)
        except UserError as error:
            if place := _imagenet_at(folder):
                raise UserError(f'{error}; but this is ImageNet: {_command(place)}') from error
            raise
        if all(SYNSET.fullmatch(name) for name in catalogue.classes):
            place = _imagenet_at(folder) or _imagenet_at(folder.absolute().parent)
            if place:
                catalogue.notes.append(
                    'these are classes of ImageNet, read as images of your own; to have them with '
                    f'the published names and labels, {_command(place)}'
                )
        return catalogue

    return list_or_advise


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
