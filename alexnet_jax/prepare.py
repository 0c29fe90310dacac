"""Prepares a TFDS data set in the format that training reads, ArrayRecord (§2).

    python -m alexnet_jax.prepare --name=imagenet2012 --tars=DIR
        DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, as downloaded from
        https://image-net.org. TFDS's own builder for it needs TensorFlow: pip install tensorflow

The images keep their size; training scales them each time they are read.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging

from alexnet_jax.errors import UserError, one_line

_NAME = flags.DEFINE_string('name', None, 'Name of the TFDS data set.', required=True)
_TARS = flags.DEFINE_string('tars', '', 'Folder of the files that were downloaded by hand.')
_DATA_DIR = flags.DEFINE_string(
    'data_dir', '', 'Where TFDS keeps data sets. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.'
)


def main(_: Sequence[str]) -> None:
    """Prepares, or says that it is done already."""
    from alexnet_jax import datasets

    with one_line():
        builder = datasets.find_builder(_NAME.value, _DATA_DIR.value)
        if not builder.is_prepared():
            datasets.prepare(builder, _TARS.value)
        for name, split in builder.info.splits.items():
            print(f'{name}: {split.num_examples:,} images')
        print(f'prepared in {builder.data_dir}')


def _parse(arguments: list[str]) -> list[str]:
    with one_line():
        logging.set_verbosity(logging.FATAL)  # errors come as exceptions
        try:
            return flags.FLAGS(arguments)
        except flags.Error as error:
            raise UserError(str(error)) from error


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=_parse))
