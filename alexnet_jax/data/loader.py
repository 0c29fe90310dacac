"""From a source to batches on the host (§2); which images, is a function of (seed, step) alone.

Grain runs the threads and processes; each makes a whole batch at a time, image by image, straight
into its place. Nothing depends on how many there are, and a process reads only the rows of a batch
that its devices need.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from alexnet_jax.config.schema import Config
from alexnet_jax.data import images, pixel_statistics
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError

Batch = dict[str, np.ndarray]  # 'image': (B, size, size, 3) uint8; 'label': (B,) int32

_BAD = 'bad'  # of a batch: indices of images that were replaced, and -1s
_ALL = slice(None)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read; changes the speed, and but for size and filter nothing else.

    Attributes:
      size: pixels across, to which images of other sizes are scaled.
      resize: the filter, one of images.FILTERS.
      threads: that read and decode, in each process; 0 is one per core in all.
      workers: processes; 0 is none beside this one.
      ahead: batches kept ready; never fewer than there are threads.
    """

    size: int
    resize: str = 'bicubic'
    threads: int = 0
    workers: int = 0
    ahead: int = 2

    @classmethod
    def of(cls, config: Config) -> 'Reading':
        """As the settings say."""
        data, loader = config.dataset, config.loader
        return cls(data.image_size, data.resize, loader.threads, loader.workers, loader.prefetch)


class Bad:
    """The training images that could not be read, and how many there may be.

    Attributes:
      names: of those met so far.
    """

    def __init__(self, source: Source, allowed: int) -> None:
        self._source, self.allowed = source, allowed
        self._indices: set[int] = set()

    @property
    def names(self) -> list[str]:
        """Where they are stored."""
        return [self._source.where(index) for index in sorted(self._indices)]

    def note(self, indices: np.ndarray) -> None:
        """Takes in what a batch met.

        Raises:
          UserError: there are more than may be.
        """
        self._indices |= {int(index) for index in indices if index >= 0}
        if len(self._indices) > self.allowed:
            raise UserError(
                f'{len(self._indices)} training images cannot be read, '
                f'{self.names[0]} among them, and --skip_bad={self.allowed}: prepare the data '
                'again, or allow more'
            )


def training_batches(
    source: Source,
    reading: Reading,
    seed: int,
    batch_size: int,
    first_step: int,
    reshuffle: bool = True,
    rows: slice = _ALL,
    bad: Bad | None = None,
) -> Iterator[Batch]:
    """Endless batches from step `first_step` on.

    Reshuffled, the stream is one permutation of the source after the other, cut into batches: each
    image comes once an epoch, and a batch may reach from one epoch into the next. Otherwise every
    epoch has the same batches, in the order of the source, as the 2012 code; the last one is filled
    up from the start.

    Args:
      rows: of each batch, to be read by this process.
      bad: takes in which images were replaced, by the next in the source; None allows none.

    Raises:
      UserError: an image cannot be read.
    """
    order = _Order(len(source), batch_size, seed if reshuffle else None)
    tolerant = bad is not None and bad.allowed > 0
    read = functools.partial(_read, source, reading, rows, tolerant)
    steps = grain.MapDataset.range(first_step, sys.maxsize)
    batches = steps.map(lambda step: read(order.of_step(step)))
    for batch in _iterate(batches, reading):
        replaced = batch.pop(_BAD)
        if bad is not None:
            bad.note(replaced)
        yield batch


def evaluation_batches(
    source: Source, reading: Reading, batch_size: int, rows: slice = _ALL
) -> Iterator[Batch]:
    """Every image once, in order. The last batch is filled up; 'weight' is 0 for what fills it.

    Raises:
      UserError: an image cannot be read; none is ever left out here.
    """
    for batch in _in_order(source, reading, batch_size, rows, tolerant=False):
        del batch[_BAD]
        yield batch


