"""Uses data sets that an earlier version of this program split, so that their runs can resume."""

import dataclasses
from pathlib import Path

from alexnet_jax.data.preparation.catalogue import Catalogue
from alexnet_jax.data.preparation.own_images.description import count_classes
from alexnet_jax.data.preparation.prepared_sets import command_of_images, read_source
from alexnet_jax.data.preparation.storage import VERSION, Storage
from alexnet_jax.runtime.printing import list_names


def prefer_prepared(
    catalogue: Catalogue, storage: Storage, data_dir: Path
) -> tuple[Catalogue, str]:
    """Returns the catalogue of a data set that is prepared, if only its splits are of earlier days.

    Args:
      catalogue: the images of a folder, as they are split now.
      storage: how they are stored.
      data_dir: where TFDS keeps data sets.

    Returns:
      The catalogue, or the one with the earlier splits; and a line for the user about those, or ''.
    """
    earlier = catalogue.earlier
    if earlier is None:
        return catalogue, ''
    sources = [read_source(folder) for folder in data_dir.glob(f'folder_*/{VERSION}')]
    form = dataclasses.asdict(storage)
    fingerprints = {x['fingerprint'] for x in sources if x and x['storage'] == form}
    if catalogue.fingerprint() in fingerprints or earlier.fingerprint() not in fingerprints:
        return catalogue, ''
    counts = count_classes(earlier.splits['validation'], len(earlier.classes))
    unvalidated = [name for name, count in zip(earlier.classes, counts, strict=True) if not count]
    command = command_of_images(catalogue.source, form, data_dir)
    return earlier, (
        f'these images were split by an earlier version: classes without a validation image are '
        f'{list_names(unvalidated, 3)}; to split them again, for new runs: {command}'
    )
