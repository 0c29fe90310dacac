"""Reads batches from a source (§2); seed and step alone determine which images are in a batch.

Grain runs the threads and processes. Each makes one batch at a time and decodes every image
straight into its row. The batches do not depend on the number of threads and processes, and a
process of a distributed run reads only the rows that its devices need.
"""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from alexnet_jax.config.schema import Config
from alexnet_jax.data import child_processes, images, pixel_statistics, system_errors
from alexnet_jax.data.loading.unreadable_images import UnreadableImages, unreadable_error
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime import cpu_devices, signals
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError

Batch = dict[str, np.ndarray]  # 'image': (B, size, size, 3) uint8; 'label': (B,) int32

_REPLACED = 'replaced'  # key in a batch: for each row the index of the unreadable image, or -1
_ALL_ROWS = slice(None)
_SECONDS_WITHOUT_PROGRESS = 2


@dataclasses.dataclass(frozen=True)
class Reading:
    """Settings for reading images. The attributes after `background` affect only the speed.

    Attributes:
      size: pixels across an image; images of other sizes are scaled.
      resize: the filter that scales them, one of images.FILTERS.
      background: the colour behind transparent pixels, 'white' or 'black'.
      threads: threads per process that read and decode; 0 for one per core, or two where images
        are scaled, divided among the processes.
      workers: worker processes; 0 to read in this process.
      prefetch: batches kept ready; raised to one more than the number of threads if it is lower.
    """

    size: int
    resize: str = 'bicubic'
    background: str = 'white'
    threads: int = 0
    workers: int = 0
    prefetch: int = 2

    @classmethod
    def from_config(cls, config: Config) -> 'Reading':
        """Returns what the config says about reading images."""
        data, loader = config.dataset, config.loader
        return cls(
            data.image_size,
            data.resize,
            data.background,
            loader.threads,
            loader.workers,
            loader.prefetch,
        )


def training_batches(
    source: Source,
    reading: Reading,
    seed: int,
    batch_size: int,
    first_step: int,
    reshuffle: bool = True,
    rows: slice = _ALL_ROWS,
    unreadable: UnreadableImages | None = None,
) -> Iterator[Batch]:
    """Yields batches without end, from step `first_step` on.

    Args:
      source: the training images.
      reading: how they are read.
      seed: seed of the permutations.
      batch_size: images per batch, of all processes.
      first_step: the step of the first batch.
      reshuffle: whether every epoch is a new permutation of the source. The permutations follow
        one another and are cut into batches, so a batch may reach from one epoch into the next.
        Otherwise every epoch has the same batches, in the order of the source, as in the 2012
        code; the last one is filled up with the first images.
      rows: the rows of each batch that this process reads.
      unreadable: receives the images that cannot be read, each of which is replaced by the next
        one in the source; None if none are allowed.

    Raises:
      UserError: an image cannot be read, or more than are allowed; or the system does not let this
        process read: there are too many open files or too little memory, or the disk fails.
    """
    order = BatchOrder(len(source), batch_size, seed if reshuffle else None)
    allowed = 0 if unreadable is None else unreadable.allowed
    read = functools.partial(_read_batch, source, reading, rows, allowed)
    steps = grain.MapDataset.range(first_step, sys.maxsize)
    batches = steps.map(lambda step: read(order.indices(step)))
    for batch in _iterate(batches, reading, scaled=source.size != reading.size):
        replaced = batch.pop(_REPLACED)
        if unreadable is not None:
            unreadable.add(replaced)
        yield batch


def evaluation_batches(
    source: Source, reading: Reading, batch_size: int, rows: slice = _ALL_ROWS
) -> Iterator[Batch]:
    """Yields every image once, in the order of the source.

    Args:
      source: the images.
      reading: how they are read.
      batch_size: images per batch, of all processes.
      rows: the rows of each batch that this process reads.

    Yields:
      Batches with 'weight', (B,) float32, in addition: 1 for an image, 0 for the first images of
      the source, which fill up the last batch.

    Raises:
      UserError: an image cannot be read; none are left out of an evaluation.
    """
    for batch in _batches_in_order(source, reading, batch_size, rows, allowed=None):
        del batch[_REPLACED]
        yield batch


