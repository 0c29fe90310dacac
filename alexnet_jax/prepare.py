"""Prepares images for training, and checks prepared data sets (§2). TensorFlow is not needed.

    python -m alexnet_jax.prepare --imagenet=PATH
        Prepares ImageNet as you have it: the tars of https://image-net.org, folders train and val,
        Kaggle's zip or its folders, the Hub's parquet files, or shards of WebDataset; a line says
        what was recognized. Archives are not unpacked. Every image is scaled once: its short side
        to 256 pixels, then cropped to the central 256 x 256. If it is stopped, the same command
        resumes; if another process prepares the same data set, it waits for it.
    python -m alexnet_jax.prepare --imagenet=PATH --synsets=FILE
        Prepares a subset: the classes whose WordNet ids FILE lists, one a line.
    python -m alexnet_jax.prepare --imagenet=PATH --size=original
        Keeps the image files as they are, as TFDS's imagenet2012 does, without TensorFlow.
    python -m alexnet_jax.prepare --check
        Checks prepared data sets: counts images and labels, reads every record, decodes a sample.
    python -m alexnet_jax.prepare --name=mnist
        Prepares any TFDS data set of images and labels in the format that training reads.
    python -m alexnet_jax.prepare --tfrecord=DIR --data_dir=OTHER
        Converts a TFDS data set of images and labels that TensorFlow wrote as TFRecord; DIR is its
        folder, NAME/VERSION. The records stay the same, byte for byte, and in their order.
    python -m alexnet_jax.prepare --folder=DIR --size=72
        Prepares a folder of your own images, one folder per class, as training does on first use.
    python -m alexnet_jax.prepare --again --name=mnist
        Prepares a data set anew, for example a damaged one. The old one is replaced when the new
        one is complete. --again may also stand beside --imagenet, --tars and --folder.

--tars=DIR takes tars alone. DIR may also have the tars of ILSVRC-2010 and its unpacked devkit, or
one tar per synset (n01440764.tar ...), as in ImageNet's Fall 2011 release.

Exit codes: 0 success, 1 --check has found faults, 2 a mistake in the command or the data (one line
says which), 75 stopped by a signal.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags

from alexnet_jax.config.schema import BACKGROUNDS
from alexnet_jax.data.images import FILTERS
from alexnet_jax.processes.starting.single import refuse_several
from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

if TYPE_CHECKING:  # the modules are imported in the functions that need them: --help is quick
    from alexnet_jax.data.preparation.catalogue import Catalogue
    from alexnet_jax.data.preparation.storage import Storage

_IMAGENET = flags.DEFINE_string('imagenet', '', 'Folder or archive that has ImageNet.')
_SYNSETS = flags.DEFINE_string(
    'synsets', '', 'File with a WordNet id in each line: the classes of a subset, in this order.'
)
_TARS = flags.DEFINE_string('tars', '', 'Folder with the tars, as downloaded.')
_FOLDER = flags.DEFINE_string('folder', '', 'Folder of your own images, one folder per class.')
_TFRECORD = flags.DEFINE_string(
    'tfrecord', '', 'Folder of a TFDS data set in TFRecord, to convert into --data_dir.'
)
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
_BACKGROUND = flags.DEFINE_enum(
    'background',
    'white',
    list(BACKGROUNDS),
    'What is put behind the transparent pixels of your own images.',
)
_AGAIN = flags.DEFINE_bool(
    'again', False, 'Prepare the data set even if it is there, and replace it when complete.'
)
_VERIFY = flags.DEFINE_bool('verify', False, "Compare the tars' MD5 sums with the published ones.")
_PARTIAL = flags.DEFINE_bool('partial', False, 'Accept fewer images than published.')
_SKIP_BAD = flags.DEFINE_integer(
    'skip_bad', 0, 'Training images that may be left out because they cannot be decoded.', 0
)
_WORKERS = flags.DEFINE_integer('workers', 0, 'Worker processes; 0 for one per core.', 0)
_CHECK = flags.DEFINE_bool('check', False, 'Check prepared data sets: all, or that of --name.')
_SAMPLE = flags.DEFINE_integer(
    'sample', 1000, 'With --check: number of images per split to decode; 0 for all.', 0
)
_NAME = flags.DEFINE_string(
    'name', '', 'Data set for --check, for TFDS to prepare, or for --again to replace.'
)

# Flags that only some ways of preparing have a use for.
_OF_TARS = ('verify', 'partial', 'synsets')
_OF_IMAGES = ('size', 'storage', 'quality', 'filter', 'background')
_OF_WRITING = ('skip_bad', 'workers')


def main(_: Sequence[str]) -> None:
    """Prepares or checks data sets, as the flags say."""
    with report_user_errors(), StopSignal():
        refuse_several('alexnet_jax.prepare')
        _check_combination()
        from alexnet_jax.data.preparation import tfds_sets

        data_dir = tfds_sets.data_dir(_DATA_DIR.value, '--data_dir')
        if _CHECK.value:
            from alexnet_jax.data import dataset_check

            sys.exit(dataset_check.examine(data_dir, _NAME.value, _SAMPLE.value))
        if _TFRECORD.value:
            _convert(check_path(_TFRECORD.value, '--tfrecord'), data_dir)
        elif _NAME.value:
            _prepare_by_name(_NAME.value, data_dir)
        else:
            _prepare_images(_storage(), data_dir, _source())


def _check_combination() -> None:
    """Raises a UserError for flags that do not belong together, or that would have no effect."""
    flag_values = {
        'imagenet': _IMAGENET.value,
        'tars': _TARS.value,
        'folder': _FOLDER.value,
        'name': _NAME.value,
        'tfrecord': _TFRECORD.value,
    }
    chosen = [name for name, value in flag_values.items() if value]
    values = flag_values | {'synsets': _SYNSETS.value}
    if empty := [name for name in values if not values[name] and _is_given(name)]:
        raise UserError(f'--{empty[0]}= is empty: give a value, or leave it out')
    if _CHECK.value:
        useless = (*_OF_TARS, *_OF_IMAGES, *_OF_WRITING, 'again')
        useless = (*useless, 'imagenet', 'tars', 'folder', 'tfrecord')
        context = '--check'
    elif len(chosen) != 1:
        problem = (
            f'--{" and --".join(chosen)} exclude each other' if chosen else 'nothing to prepare'
        )
        raise UserError(
            f'{problem}: pass --imagenet=PATH, --tars=DIR, --name=NAME, --folder=DIR or '
            '--tfrecord=DIR (see --help)'
        )
    else:
        context = f'--{chosen[0]}'
        of_name = (*_OF_TARS, *_OF_IMAGES)
        useless = {
            'imagenet': ('verify', 'background'),
            'tars': ('background',),
            'folder': _OF_TARS,
            'name': of_name,
            'tfrecord': (*of_name, *_OF_WRITING),
        }[chosen[0]]
        if chosen[0] == 'name' and not _AGAIN.value:
            useless = (*useless, *_OF_WRITING)
        elif chosen[0] == 'name':
            useless = tuple(name for name in useless if name != 'partial')
        useless = (*useless, 'sample')
    if idle := [name for name in useless if _is_given(name)]:
        raise UserError(f'--{idle[0]} has no effect with {context}: leave one of them out')


def _is_given(name: str) -> bool:
    return bool(flags.FLAGS[name].present)


def _storage() -> 'Storage':
    from alexnet_jax.data.preparation.storage import Storage

    size = _pixels()
    if not size and _STORAGE.value == 'raw':
        raise UserError(
            '--storage=raw needs a --size in pixels, because all raw images have the same size'
        )
    if not size and _FOLDER.value:
        raise UserError('--folder needs a --size in pixels: that of dataset.image_size')
    return Storage(size, _STORAGE.value == 'raw', _QUALITY.value, _FILTER.value, _BACKGROUND.value)


def _source() -> dict[str, str]:
    """Returns the flags that select the images, and their values."""
    values = {'imagenet': _IMAGENET, 'tars': _TARS, 'folder': _FOLDER, 'synsets': _SYNSETS}
    return {name: flag.value for name, flag in values.items() if flag.value}


def _list_images(source: dict[str, str], bars: ProgressBars) -> 'Catalogue':
    """Lists the images that these flags select, and prints what was read."""
    from alexnet_jax.data.preparation.layouts import imagenet_tars, recognition
    from alexnet_jax.data.preparation.own_images import class_folders

    if 'folder' in source:
        catalogue = class_folders.list_images(check_path(source['folder'], '--folder'))
    else:
        flag = 'tars' if 'tars' in source else 'imagenet'
        path = check_path(source[flag], f'--{flag}')
        file = check_path(source['synsets'], '--synsets') if 'synsets' in source else None
        synsets = recognition.read_synsets(file) if file else []
        if _VERIFY.value:
            for line in imagenet_tars.verify_md5(path, bars.show_bytes):
                bars.print_line(line)
        if flag == 'tars':
            catalogue = recognition.list_tars(path, bars.show_listing, synsets)
        else:
            catalogue = recognition.list_images(path, bars.show_listing, synsets, _PARTIAL.value)
        if file:
            catalogue.source['synsets'] = str(file.resolve())
    for line in catalogue.notes:
        bars.print_line(line)
    if 'folder' not in source:
        if not _PARTIAL.value:
            catalogue.check_complete()
        for split, entries in catalogue.splits.items():
            bars.print_line(
                f'{split}: {len(entries):,} images in {len(catalogue.classes):,} classes'
            )
    return catalogue


def _prepare_images(storage: 'Storage', data_dir: Path, source: dict[str, str]) -> None:
    """Prepares the images that these flags select."""
    from alexnet_jax.data.preparation import writing

    with ProgressBars() as bars:
        catalogue = _list_images(source, bars)
        result = writing.write(
            catalogue,
            storage,
            data_dir,
            _WORKERS.value,
            _SKIP_BAD.value,
            bars.print_line,
            bars.show_preparing,
            _AGAIN.value,
        )
    if result.skipped:
        print(f'left out {len(result.skipped)}: {list_names(result.skipped)}')
    counts = ', '.join(f'{n:,} {split}' for split, n in result.images.items())
    print(f'prepared in {result.folder}: {counts}')
    command = _training_command(catalogue, result.folder.parent.name, storage)
    print(f'train on it: {command}')


def _convert(folder: Path, data_dir: Path) -> None:
    """Converts a data set from TFRecord."""
    from alexnet_jax.data.preparation import prepared_sets
    from alexnet_jax.data.preparation.layouts import tfrecord

    with ProgressBars() as bars:
        final = tfrecord.convert(folder, data_dir, bars, _AGAIN.value)
    images = prepared_sets.read_source(final)['images']
    counts = ', '.join(f'{n:,} {split}' for split, n in images.items())
    print(f'prepared in {final}: {counts}')


def _training_command(catalogue: 'Catalogue', name: str, storage: 'Storage') -> str:
    """Returns the command that trains on a data set."""
    settings, size = {'config': 'ilsvrc2012', 'config.dataset.name': name}, storage.size
    is_own = 'folder' in catalogue.source and not storage.raw and storage.quality == 90
    if is_own:  # the other settings are fitted to the images
        settings = {'config': 'own_images', 'config.dataset.folder': catalogue.source['folder']}
        for setting, value, default in (
            ('resize', storage.filter, 'bicubic'),
            ('background', storage.background, 'white'),
        ):
            if value != default:
                settings[f'config.dataset.{setting}'] = value
    if _DATA_DIR.value:
        settings['config.dataset.data_dir'] = _DATA_DIR.value
    if len(catalogue.classes) != 1000 and not is_own:
        settings['config.dataset.classes'] = str(len(catalogue.classes))
    if is_own or size not in (0, 256):
        settings['config.dataset.image_size'] = str(size)
    if size not in (0, 256) and not is_own:
        settings['config.augmentation.crop'] = 'PIXELS'
    arguments = ' '.join(f'--{flag}={shlex.quote(value)}' for flag, value in settings.items())
    return f'python -m alexnet_jax.main {arguments}'


def _pixels() -> int:
    """Returns the --size in pixels; 0 for the original size."""
    if _SIZE.value == 'original':
        return 0
    if not (_SIZE.value.isascii() and _SIZE.value.isdecimal()) or not 8 <= int(_SIZE.value) <= 1024:
        raise UserError(f"--size={_SIZE.value} must be 'original' or from 8 to 1024 pixels")
    return int(_SIZE.value)


def _prepare_by_name(name: str, data_dir: Path) -> None:
    """Prepares a data set with TFDS, or anew from where its images came from."""
    import tensorflow_datasets as tfds

    from alexnet_jax.data.preparation import prepared_sets, tfds_sets
    from alexnet_jax.data.preparation.storage import Storage

    prepared = prepared_sets.find_prepared(data_dir, name) if _AGAIN.value else None
    if prepared:
        source = prepared_sets.read_source(prepared)
        origin = source.get('source') or {}
        if not origin:
            raise UserError(
                f'{prepared} does not record what it was prepared from: run '
                f'{prepared_sets.command_again(prepared)} with the DIR of the tars'
            )
        if absent := [place for place in origin.values() if not Path(place).exists()]:
            place = absent[0]
            asked = {kind: 'FILE' if kind == 'synsets' else 'DIR' for kind in origin}
            command = prepared_sets.command_of_images(asked, source['storage'], data_dir)
            raise UserError(
                f'{place}, from which {name} was prepared, is gone: run {command} with the DIR of '
                'the images'
            )
        if 'tfrecord' in origin:
            _convert(Path(origin['tfrecord']), data_dir)
            return
        _prepare_images(Storage(**source['storage']), data_dir, origin)
        return
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    if _AGAIN.value:
        builder = tfds_sets.prepare_again(name, str(data_dir))
    else:
        builder = tfds_sets.find_builder(name, str(data_dir))
        if not builder.is_prepared():
            builder = tfds_sets.prepare(builder)
    for split, info in builder.info.splits.items():
        print(f'{split}: {info.num_examples:,} images')
    print(f'prepared in {builder.data_dir}')


if __name__ == '__main__':
    sys.exit(app.run(main, flags_parser=parse_flags))
