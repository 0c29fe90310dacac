"""Writes a TFDS data set in ArrayRecord from a catalogue: on every core, to be gone on with.

While it is being written the data set is the hidden folder `.VERSION.incomplete` beside its later
place. A shard has a name of its own there only once it is whole, and its record (what it counted,
which images it left out) only after it; a restart keeps the shards that have one. The folder gets
its real name last, so what TFDS finds is always complete.

Images are stored in the order of a hash of their names. Which image is in which record is so a
function of the catalogue alone, whoever writes it and however often that was cut short.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import images, pixel_statistics
from alexnet_jax.data.catalogue import Catalogue, Entries, bytes_of, fingerprint
from alexnet_jax.runtime import atomic_files, cpu_devices, locks
from alexnet_jax.runtime.user_errors import UserError, first_line

VERSION = '5.1.0'  # of TFDS's imagenet2012, whose features and classes the original size keeps
STATISTICS_SIZE = 256  # pixels across, where the images are kept as they are
MOST_SHARDS = 256  # per split: a reader keeps them all open
LEAST_IN_A_SHARD = 500
SPARE = 1 << 30  # bytes of disk to leave free
SOURCE = 'prepared.json'  # in the data set's folder: from what it was made
_RECORDS = '.records'  # while it is being written


@dataclasses.dataclass(frozen=True)
class Storage:
    """How images are kept.

    Attributes:
      size: pixels across of the square they become; 0 keeps the files as they are.
      raw: as uint8 pixels, not as a JPEG.
      quality: of the JPEG, 1 to 100.
      filter: one of images.FILTERS.
    """

    size: int = 256
    raw: bool = False
    quality: int = 90
    filter: str = 'bicubic'

    def name(self, source: str) -> str:
        """The data set's name: what differs from the defaults is in it."""
        if not self.size:
            return source
        parts = [source, str(self.size), 'raw' if self.raw else '']
        parts.append('' if self.raw or self.quality == Storage.quality else f'q{self.quality}')
        parts.append('' if self.filter == Storage.filter else self.filter)
        return '_'.join(part for part in parts if part)

    def features(self, classes: list[str]) -> tfds.features.FeaturesDict:
        """Of a record; for the original size those of TFDS's imagenet2012."""
        shape = (self.size, self.size, 3) if self.size else (None, None, 3)
        image = (
            tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
            if self.raw
            else tfds.features.Image(shape=shape, encoding_format='jpeg')
        )
        label = tfds.features.ClassLabel(names=classes)
        return tfds.features.FeaturesDict(
            {'image': image, 'label': label, 'file_name': tfds.features.Text()}
        )


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One worker's task."""

    split: str
    path: Path  # of the ArrayRecord file, complete
    names: list[str]
    labels: np.ndarray
    files: list[str]
    where: np.ndarray
    classes: list[str]
    storage: Storage
    upright: bool
    count: bool  # its pixels, for the statistics
    skip: bool  # images that cannot be decoded

    @property
    def record(self) -> Path:
        """The file whose presence says that the shard is complete."""
        return self.path.parent / _RECORDS / f'{self.path.name}.npz'

    def fingerprint(self) -> str:
        """Of its images and how they are kept; what differs is written again."""
        images = fingerprint(self.names, self.labels, self.where[:, 2])
        return f'{images} {self.storage} {self.upright}'


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written.

    Attributes:
      folder: of the data set.
      images: per split.
      skipped: names of images that could not be decoded and were left out.
    """

    folder: Path
    images: dict[str, int]
    skipped: list[str]


Progress = Callable[[int, int], None]  # images done, of how many


def folder_of(data_dir: Path, catalogue: Catalogue, storage: Storage) -> Path:
    """Where the data set is once it is complete."""
    return data_dir / storage.name(catalogue.name) / VERSION


def write(
    catalogue: Catalogue,
    storage: Storage,
    data_dir: Path,
    workers: int,
    skip_bad: int,
    say: Callable[[str], None],
    progress: Progress,
) -> Result:
    """Writes what is missing of a data set.

    Args:
      workers: processes; 0 is one per core.
      skip_bad: training images that may be left out because they cannot be decoded.
      say: is told what is about to happen.
      progress: is called with every image or twice a second.

    Raises:
      UserError: an image is bad, the disk is too small, another process writes the same, or it is
        there already, made from something else.
    """
    final = folder_of(data_dir, catalogue, storage)
    unfinished = final.with_name(f'.{VERSION}.incomplete')
    with locks.acquire(final.parent / '.lock', 'choose another --data_dir'):
        if final.exists():
            say(f'prepared already in {final}')
            return _existing(final, catalogue)
        shards = list(_shards(unfinished, catalogue, storage, skip_bad > 0))
        _begin(unfinished, shards)
        todo = [shard for shard in shards if _Record.load(shard) is None]
        total = sum(len(shard.names) for shard in shards)
        done = total - sum(len(shard.names) for shard in todo)
        if done:
            say(f'going on after {done:,} of {total:,} images')
        _check_disk(todo, storage, data_dir, say)
        _run(todo, workers or cpu_devices.processor_count(), lambda n: progress(done + n, total))
        return _finish(unfinished, final, catalogue, storage, shards, skip_bad)


def _existing(folder: Path, catalogue: Catalogue) -> Result:
    """What was prepared before, if it was from the same images.

    Raises:
      UserError: it was not, or not by this program.
    """
    shutil.rmtree(folder / _RECORDS, ignore_errors=True)  # a kill may have left it
    try:
        known = json.loads((folder / SOURCE).read_text())
        then, same = known['images'], known['fingerprint'] == catalogue.fingerprint()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f'{folder} was not written by alexnet_jax.prepare: train on it as it is, or choose '
            'another --data_dir'
        ) from error
    if not same:
        now = sum(map(len, catalogue.splits.values()))
        raise UserError(
            f'{folder} was prepared from other images ({sum(then.values()):,} then, {now:,} now): '
            'delete it to prepare it again'
        )
    return Result(folder, then, known['skipped'])


@dataclasses.dataclass(frozen=True)
class _Record:
    """Of a complete shard: how many images, which left out, what was counted."""

    images: int
    skipped: list[str]
    sums: pixel_statistics.Sums | None

    def save(self, shard: _Shard) -> None:
        values: dict[str, Any] = {'images': self.images, 'skipped': np.array(self.skipped, 'U')}
        if self.sums:
            values |= {'pixels_HWC': self.sums.pixels_HWC, 'products': self.sums.products}
        try:
            with atomic_files.replace(shard.record) as partial, partial.open('wb') as file:
                np.savez(file, fingerprint=shard.fingerprint(), **values)
        except OSError as error:
            raise UserError(f'cannot write {shard.record}: {error}') from error

    @classmethod
    def load(cls, shard: _Shard) -> '_Record | None':
        """None unless the shard was completed, from the same images."""
        try:
            with shard.record.open('rb') as opened, np.load(opened, allow_pickle=False) as file:
                if file['fingerprint'] != shard.fingerprint():
                    return None
                images, skipped = int(file['images']), [str(name) for name in file['skipped']]
                counted = (file['pixels_HWC'], file['products']) if 'products' in file else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return cls(images, skipped, pixel_statistics.Sums(images, *counted) if counted else None)


def _begin(unfinished: Path, shards: list[_Shard]) -> None:
    """Makes the folder, or removes from it what is not of these shards or not whole."""
    (unfinished / _RECORDS).mkdir(parents=True, exist_ok=True)
    ours = {shard.path for shard in shards}
    for left in unfinished.iterdir():
        if left.is_file() and left not in ours:
            left.unlink(missing_ok=True)


def _shards(
    unfinished: Path, catalogue: Catalogue, storage: Storage, skip: bool
) -> Iterator[_Shard]:
    name = storage.name(catalogue.name)
    for split, entries in catalogue.splits.items():
        order, labels, where = entries.shuffled(), entries.labels, entries.where
        shards = max(1, min(MOST_SHARDS, len(order) // LEAST_IN_A_SHARD))
        parts = np.array_split(order, shards)
        for number, part in enumerate(parts):
            file = f'{name}-{split}.array_record-{number:05d}-of-{len(parts):05d}'
            yield _Shard(
                split=split,
                path=unfinished / file,
                names=[entries.names[i] for i in part],
                labels=labels[part],
                **_only(entries, where[part]),
                classes=catalogue.classes,
                storage=storage,
                upright=catalogue.upright,
                count=split == 'train',
                skip=skip and split == 'train',
            )


def _only(entries: Entries, where: np.ndarray) -> dict[str, Any]:
    """The files these images lie in; the others need not travel to the worker."""
    used, index = np.unique(where[:, 0], return_inverse=True)
    return {
        'files': [entries.files[i] for i in used],
        'where': np.column_stack([index, where[:, 1:]]),
    }


def _check_disk(
    todo: list[_Shard], storage: Storage, data_dir: Path, say: Callable[[str], None]
) -> None:
    """Says how much will be written, and refuses what does not fit."""
    if not todo:
        return
    if storage.size and storage.raw:
        each = storage.size**2 * 3 + 100.0
    elif storage.size:
        each = _sampled_size(todo)
    else:
        each = float(np.concatenate([shard.where[:, 2] for shard in todo]).mean()) + 100
    sums = (storage.size or STATISTICS_SIZE) ** 2 * 24 * len(todo)  # of the pixels, for a while
    need = int(each * sum(len(shard.names) for shard in todo)) + sums
    free = shutil.disk_usage(data_dir).free
    say(f'about {need / 1e9:,.1f} GB to write in {data_dir}, {free / 1e9:,.1f} GB free')
    if need + SPARE > free:
        raise UserError(
            f'{data_dir} has {free / 1e9:,.1f} GB free and about {(need + SPARE) / 1e9:,.1f} GB '
            'are needed: make room, or choose another --data_dir'
        )


def _sampled_size(todo: list[_Shard], samples: int = 32) -> float:
    """Mean size in bytes of a stored JPEG, from a few."""
    sizes = []
    for i in np.linspace(0, len(todo) - 1, samples).astype(int):
        shard = todo[i]
        row = len(sizes) * len(shard.names) // samples
        with _Files(shard.files) as opened:
            try:
                sizes.append(len(_stored(shard, opened.read(*shard.where[row]))[0]))
            except images.BadImage:
                continue  # it will be met again, where it counts
    return float(np.mean(sizes or [30_000])) + 100


def _run(todo: list[_Shard], workers: int, progress: Callable[[int], None]) -> None:
    """Writes shards, in processes if that is worth their start."""
    if not todo:
        return
    if workers == 1 or len(todo) == 1:
        written = itertools.count(1)
        for shard in todo:
            _write_shard(shard, lambda: progress(next(written)))
        return
    context = multiprocessing.get_context('spawn')  # fork does not go with JAX's threads
    done, stop = context.Value('q', 0), context.Value('b', 0)
    executor = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(todo)), context, _begin_worker, (done, stop, os.getpid())
    )
    try:
        with _as_workers_are_to_be():
            running = {executor.submit(_work, shard) for shard in todo}
        while running:
            ready, running = concurrent.futures.wait(
                running, 0.5, concurrent.futures.FIRST_COMPLETED
            )
            progress(done.value)
            for future in ready:
                future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise UserError(
            'a worker process died (out of memory?): the same command goes on; --workers=N takes '
            'fewer'
        ) from error
    finally:
        stop.value = 1
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _as_workers_are_to_be() -> Iterator[None]:
    """What processes that are started now inherit: no Ctrl-C, and one thread for scaling each."""
    before = os.environ.get('RAYON_NUM_THREADS')
    os.environ['RAYON_NUM_THREADS'] = '1'
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        if before is None:
            del os.environ['RAYON_NUM_THREADS']
        else:
            os.environ['RAYON_NUM_THREADS'] = before


_worker: dict[str, Any] = {}  # what a worker process shares with its parent


def _begin_worker(done: Any, stop: Any, parent: int) -> None:
    """In a new worker: ends if the parent is killed."""
    _worker.update(done=done, stop=stop)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(shard: _Shard) -> None:
    def count_one() -> None:
        if _worker['stop'].value:
            raise UserError('stopped')
        with _worker['done'].get_lock():
            _worker['done'].value += 1

    _write_shard(shard, count_one)


def _write_shard(shard: _Shard, count_one: Callable[[], None]) -> None:
    """Writes one file of records and then its own record, each under its name once it is whole."""
    size = shard.storage.size or STATISTICS_SIZE
    sums = pixel_statistics.Sums.of_none(size) if shard.count else None
    skipped = []
    with atomic_files.replace(shard.path) as partial:
        writer = _Writer(partial)
        with _Files(shard.files) as opened:
            for name, label, where in zip(shard.names, shard.labels, shard.where, strict=True):
                try:
                    stored, pixels_HWC = _stored(shard, opened.read(*where))
                except images.BadImage as error:
                    if not shard.skip:
                        raise UserError(_bad(shard.files[where[0]], name, error)) from error
                    skipped.append(name)
                    continue
                writer.write(stored, int(label), name)
                if sums is not None:
                    sums.add(pixels_HWC)
                count_one()
        writer.close()
    _Record(len(shard.names) - len(skipped), skipped, sums).save(shard)


def _bad(file: str, name: str, error: images.BadImage) -> str:
    where = file if file.endswith(name) else f'{name} in {file}'
    return f'{where}: {error}; mend or replace it, or allow N bad training images: --skip_bad=N'


def _stored(shard: _Shard, data: bytes) -> tuple[bytes, np.ndarray]:
    """What is kept of an image, and its square of pixels."""
    storage = shard.storage
    if storage.size:
        square = images.square(data, storage.size, storage.filter, shard.upright)
        return square.tobytes() if storage.raw else images.encode(square, storage.quality), square
    whole = images.decode(data)  # a file that does not decode is found now, not in the training
    square = images.central_square(whole, STATISTICS_SIZE, storage.filter)
    plain = images.is_plain_jpeg(data)
    return data if plain else images.encode(whole, quality=100), square


class _Writer:
    """An ArrayRecord file whose errors name it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._named():
            # JPEGs do not shrink further, and raw pixels are wanted fast.
            self._file = array_record_module.ArrayRecordWriter(
                str(path), 'group_size:1,uncompressed'
            )

    def write(self, image: bytes, label: int, name: str) -> None:
        """Adds a record, as TFDS serializes it."""
        example = tf_example_pb2.Example()  # pyrefly: ignore[missing-attribute]
        feature = example.features.feature
        feature['image'].bytes_list.value.append(image)
        feature['label'].int64_list.value.append(label)
        feature['file_name'].bytes_list.value.append(bytes_of(name))
        with self._named():
            self._file.write(example.SerializeToString(deterministic=True))

    def close(self) -> None:
        """Writes what is still to be written."""
        with self._named():
            self._file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f'cannot write {self._path}: {first_line(error)}') from error


