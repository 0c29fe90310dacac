"""Data sets as TFDS finds and prepares them (§2), for any number of processes at once.

TFDS prepares a data set in a folder incomplete.*, which gets its final name when it is complete.
Here one process does so, and the others wait and use the result; what killed preparations have left
is removed, and a damaged data set can be replaced.
"""

import contextlib
import hashlib
import io
import os
import re
import shlex
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import digits as digits  # registers its builder with TFDS
from alexnet_jax.data.preparation import prepared_sets
from alexnet_jax.data.preparation.prepared_sets import remedy
from alexnet_jax.runtime import locks, signals
from alexnet_jax.runtime.paths import check_path, refuse_pattern
from alexnet_jax.runtime.printing import printable, show
from alexnet_jax.runtime.user_errors import UserError, causes, first_line

FORMAT = tfds.core.FileFormat.ARRAY_RECORD  # the only one that allows random access

_STAGING = '.again'  # folder beside the data sets, where they are prepared anew
_OTHER_FOLDER = (
    'choose another folder (--config.dataset.data_dir=DIR, or --data_dir=DIR of '
    'alexnet_jax.prepare)'
)


class UnknownDataSet(UserError):
    """TFDS knows no data set of this name, and none is in the folder of data sets."""


def data_dir(path: str, flag: str = '--config.dataset.data_dir') -> Path:
    """Returns where TFDS keeps data sets: `path`, or $TFDS_DATA_DIR, or ~/tensorflow_datasets.

    Args:
      path: the folder as the user gave it; '' for none.
      flag: the flag or setting that it was given by, for the message.

    Raises:
      UserError: it is not a path on this machine, or one that TFDS takes for a pattern.
    """
    if not path:
        flag, path = '$TFDS_DATA_DIR', os.environ.get('TFDS_DATA_DIR', '')
    folder = check_path(path or '~/tensorflow_datasets', flag)
    refuse_pattern(folder, flag)
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{flag}={folder} is not a folder: choose another one')
    return folder


def find_builder(name: str, folder: str) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of this name, for ArrayRecord.

    Args:
      name: name of the data set.
      folder: where TFDS keeps data sets; '' for its default.

    Raises:
      UserError: TFDS knows no such data set, or it is there and cannot be opened.
    """
    root = data_dir(folder)
    if not name.strip():
        raise UserError("the name of the data set is empty: set one, such as 'digits'")
    try:
        return tfds.builder(name, data_dir=str(root), file_format=FORMAT.value)
    except Exception as error:  # TFDS raises many kinds of errors for names and for damaged files
        raise _opening_error(name, root, error) from error


def _opening_error(name: str, root: Path, error: Exception) -> UserError:
    """Returns the error for a data set that TFDS cannot open, because it is missing or damaged."""
    folder = _newest_version(root, name)
    if folder is not None:
        info = prepared_sets.read_info(folder)
        file_format = info.get('fileFormat', 'tfrecord')
        if info and file_format != FORMAT.value:
            return wrong_format_error(folder, file_format)
        if ':' in name:  # a version
            return UserError(f'{printable(name)} cannot be opened in {root}: {_reason(error)}')
        return UserError(
            f'{folder} cannot be opened ({_reason(error)}): if it is damaged, {remedy(folder)}'
        )
    if isinstance(error, tfds.core.DatasetNotFoundError) or 'Parsing builder name' in str(error):
        return UnknownDataSet(
            f'{name!r} is not a TFDS data set, and none in {root}: {_reason(error)}'
        )
    return UserError(f'{printable(name)} cannot be opened in {root}: {_reason(error)}')


def wrong_format_error(folder: Path, file_format: str) -> UserError:
    """Returns the message about a data set that is not in ArrayRecord."""
    start = f'{folder} is in the format {file_format}; only {FORMAT.value} allows random access'
    if file_format == tfds.core.FileFormat.TFRECORD.value:
        return UserError(
            f'{start}: convert it into another data_dir: {prepared_sets.PROGRAM} '
            f'--tfrecord={shlex.quote(str(folder))} --data_dir=DIR'
        )
    advice = how_to_prepare(folder.parent.name)
    return UserError(f'{start}: prepare the data set again in another data_dir{advice}')


def how_to_prepare(name: str) -> str:
    """Returns the end of a message: how a data set is prepared."""
    if name in INSTRUCTIONS:
        return f': {INSTRUCTIONS[name]}'
    return f': {prepared_sets.PROGRAM} --name={name} --data_dir=DIR'


# What to download and what to run, for data sets that no program may download by itself.
_TARS = (
    'download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org into '
    'DIR, or take a folder or an archive that has ImageNet for DIR, then run: '
    'python -m alexnet_jax.prepare --imagenet=DIR'
)
INSTRUCTIONS = {
    'imagenet2012_256': _TARS,
    'imagenet2012_256_raw': f'{_TARS} --storage=raw',
    'imagenet2012': f'{_TARS} --size=original',
    'imagenet2012_256_lanczos': f'{_TARS} --filter=lanczos',
    'imagenet2012_256_bilinear': f'{_TARS} --filter=bilinear',
    'imagenet2010_256': (
        'put ILSVRC2010_images_train.tar, _val.tar and _test.tar and the unpacked devkit into DIR, '
        'then run: python -m alexnet_jax.prepare --tars=DIR'
    ),
    'synsets_fall2011_256': (
        'put the tars of the synsets (n00004475.tar ...) into a folder named fall2011, then run: '
        'python -m alexnet_jax.prepare --tars=fall2011'
    ),
}


def _newest_version(root: Path, name: str) -> Path | None:
    """Returns the folder of the newest version of a data set that is there; None if none is."""
    parts = name.partition(':')[0].split('/')[:2]
    folder = root.joinpath(*parts)
    if '..' in parts or not parts[0] or not folder.is_dir():
        return None
    versions = [
        path
        for path in folder.iterdir()
        if path.is_dir() and tfds.core.Version.is_valid(path.name) and '*' not in path.name
    ]
    return max(versions, key=lambda path: tfds.core.Version(path.name), default=None)


def _reason(error: BaseException) -> str:
    """Returns the reason of the system behind a library's error, or the error's first line."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return re.sub(r'^Failed to construct dataset .*?}": ', '', first_line(error))[:200]


