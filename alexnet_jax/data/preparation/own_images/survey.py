"""The images of a catalogue in numbers (§2): how many there are, how large, and whether in colour.

The sizes are those of a sample of the training images, spread over the classes, from the headers of
their files. Whether an image has colours is seen by decoding it, in a smaller sample.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax.config.fitting.image_survey import ImageSurvey
from alexnet_jax.data import images
from alexnet_jax.data.preparation.catalogue import Catalogue, Entries
from alexnet_jax.data.preparation.own_images.description import count_classes
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

SAMPLE = 500  # images whose sizes are read
DECODED = 40  # of them, those that are decoded to see whether they have colours
_NO_COLOUR = 8  # of 255: the largest difference of red, green and blue in a grey JPEG
_LEAST = 64  # pixels: a JPEG may be decoded at a fraction of its size to see its colours


def survey(catalogue: Catalogue, bars: ProgressBars | None = None) -> ImageSurvey:
    """Counts and measures the training images of a catalogue.

    The same images give the same survey, whatever the order in which they are listed.

    Args:
      catalogue: images that are files of their own.
      bars: shows the progress.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: an image cannot be read, or the header of none in the sample is intact.
    """
    train = catalogue.splits['train']
    per_class = count_classes(train, len(catalogue.classes))
    sample = _choose_sample(train)
    sides, grey = [], []
    for number, index in enumerate(sample):
        raise_if_stopped()
        path = train.files[train.locations[index, 0]]
        try:
            sides.append(_read_side(path))
            if len(grey) < DECODED:
                grey.append(_is_grey(path))
        except images.BadImage:  # named when the images are prepared
            continue
        if bars:
            bars.show_images('reading sizes', number + 1, len(sample))
    if not sides:
        names = [train.names[index] for index in sample]
        raise UserError(
            f'none of {len(names)} images that were tried can be decoded ({list_names(names, 3)}): '
            'the files are damaged, or they are not images'
        )
    return ImageSurvey(
        per_class=tuple(per_class.tolist()),
        smallest_side=min(sides),
        median_side=round(float(np.median(sides))),
        largest_side=max(sides),
        grey=float(np.mean(grey)) if grey else 0.0,
    )


def describe(survey: ImageSurvey) -> str:
    """Returns the line about the sizes and the colours of the images."""
    smallest, largest = survey.smallest_side, survey.largest_side
    sizes = f'a short side of {smallest} pixels'
    if smallest != largest:
        sizes = f'short sides of {smallest} to {largest} pixels, median {survey.median_side}'
    colours = {0.0: 'in colour', 1.0: 'grey'}.get(survey.grey, f'{survey.grey:.0%} of them grey')
    return f'in a sample of the training images: {sizes}; {colours}'


def _choose_sample(entries: Entries) -> np.ndarray:
    """Returns the indices of SAMPLE images: the first of each class by a hash, then the second."""
    order = entries.storage_order()
    labels = entries.labels[order]
    by_class = np.argsort(labels, kind='stable')
    starts = np.searchsorted(labels[by_class], np.arange(labels.max() + 1))
    ranks = np.empty(len(order), np.int64)  # of each image within its class
    ranks[by_class] = np.arange(len(order)) - starts[labels[by_class]]
    return order[np.argsort(ranks, kind='stable')[:SAMPLE]]


def _read_side(path: str) -> int:
    """Returns the short side of an image from its header, in pixels.

    Raises:
      BadImage: the header is damaged.
      UserError: the file cannot be read.
    """
    with explain_os_errors(f'read {printable(path)}'), Path(path).open('rb') as file:
        try:
            return min(Image.open(file, formats=images.FORMATS).size)
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises many kinds of errors for damaged files
            raise images.BadImage(first_line(error)) from error


def _is_grey(path: str) -> bool:
    """Checks whether an image has no colours.

    Raises:
      BadImage: it cannot be decoded.
      UserError: the file cannot be read.
    """
    with explain_os_errors(f'read {printable(path)}'):
        data = Path(path).read_bytes()
    pixels = images.decode(data, least=_LEAST).astype(np.int16)
    return int(np.ptp(pixels, axis=-1).max()) <= _NO_COLOUR
