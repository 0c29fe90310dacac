"""From a source to batches on the host (§2); their order is a function of (seed, step) alone."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
from PIL import Image

from alexnet_jax.datasets import Source
from alexnet_jax.errors import UserError

Batch = dict[str, np.ndarray]  # 'image': (B, size, size, 3) uint8; 'label': (B,) int32


def training_batches(
    source: Source, seed: int, batch_size: int, size: int, first_step: int, threads: int, ahead: int
) -> Iterator[Batch]:
    """Endless batches from step `first_step` on; a new permutation of the source every epoch.

    The stream is one permutation after the other, cut into batches, so each image comes once an
    epoch and a batch may reach from one epoch into the next.

    Args:
      size: pixels across, to which images of other sizes are scaled.
      threads: that read and decode; 0 is one per core.
      ahead: batches kept ready.
    """
    batches = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .map(lambda example: prepare(example, size))
        .repeat()
        .batch(batch_size)
    )
    iterator = iter(batches.to_iter_dataset(_options(threads, ahead)))
    iterator.set_state({'next_index': first_step})
    return iterator


def evaluation_batches(
    source: Source, batch_size: int, size: int, threads: int, ahead: int
) -> Iterator[Batch]:
    """Every image once, in order. The last batch is filled up; 'weight' is 0 for what fills it."""
    batches = (
        grain.MapDataset.source(source)
        .map(lambda example: prepare(example, size))
        .batch(batch_size, drop_remainder=False)
    )
    for batch in batches.to_iter_dataset(_options(threads, ahead)):
        images = len(batch['label'])
        filled = {
            name: np.concatenate([x, np.zeros((batch_size - images, *x.shape[1:]), x.dtype)])
            for name, x in batch.items()
        }
        weight = np.arange(batch_size) < images
        yield filled | {'weight': weight.astype(np.float32)}


def _options(threads: int, ahead: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads or os.cpu_count() or 1, prefetch_buffer_size=ahead)


def prepare(example: Mapping[str, Any], size: int) -> dict[str, Any]:
    """One image as (size, size, 3) uint8 and its label as int32.

    As the paper's §2: the short side is scaled to `size`, then the central square is cut out.
    Images that are not in three colours (grey, CMYK, with a palette) are converted.
    """
    image = example['image']
    if isinstance(image, np.ndarray) and image.shape == (size, size, 3):
        return {'image': image, 'label': np.int32(example['label'])}
    if isinstance(image, bytes):
        picture = Image.open(io.BytesIO(image), formats=('JPEG', 'PNG'))
    else:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    square = np.asarray(central_square(picture.convert('RGB'), size))
    return {'image': square, 'label': np.int32(example['label'])}


def central_square(picture: Image.Image, size: int) -> Image.Image:
    """The short side scaled to `size` pixels, then the middle of the long one."""
    if picture.size == (size, size):
        return picture
    short = min(picture.size)
    width, height = (max(size, round(n * size / short)) for n in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    scaled = picture.resize((width, height), Image.Resampling.BICUBIC)
    return scaled.crop((left, top, left + size, top + size))


def mean_image(source: Source, size: int, folder: str, split: str, threads: int) -> np.ndarray:
    """The mean of a source's images; kept beside the data, since ImageNet's takes an hour.

    Args:
      folder: of the prepared data set; '' if there is none.
      split: named in the file, so that parts of a data set do not share a mean.

    Returns:
      (size, size, 3) float32, on the scale of 0 to 255.
    """
    safe = ''.join(c if c.isalnum() else '_' for c in split)
    path = Path(folder) / f'mean_image_{safe}_{size}.npy'
    if folder and path.exists():
        return np.load(path)
    total = np.zeros((size, size, 3), np.float64)
    for batch in evaluation_batches(source, 64, size, threads, 4):
        total += batch['image'].sum(axis=0, dtype=np.float64)
    mean = (total / len(source)).astype(np.float32)
    if folder:
        try:
            partial = path.with_suffix('.partial.npy')
            np.save(partial, mean)
            partial.rename(path)
        except OSError as error:
            raise UserError(f'cannot write {path}: {error}') from error
    return mean