def prepare(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetBuilder:
    """Prepares a data set with TFDS, or waits for the process that does so already.

    Returns:
      The builder of the prepared data set.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: a package or a download is missing, or the data set cannot be written.
    """
    _refuse_tars(builder.name)
    final = Path(builder.data_dir)
    with _lock(final):
        if builder.is_prepared():  # by the process that this one has waited for
            return tfds.builder_from_directory(str(final))
        if final.exists():
            raise UserError(f'{final} is damaged: {remedy(final)}')
        _download_and_prepare(builder, final)
    return builder


def prepare_again(name: str, folder: str) -> tfds.core.DatasetBuilder:
    """Prepares a data set with TFDS even if it is there, and replaces it when that is complete.

    Args:
      name: name of the data set.
      folder: where TFDS keeps data sets; '' for its default.

    Returns:
      The builder of the prepared data set.

    Raises:
      Stopped: a signal asked this process to stop; the old data set is still there.
      UserError: as for `prepare`; the old data set is still there.
    """
    _refuse_tars(name)
    root = data_dir(folder)
    staging = root / _STAGING / re.sub(r'\W+', '_', name.lower())
    try:  # reads nothing of the data set that may be damaged
        builder = tfds.builder(name, data_dir=str(staging), file_format=FORMAT.value)
    except Exception as error:
        raise UserError(
            f'{printable(name)} cannot be prepared by its name ({_reason(error)})'
        ) from error
    final = root / Path(builder.data_dir).relative_to(staging)
    with _lock(final):
        shutil.rmtree(staging, ignore_errors=True)
        try:
            _download_and_prepare(builder, final, str(root / 'downloads'))
            prepared_sets.replace(final, Path(builder.data_dir))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            with contextlib.suppress(OSError):  # another data set may be prepared there
                staging.parent.rmdir()
    return tfds.builder_from_directory(str(final))


def _refuse_tars(name: str) -> None:
    """Refuses a data set whose tars the user has to download."""
    if name in INSTRUCTIONS:
        raise UserError(f'{name} cannot be prepared by its name: {INSTRUCTIONS[name]}')


@contextlib.contextmanager
def _lock(final: Path) -> Iterator[None]:
    """Locks the folder of a data set's versions, and removes what killed preparations have left."""
    with locks.acquire(final.parent / '.lock', _OTHER_FOLDER, wait=True):
        prepared_sets.restore(final)
        for leftover in final.parent.glob(f'incomplete.*_{final.name}'):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _download_and_prepare(
    builder: tfds.core.DatasetBuilder, final: Path, download_dir: str | None = None
) -> None:
    """Prepares a data set; `final` is where it will be, for the user."""
    name = builder.name
    show(f'preparing {name} in {final}')
    try:
        # TFDS prints several lines; everything that goes wrong comes as an exception.
        with _interruptible(), contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=download_dir, file_format=FORMAT.value)
    except ModuleNotFoundError as error:
        raise UserError(
            f'TFDS needs {error.name} to prepare {name}: pip install {error.name}'
        ) from error
    except (signals.Stopped, UserError):
        raise
    except AssertionError as error:  # how TFDS asks for files to be downloaded manually
        reason = ' '.join(str(error).split())[:500]
        raise UserError(f'{name} cannot be prepared: {reason}') from error
    except Exception as error:  # of a download, a disk, a damaged archive
        raise UserError(
            f'cannot prepare {name} in {final}: {_reason(error)}; if that is a problem of the '
            f'disk, {_OTHER_FOLDER}'
        ) from error


