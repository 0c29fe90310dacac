"""Prepares images for training, and checks prepared data sets (§2). TensorFlow is not needed.

    python -m alexnet_jax.prepare --tars=DIR
        Prepares ImageNet. DIR has ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, as
        downloaded from https://image-net.org; they are read in place. Every image is scaled once:
        its short side to 256 pixels, then cropped to the central 256 x 256. If it is stopped, the
        same command resumes.
    python -m alexnet_jax.prepare --tars=DIR --size=original
        Keeps the image files as they are, as TFDS's imagenet2012 does, without TensorFlow.
    python -m alexnet_jax.prepare --check
        Checks prepared data sets: counts images and labels, reads every record, decodes a sample.
    python -m alexnet_jax.prepare --name=mnist
        Prepares any TFDS data set of images and labels in the format that training reads.

DIR may also have the tars of ILSVRC-2010 and its unpacked devkit, or one tar per synset
(n01440764.tar ...), as in ImageNet's Fall 2011 release.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.data.images import FILTERS
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

_TARS = flags.DEFINE_string('tars', '', 'Folder with the tars, as downloaded.')
_DATA_DIR = flags.DEFINE_string(
    'data_dir',
    '',
    'Folder where TFDS keeps data sets. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.',
)
_SIZE = flags.DEFINE_string(
    'size', '256', "Pixels across an image, 8 to 1024; 'original' keeps the files as they are."
)
_STORAGE = flags.DEFINE_enum(
    'storage',
    'jpeg',
    ['jpeg', 'raw'],
    'How images are stored. raw: as pixels, which need 8 times the disk and load 3 times as fast.',
)
_QUALITY = flags.DEFINE_integer('quality', 90, 'JPEG quality, 1 to 100.', 1, 100)
_FILTER = flags.DEFINE_enum(
    'filter',
    'bicubic',
    list(FILTERS),
    "Filter that scales images; all but 'nearest' are anti-aliased.",
)
_VERIFY = flags.DEFINE_bool('verify', False, "Compare the tars' MD5 sums with the published ones.")
_PARTIAL = flags.DEFINE_bool('partial', False, 'Accept tars with fewer images than published.')
_SKIP_BAD = flags.DEFINE_integer(
    'skip_bad', 0, 'Training images that may be left out because they cannot be decoded.', 0
)
_WORKERS = flags.DEFINE_integer('workers', 0, 'Worker processes; 0 for one per core.', 0)
_CHECK = flags.DEFINE_bool('check', False, 'Check prepared data sets: all, or that of --name.')
_SAMPLE = flags.DEFINE_integer(
    'sample', 1000, 'With --check: number of images per split to decode; 0 for all.', 0
)
_NAME = flags.DEFINE_string('name', '', 'Data set for --check, or for TFDS to prepare.')


def main(_: Sequence[str]) -> None:
    """Prepares or checks data sets, as the flags say."""
    with report_user_errors():
        from alexnet_jax.data import sources

        data_dir = sources.data_dir(_DATA_DIR.value)
        if _CHECK.value:
            from alexnet_jax.data import dataset_check

            sys.exit(dataset_check.examine(data_dir, _NAME.value, _SAMPLE.value))
        if _TARS.value:
            _prepare_from_tars(Path(_TARS.value).expanduser(), data_dir)
        elif _NAME.value:
            _prepare_with_tfds(_NAME.value)
        else:
            raise UserError('nothing to prepare: pass --tars=DIR or --name=NAME (see --help)')


def _prepare_from_tars(tars: Path, data_dir: Path) -> None:
    from alexnet_jax.data.preparation import imagenet, writing
    from alexnet_jax.data.preparation.storage import Storage

    size = _pixels()
    if not size and _STORAGE.value == 'raw':
        raise UserError(
            '--storage=raw needs a --size in pixels, because all raw images have the same size'
        )
    storage = Storage(size, _STORAGE.value == 'raw', _QUALITY.value, _FILTER.value)
    with ProgressBars() as bars:
        if _VERIFY.value:
            for line in imagenet.verify_md5(tars, bars.show_bytes):
                bars.print_line(line)
        catalogue = imagenet.list_images(tars, bars.show_listing)
        if not _PARTIAL.value:
            catalogue.check_complete()
        for split, entries in catalogue.splits.items():
            bars.print_line(
                f'{split}: {len(entries):,} images in {len(catalogue.classes):,} classes'
            )
        result = writing.write(
            catalogue,
            storage,
            data_dir,
            _WORKERS.value,
            _SKIP_BAD.value,
            bars.print_line,
            bars.show_preparing,
        )
    for name in result.skipped:
        print(f'left out: {name}')
    counts = ', '.join(f'{n:,} {split}' for split, n in result.images.items())
    print(f'prepared in {result.folder}: {counts}')
    name, classes = result.folder.parent.name, len(catalogue.classes)
    print(f'train on it: {_training_command(name, classes, size)}')


def _training_command(name: str, classes: int, size: int) -> str:
    """Returns the command that trains on a data set."""
    settings = {'config': 'ilsvrc2012', 'config.dataset.name': name}
    if _DATA_DIR.value:
        settings['config.dataset.data_dir'] = _DATA_DIR.value
    if classes != 1000:
        settings['config.dataset.classes'] = str(classes)
    if size not in (0, 256):
        settings |= {'config.dataset.image_size': str(size), 'config.augmentation.crop': 'PIXELS'}
    arguments = ' '.join(f'--{flag}={value}' for flag, value in settings.items())
    return f'python -m alexnet_jax.main {arguments}'


def _pixels() -> int:
    """Returns the --size in pixels; 0 for the original size."""
    if _SIZE.value == 'original':
        return 0
    if not _SIZE.value.isdigit() or not 8 <= int(_SIZE.value) <= 1024:
        raise UserError(f"--size={_SIZE.value} must be 'original' or from 8 to 1024 pixels")
    return int(_SIZE.value)


def _prepare_with_tfds(name: str) -> None:
    from alexnet_jax.data import sources

    builder = sources.find_builder(name, _DATA_DIR.value)
    if not builder.is_prepared():
        sources.prepare(builder)
    for split, info in builder.info.splits.items():
        print(f'{split}: {info.num_examples:,} images')
    print(f'prepared in {builder.data_dir}')


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
