"""Flags of programs that use a run whose images have moved since the training."""

from absl import flags

from alexnet_jax.runtime.paths import BUCKET, check_path
from alexnet_jax.runtime.user_errors import UserError

_DATA_DIR = flags.DEFINE_string(
    'data_dir', None, 'Folder of the TFDS data sets, if they have moved since the training.'
)
_FOLDER = flags.DEFINE_string(
    'folder',
    None,
    'Folder of images that the run was trained on, if it has moved since the training.',
)


def places() -> dict[str, str]:
    """Returns the new places of a run's images, by the names of the settings `dataset`.

    Raises:
      UserError: a folder is not there: data sets are prepared only where a run was trained.
    """
    flag_values = {'data_dir': _DATA_DIR.value, 'folder': _FOLDER.value}
    values = {name: value for name, value in flag_values.items() if value is not None}
    for name, value in values.items():
        if name == 'data_dir' and BUCKET.match(value):
            continue
        if not check_path(value, f'--{name}').is_dir():
            raise UserError(f'--{name}={value} is not a folder: give the place of the images')
    return values