def batches_in_order(
    source: Source, reading: Reading, batch_size: int, unreadable: UnreadableImages | None
) -> Iterator[Batch]:
    """Yields every training image once, in the order of the source.

    Args:
      source: the training images.
      reading: how they are read.
      batch_size: images per batch. The first images of the source fill up the last batch.
      unreadable: as for `training_batches`.

    Raises:
      UserError: as from there.
    """
    allowed = 0 if unreadable is None else unreadable.allowed
    for batch in _batches_in_order(source, reading, batch_size, _ALL_ROWS, allowed):
        replaced = batch.pop(_REPLACED)
        if unreadable is not None:
            unreadable.add(replaced)
        yield batch


def _batches_in_order(
    source: Source, reading: Reading, batch_size: int, rows: slice, allowed: int | None
) -> Iterator[Batch]:
    order = BatchOrder(len(source), batch_size, None)
    read = functools.partial(_read_batch, source, reading, rows, allowed)
    steps = grain.MapDataset.range(-(-len(source) // batch_size))
    batches = steps.map(lambda step: read(order.indices(step)))
    scaled = source.size != reading.size
    for step, batch in enumerate(_iterate(batches, reading, scaled)):
        positions = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
        yield batch | {'weight': (positions < len(source)).astype(np.float32)}


class BatchOrder:
    """Determines which images are in which batch.

    Args:
      length: number of images in the source.
      batch_size: images per batch.
      seed: seed of the permutations; None for the order of the source.
    """

    def __init__(self, length: int, batch_size: int, seed: int | None) -> None:
        self._length, self._batch_size, self._seed = length, batch_size, seed
        # The epoch whose permutation was computed last, and that permutation.
        self._cache: tuple[int, np.ndarray] = (-1, np.empty(0, int))

    def indices(self, step: int) -> np.ndarray:
        """Returns the indices of the images in the batch of a step, (B,) int64.

        With a seed, the permutations of the epochs follow one another without gaps. Without one,
        every epoch starts with a new batch, and its last one is filled up with the first images.
        """
        if self._seed is None:
            batches = -(-self._length // self._batch_size)
            first = step % batches * self._batch_size
            return np.arange(first, first + self._batch_size) % self._length
        first = step * self._batch_size
        positions = np.arange(first, first + self._batch_size)
        epochs = positions // self._length
        return np.concatenate(
            [
                self._permutation(int(epoch))[positions[epochs == epoch] % self._length]
                for epoch in np.unique(epochs)
            ]
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        cached_epoch, order = self._cache
        if cached_epoch != epoch:
            order = np.random.default_rng((self._seed or 0, epoch)).permutation(self._length)
            self._cache = epoch, order  # one assignment: threads may be in different epochs
        return order


def _iterate(batches: grain.MapDataset, reading: Reading, scaled: bool) -> Iterator[Batch]:
    cores = max(1, cpu_devices.processor_count() // max(1, reading.workers))
    # Images are scaled by threads of kornia, one per core. A thread of ours waits meanwhile, so
    # that as many of ours would leave cores without work.
    threads = reading.threads or (2 * cores if scaled else cores)
    # Grain keeps one thread busy for each batch in the buffer except the one that is handed over.
    options = grain.ReadOptions(threads, prefetch_buffer_size=max(reading.prefetch, threads + 1))
    stream = batches.to_iter_dataset(options)
    if reading.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads a flag of its own
        child_processes.remove_shared_memory_silently()
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(reading.workers, reading.prefetch),
            functools.partial(child_processes.start_reader, os.getpid(), cores),
        )
    iterator = iter(stream)
    try:
        yield from iterator
    except (RuntimeError, OSError, MemoryError) as error:
        signals.raise_if_stopped()  # which may have ended the workers, too
        line = system_errors.batch_error(error)
        if line is None:
            raise
        raise line from error
    finally:
        getattr(iterator, 'close', lambda: None)()


def _read_batch(
    source: Source, reading: Reading, rows: slice, allowed: int | None, indices: np.ndarray
) -> Batch:
    """Reads a batch; if `allowed`, unreadable images are replaced. It is None in evaluations."""
    indices = indices[rows]
    pixels = np.empty((len(indices), reading.size, reading.size, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)
    replaced = np.full(len(indices), -1)
    for row, index in enumerate(indices):
        reason: Exception | None = None
        for candidate in range(int(index), int(index) + (len(source) if allowed else 1)):
            number, out_HWC = candidate % len(source), pixels[row]
            try:
                labels[row] = read_into(source, number, out_HWC, reading.resize, reading.background)
                break
            except images.BadImage as error:
                replaced[row] = index
                reason = error
        else:
            raise unreadable_error(source, int(index), reason, training=allowed is not None)
    return {'image': pixels, 'label': labels, _REPLACED: replaced}


def read_labelled(
    source: Source, index: int, out_HWC: np.ndarray | None = None
) -> Mapping[str, Any]:
    """Reads an example that has a label; its image is not decoded.

    Args:
      source: the images.
      index: the index of the image in the source.
      out_HWC: the place of the image; if it is given, raw pixels may be read straight into it, and
        are then the image. The example then need not have a name.

    Raises:
      BadImage: it is damaged.
      UserError: it has no label, or the system does not let this process read it.
    """
    fetch = None if out_HWC is None else getattr(source, 'fetch', None)
    example = source[index] if fetch is None else fetch(index, out_HWC)
    if example['label'] < 0:
        raise UserError(
            f'{source.where(index)} has no label: choose a split with labels '
            '(--config.dataset.train_split, --config.dataset.eval_split)'
        )
    return example


def read_into(
    source: Source, index: int, out_HWC: np.ndarray, resize: str, background: str = 'white'
) -> int:
    """Decodes an image into its row of a batch, scaled and cropped as in §2 of the paper.

    Args:
      source: the images.
      index: the index of the image in the source.
      out_HWC: (size, size, 3) uint8, receives the image.
      resize: the filter, one of images.FILTERS.
      background: the colour behind transparent pixels, 'white' or 'black'.

    Returns:
      The label.

    Raises:
      BadImage: it is damaged.
      UserError: it has no label, its pixels are not uint8 in one or three colours, or the system
        does not let this process read it.
    """
    example = read_labelled(source, index, out_HWC)
    image = example['image']
    if image is out_HWC:
        return example['label']
    if isinstance(image, bytes):
        if not images.decode_into(image, out_HWC):
            out_HWC[:] = images.square(image, out_HWC.shape[0], resize, background=background)
        return example['label']
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise UserError(
            f'{source.where(index)} has pixels of type {image.dtype} and shape {image.shape}; only '
            'uint8 of shape (rows, columns, 1 or 3) is supported: choose another data set'
        )
    colour = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    out_HWC[:] = images.central_square(colour, out_HWC.shape[0], resize)
    return example['label']


def statistics_of(
    source: Source,
    reading: Reading,
    folder: str,
    split: str,
    unreadable: UnreadableImages | None = None,
) -> pixel_statistics.Sums:
    """Returns the sums over a split's images, from the file beside the data or computed now.

    A file that is damaged, or of other images, is replaced, and one line says so. This may change
    the mean of a prepared data set a little: its statistics were counted before the images were
    encoded. If the sums cannot be saved, they are used nevertheless.

    Args:
      source: the images.
      reading: how they are read.
      folder: the folder of the prepared data set, where computed sums are saved; '' if there is
        none.
      split: part of the file's name, so that parts of a data set have files of their own.
      unreadable: receives the images that cannot be read and are left out; None if none are
        allowed.

    Raises:
      UserError: an image cannot be read, or more than are allowed, or none can be.
      Stopped: a signal arrived.
    """
    variant = [] if source.size == reading.size else [reading.resize]
    if reading.background != 'white' and getattr(source, 'may_be_transparent', False):
        variant.append(reading.background)
    file = pixel_statistics.statistics_file(Path(folder), split, reading.size, '_'.join(variant))
    allowed = 0 if unreadable is None else unreadable.allowed
    sums = None
    if folder:
        sums = pixel_statistics.load_sums(file, len(source), reading.size, allowed > 0)
    if sums is None:
        sums = _count_pixels(source, reading, allowed, unreadable)
        if folder:
            try:
                sums.save(file)
            except UserError as error:  # a shared data set is often read-only
                show(f'{error}; the mean image will be computed again the next time')
    return sums


def _count_pixels(
    source: Source, reading: Reading, allowed: int, unreadable: UnreadableImages | None
) -> pixel_statistics.Sums:
    sums = pixel_statistics.Sums.zeros(reading.size)
    start = time.monotonic()
    with ProgressBars() as bars:
        for batch in _batches_in_order(source, reading, 64, _ALL_ROWS, allowed):
            signals.raise_if_stopped()
            if unreadable is not None:
                unreadable.add(batch[_REPLACED])
            once = batch['weight'] > 0
            readable = batch[_REPLACED] < 0
            sums.left_out += int((once & ~readable).sum())
            for image in batch['image'][once & readable]:
                sums.add(image)
            if time.monotonic() - start > _SECONDS_WITHOUT_PROGRESS:
                bars.show_images('mean image', sums.images, len(source))
    if not sums.images:
        raise UserError(f'none of the {len(source):,} training images can be read')
    return sums