def _in_order(
    source: Source, reading: Reading, batch_size: int, rows: slice, tolerant: bool
) -> Iterator[Batch]:
    order = _Order(len(source), batch_size, None)
    read = functools.partial(_read, source, reading, rows, tolerant)
    steps = grain.MapDataset.range(-(-len(source) // batch_size))
    batches = steps.map(lambda step: read(order.of_step(step)))
    for step, batch in enumerate(_iterate(batches, reading)):
        places = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
        yield batch | {'weight': (places < len(source)).astype(np.float32)}


class _Order:
    """Which images are in which batch."""

    def __init__(self, length: int, batch_size: int, seed: int | None) -> None:
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._known: tuple[int, np.ndarray] = (-1, np.empty(0, int))  # the last epoch's order

    def of_step(self, step: int) -> np.ndarray:
        """(B,) indices: of a permutation for each epoch, or without a seed of the source's order.

        With a seed the stream is one permutation after the other; without, every epoch begins with
        a batch of its own, and its last one is filled up from the start.
        """
        if self._seed is None:
            batches = -(-self._length // self._batch_size)
            first = step % batches * self._batch_size
            return np.arange(first, first + self._batch_size) % self._length
        first = step * self._batch_size
        places = np.arange(first, first + self._batch_size)
        epochs = places // self._length
        return np.concatenate(
            [
                self._permutation(int(epoch))[places[epochs == epoch] % self._length]
                for epoch in np.unique(epochs)
            ]
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        known, order = self._known
        if known != epoch:
            order = np.random.default_rng((self._seed or 0, epoch)).permutation(self._length)
            self._known = epoch, order  # at once: threads may be in different epochs
        return order


def _iterate(batches: grain.MapDataset, reading: Reading) -> Iterator[Batch]:
    threads = reading.threads or max(1, cpu_devices.processor_count() // max(1, reading.workers))
    # Grain lets no more threads work than there are batches to be kept, less one handed over.
    options = grain.ReadOptions(threads, prefetch_buffer_size=max(reading.ahead, threads + 1))
    stream = batches.to_iter_dataset(options)
    if reading.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads a flag of its own
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(reading.workers, reading.ahead))
    iterator = iter(stream)
    try:
        yield from iterator
    finally:
        getattr(iterator, 'close', lambda: None)()


def _read(
    source: Source, reading: Reading, rows: slice, tolerant: bool, indices: np.ndarray
) -> Batch:
    """The images at these places of the source."""
    indices = indices[rows]
    pixels = np.empty((len(indices), reading.size, reading.size, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)
    replaced = np.full(len(indices), -1)
    for row, index in enumerate(indices):
        reason: Exception | None = None
        for other in range(int(index), int(index) + (len(source) if tolerant else 1)):
            try:
                labels[row] = read_into(source, other % len(source), pixels[row], reading.resize)
                break
            except images.BadImage as error:
                replaced[row] = index
                reason = error
        else:
            raise unreadable(source, int(index), reason)
    return {'image': pixels, 'label': labels, _BAD: replaced}


def unreadable(source: Source, index: int, reason: Exception | None) -> UserError:
    """What to tell of an image that cannot be read."""
    return UserError(f'{source.where(index)} {reason}: prepare the data again')


def labelled(source: Source, index: int) -> Mapping[str, Any]:
    """An example that has a label, its image still as it is stored.

    Raises:
      BadImage: it cannot be read, or has no label.
    """
    example = source[index]
    if example['label'] < 0:
        raise images.BadImage('has no label')
    return example


def read_into(source: Source, index: int, out_HWC: np.ndarray, resize: str) -> int:
    """Decodes an image to its place in a batch, scaled and cut as in the paper's §2.

    Args:
      out_HWC: (size, size, 3) uint8, is filled.
      resize: the filter, one of images.FILTERS.

    Returns:
      The label.

    Raises:
      BadImage: it cannot be decoded, or has no label.
    """
    example = labelled(source, index)
    image = example['image']
    if isinstance(image, bytes):
        if not images.decode_into(image, out_HWC):
            out_HWC[:] = images.square(image, out_HWC.shape[0], resize)
    else:
        colour = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
        out_HWC[:] = images.central_square(colour, out_HWC.shape[0], resize)
    return example['label']


def statistics_of(
    source: Source, reading: Reading, folder: str, split: str, bad: Bad | None = None
) -> pixel_statistics.Sums:
    """The sums over a split's images; kept beside the data, where they are not there already.

    Args:
      folder: of the prepared data set; '' if there is none.
      split: named in the file, so that parts of a data set do not share one.
      bad: takes in which images were left out; None allows none.

    Raises:
      UserError: an image cannot be read.
    """
    scaled_by = '' if source.size == reading.size else reading.resize
    file = pixel_statistics.file_of(Path(folder), split, reading.size, scaled_by)
    if folder and file.exists():
        return pixel_statistics.Sums.load(file)
    sums = pixel_statistics.Sums.of_none(reading.size)
    tolerant = bad is not None and bad.allowed > 0
    with ProgressBars() as bars:
        for batch in _in_order(source, reading, 64, _ALL, tolerant):
            if bad is not None:
                bad.note(batch[_BAD])
            for image, wanted in zip(
                batch['image'], (batch['weight'] > 0) & (batch[_BAD] < 0), strict=True
            ):
                if wanted:
                    sums.add(image)
            if len(source) > 10_000:
                bars.show_images('mean image', sums.images, len(source))
    if folder:
        try:
            sums.save(file)
        except UserError as error:  # a data set that many share is often read-only
            print(f'{error}: they will be counted again the next time', flush=True)
    return sums