class _Interruption(BaseException):
    """Ends the code of a library, which may catch every Exception."""


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raises Stopped in a block of a library's code soon after a signal asks to stop.

    The library does not check for signals. A thread does, and sends the main thread a signal whose
    handler raises an exception there, also while it waits for a download.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    done, number = threading.Event(), signal.SIGURG
    main = threading.get_ident()
    stopped: list[signals.Stopped] = []

    def watch() -> None:
        while not done.wait(0.2):
            try:
                signals.raise_if_stopped()
            except signals.Stopped as error:
                stopped.append(error)
                signal.pthread_kill(main, number)
                return

    def interrupt(*_: object) -> None:
        if not done.is_set():
            raise _Interruption

    previous = signal.signal(number, interrupt)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            done.set()  # the handler raises nothing from here on
    except _Interruption:
        raise stopped[0] from None
    finally:
        watcher.join()
        signal.signal(number, previous)


def check_features(builder: tfds.core.DatasetBuilder) -> None:
    """Checks that a prepared data set has images and labels, and allows random access.

    Raises:
      UserError: it does not.
    """
    check_images(builder)
    if builder.info.file_format != FORMAT:
        raise wrong_format_error(Path(builder.data_dir), builder.info.file_format.value)


def check_images(builder: tfds.core.DatasetBuilder) -> None:
    """Checks that a data set, in whatever format, has images and labels.

    Raises:
      UserError: it does not.
    """
    features = builder.info.features or {}
    complete = 'image' in features and 'label' in features
    if not complete or not hasattr(features['label'], 'num_classes'):
        raise UserError(
            f'{builder.name} is not a data set of images with a label (its features: '
            f'{", ".join(features)}): choose another one'
        )
    image = features['image']
    raw = getattr(image, 'np_dtype', None) == np.uint8 and len(image.shape or ()) == 3
    if not isinstance(image, tfds.features.Image) and not raw:
        raise UserError(
            f'the images of {builder.name} are stored as {image}, which is not supported: choose '
            'another data set'
        )


def check_class_names(builder: tfds.core.DatasetBuilder) -> None:
    """Checks that the names of the classes are those that were written.

    TFDS numbers the classes where their file is missing, and takes fewer names for fewer classes.

    Raises:
      UserError: they are not.
    """
    folder, features = Path(builder.data_dir), builder.info.features or {}
    source = prepared_sets.read_source(folder)
    if 'label' not in features or not source or source.get('class_names', '') is None:
        return
    label, names_file = features['label'], folder / 'label.labels.txt'
    same = source.get('class_names', hash_names(label.names)) == hash_names(label.names)
    if not same or not names_file.exists() or not names_file.read_text().strip():
        raise UserError(f'{names_file} is missing or damaged: {remedy(folder)}')


def hash_names(names: list[str]) -> str:
    """Returns a hash of the names of classes, in their order."""
    return hashlib.blake2b('\n'.join(names).encode(), digest_size=16).hexdigest()