class _Files:
    """Reads pieces of files, the last of which stays open."""

    def __init__(self, paths: list[str]) -> None:
        self._paths, self._index, self._file = paths, -1, -1

    def __enter__(self) -> '_Files':
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def read(self, index: int, offset: int, size: int) -> bytes:
        if index != self._index:
            self.__exit__()
            self._file, self._index = -1, index
        try:
            if self._file < 0:
                self._file = os.open(self._paths[index], os.O_RDONLY)
            data = os.pread(self._file, size, offset)
        except OSError as error:
            raise UserError(f'cannot read {self._paths[index]}: {error.strerror}') from error
        if len(data) != size:
            raise UserError(f'{self._paths[index]} has become shorter while it was read')
        return data


def _finish(
    unfinished: Path,
    final: Path,
    catalogue: Catalogue,
    storage: Storage,
    shards: list[_Shard],
    skip_bad: int,
) -> Result:
    """Adds metadata and statistics, and gives the folder its name."""
    size = storage.size or STATISTICS_SIZE
    sums, skipped = pixel_statistics.Sums.of_none(size), []
    lengths: dict[str, list[int]] = {split: [] for split in catalogue.splits}
    sizes = dict.fromkeys(catalogue.splits, 0)
    for shard in shards:
        record = _Record.load(shard)
        if record is None:
            raise UserError(f'{shard.path} has changed meanwhile: run the same command again')
        lengths[shard.split].append(record.images)
        sizes[shard.split] += shard.path.stat().st_size
        skipped += record.skipped
        if record.sums:
            sums.merge(record.sums)
    if len(skipped) > skip_bad:
        raise UserError(
            f'{len(skipped)} training images cannot be decoded, {skipped[0]} among them: '
            f'allow as many with --skip_bad={len(skipped)}'
        )
    if sums.images:
        scaled_by = '' if storage.size else storage.filter
        sums.save(pixel_statistics.file_of(unfinished, 'train', size, scaled_by))
    tfds.folder_dataset.write_metadata(
        data_dir=unfinished,
        features=storage.features(catalogue.classes),
        split_infos=[
            tfds.core.SplitInfo(name=split, shard_lengths=lengths[split], num_bytes=sizes[split])
            for split in catalogue.splits
        ],
        version=VERSION,
        check_data=False,
        description=catalogue.description,
        supervised_keys=('image', 'label'),
        homepage='https://image-net.org/' if catalogue.expected else '',
    )
    counts = {split: sum(numbers) for split, numbers in lengths.items()}
    source = {
        'images': counts,
        'published': catalogue.expected,
        'skipped': skipped,
        'fingerprint': catalogue.fingerprint(),
        'storage': dataclasses.asdict(storage),
    }
    with atomic_files.replace(unfinished / SOURCE) as partial:
        partial.write_text(json.dumps(source, indent=2) + '\n')
    unfinished.rename(final)
    shutil.rmtree(final / _RECORDS, ignore_errors=True)
    return Result(final, counts, skipped)
