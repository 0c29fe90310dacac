"""Prepares images for training, and checks what was prepared (§2). TensorFlow is not needed.

    python -m alexnet_jax.prepare --tars=DIR
        DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, as downloaded from
        https://image-net.org. They are read where they are. Every image is scaled once: its short
        side to 256 pixels, then the central 256 x 256. Stopped, it goes on where it was.
    python -m alexnet_jax.prepare --tars=DIR --size=original
        the images as they are: TFDS's imagenet2012, without TensorFlow
    python -m alexnet_jax.prepare --check
        the doctor: counts, labels, reads every record, decodes a sample
    python -m alexnet_jax.prepare --name=mnist
        any TFDS data set of images and labels, in the format that training reads

DIR may also hold the tars of ILSVRC-2010 with its devkit unpacked, or one tar per synset
(n01440764.tar ...), as ImageNet's Fall 2011 release.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from alexnet_jax.data.images import FILTERS
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

_TARS = flags.DEFINE_string('tars', '', 'Folder of the tars, as downloaded.')
_DATA_DIR = flags.DEFINE_string(
    'data_dir', '', 'Where TFDS keeps data sets. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.'
)
_SIZE = flags.DEFINE_string('size', '256', "Pixels across; 'original' keeps the files as they are.")
_STORAGE = flags.DEFINE_enum(
    'storage',
    'jpeg',
    ['jpeg', 'raw'],
    'raw: pixels; 8 times the disk, loaded 3 times as fast.',
)
_QUALITY = flags.DEFINE_integer('quality', 90, 'Of the JPEGs, 1 to 100.', 1, 100)
_FILTER = flags.DEFINE_enum(
    'filter', 'bicubic', list(FILTERS), "How images are scaled; all but 'nearest' are anti-aliased."
)
_VERIFY = flags.DEFINE_bool('verify', False, "Compare the tars' MD5 with what is published.")
_PARTIAL = flags.DEFINE_bool('partial', False, 'Take tars with fewer images than published.')
_SKIP_BAD = flags.DEFINE_integer(
    'skip_bad', 0, 'Training images that may be left out because they do not decode.', 0
)
_WORKERS = flags.DEFINE_integer('workers', 0, 'Processes; 0 is one per core.', 0)
_CHECK = flags.DEFINE_bool('check', False, 'Check a prepared data set: --name, or all there are.')
_SAMPLE = flags.DEFINE_integer(
    'sample', 1000, 'With --check: images per split to decode; 0 decodes all.', 0
)
_NAME = flags.DEFINE_string('name', '', 'A data set, for --check or to be prepared by TFDS.')


def main(_: Sequence[str]) -> None:
    """Does what the flags say."""
    with report_user_errors():
        from alexnet_jax.data import sources

        data_dir = sources.data_dir(_DATA_DIR.value)
        if _CHECK.value:
            from alexnet_jax.data import dataset_check

            sys.exit(dataset_check.examine(data_dir, _NAME.value, _SAMPLE.value))
        if _TARS.value:
            _from_tars(Path(_TARS.value).expanduser(), data_dir)
        elif _NAME.value:
            _by_tfds(_NAME.value)
        else:
            raise UserError('say what to prepare: --tars=DIR or --name=NAME (--help tells more)')


def _from_tars(tars: Path, data_dir: Path) -> None:
    from alexnet_jax.data import catalogue, writing

    size = _pixels()
    if not size and _STORAGE.value == 'raw':
        raise UserError('--storage=raw needs a --size: pixels of different sizes do not stack')
    storage = writing.Storage(size, _STORAGE.value == 'raw', _QUALITY.value, _FILTER.value)
    with ProgressBars() as bars:
        if _VERIFY.value:
            for line in catalogue.check_md5(tars, bars.show_bytes):
                bars.print_line(line)
        found = catalogue.find(tars, bars.show_listing)
        if not _PARTIAL.value:
            found.check_complete()
        for split, entries in found.splits.items():
            bars.print_line(f'{split}: {len(entries):,} images in {len(found.classes):,} classes')
        result = writing.write(
            found,
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
    print(f'train on it: {_training(result.folder.parent.name, len(found.classes), size)}')


def _training(name: str, classes: int, size: int) -> str:
    """The command that trains on a data set."""
    given = {'config': 'configs/ilsvrc2012.py', 'config.dataset.name': name}
    if _DATA_DIR.value:
        given['config.dataset.data_dir'] = _DATA_DIR.value
    if classes != 1000:
        given['config.dataset.classes'] = str(classes)
    if size not in (0, 256):
        given |= {'config.dataset.image_size': str(size), 'config.augmentation.crop': 'PIXELS'}
    spelled = ' '.join(f'--{flag}={value}' for flag, value in given.items())
    return f'python -m alexnet_jax.main {spelled}'


def _pixels() -> int:
    if _SIZE.value == 'original':
        return 0
    if not _SIZE.value.isdigit() or not 8 <= int(_SIZE.value) <= 1024:
        raise UserError(f"--size={_SIZE.value} must be 'original' or pixels from 8 to 1024")
    return int(_SIZE.value)


def _by_tfds(name: str) -> None:
    from alexnet_jax.data import sources

    builder = sources.find_builder(name, _DATA_DIR.value)
    if not builder.is_prepared():
        sources.prepare(builder)
    for split, info in builder.info.splits.items():
        print(f'{split}: {info.num_examples:,} images')
    print(f'prepared in {builder.data_dir}')


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
