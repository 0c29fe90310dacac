"""Reads pictures that belong to no data set, as the images of a trained net (§2)."""

import collections
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image

from alexnet_jax.config.schema import Dataset
from alexnet_jax.data import images
from alexnet_jax.data.images import BadImage
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.printing import printable

# The path of a file, its bytes, the pixels, or an image of Pillow.
Picture = str | os.PathLike[str] | bytes | bytearray | np.ndarray | Image.Image

MAX_BYTES = 2**30  # of a file; an uncompressed image of images.MAX_PIXELS pixels has fewer

# Pillow reads the pixels of a file when they are needed. If an image is in a list twice, two
# threads would read from its file at once.
_PILLOW_LOCK = threading.Lock()

_T = TypeVar('_T')
_U = TypeVar('_U')


def read(picture: Picture, dataset: Dataset) -> np.ndarray:
    """Decodes a picture, scales it and crops its central square as in training.

    Pictures are turned upright as their EXIF orientation says. In the training images of ImageNet
    it is ignored, as in 2012, but these were chosen and labelled by people who looked at them.

    Args:
      picture: the path of a file in one of images.FORMATS; its bytes; an image of Pillow; or
        pixels, an array of uint8 of the shape (rows, columns) or (rows, columns, colours), where
        the colours are grey, grey and alpha, RGB, or RGB and alpha.
      dataset: the settings of the run: size, filter and background.

    Returns:
      (size, size, 3) uint8.

    Raises:
      BadImage: it cannot be decoded; the message does not name it.
      OSError: the file cannot be read.
      TypeError: it is none of these.
    """
    size, filter, background = dataset.image_size, dataset.resize, dataset.background
    if isinstance(picture, (str, os.PathLike)):
        picture = read_file(picture)
    if isinstance(picture, (bytes, bytearray)):
        return images.square(bytes(picture), size, filter, upright=True, background=background)
    if isinstance(picture, Image.Image):
        with _PILLOW_LOCK:
            pixels = images.convert(picture, upright=True, background=background)
    elif hasattr(picture, '__array__'):
        pixels = _convert_array(np.asarray(picture), background)
    else:
        raise TypeError(f'{type(picture).__name__} is not a picture: {Picture}')
    return images.central_square(pixels, size, filter)


def as_series(pictures: Picture | Iterable[Picture]) -> tuple[Iterable[Picture], bool]:
    """Returns a series of pictures, and whether what was given is a single picture.

    An array (N, rows, columns, colours) is a series.

    Raises:
      TypeError: it is neither a picture nor a series of them.
    """
    if isinstance(pictures, (str, os.PathLike, bytes, bytearray, Image.Image)):
        return [pictures], True
    if hasattr(pictures, '__array__'):
        array = np.asarray(pictures)
        return (array, False) if array.ndim == 4 else ([array], True)
    if hasattr(pictures, 'read'):  # iterating over it would yield lines
        kind = type(pictures).__name__
        raise TypeError(f'{kind} is an open file: give its path, or its bytes, file.read()')
    if isinstance(pictures, Iterable):
        return pictures, False
    raise TypeError(f'{type(pictures).__name__} is neither a picture nor a series of them')


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a file of at most MAX_BYTES bytes, or a pipe; a pipe that nobody writes to is empty.

    Raises:
      BadImage: it is longer, or neither a file nor a pipe.
      OSError: it cannot be read.
    """
    # Without O_NONBLOCK, a pipe that nobody has opened for writing would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, 'rb') as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise BadImage('is not a file')
        if status.st_size > MAX_BYTES:
            raise BadImage(f'has {status.st_size:,} bytes, more than {MAX_BYTES:,}')
        os.set_blocking(descriptor, True)
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadImage(f'has more than {MAX_BYTES:,} bytes')
    return data


def map_ahead(function: Callable[[_T], _U], items: Iterable[_T], number: int) -> Iterator[_U]:
    """Applies a function to items in threads, and yields the results in the order of the items.

    While the caller uses a result, the threads work on the items after it.

    Args:
      function: the function; what it raises is raised here.
      items: its arguments.
      number: how many items the threads may be ahead of the caller, at least 1.
    """
    futures: collections.deque[Future[_U]] = collections.deque()
    pool = ThreadPoolExecutor(cpu_devices.processor_count(), 'pictures')
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > number:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _convert_array(pixels: np.ndarray, background: str) -> np.ndarray:
    """Converts an array of pixels to (rows, columns, 3) uint8; raises BadImage if it has none."""
    colours = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or colours not in (1, 2, 3, 4):
        raise BadImage(
            f'is an array {pixels.shape} of {pixels.dtype}, not (rows, columns) or '
            '(rows, columns, 1 to 4) of uint8'
        )
    if not pixels.size:
        raise BadImage(f'has no pixels: {pixels.shape}')
    if colours == 1:
        pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
    return images.convert(Image.fromarray(np.ascontiguousarray(pixels)), background=background)


def describe(picture: Picture, number: int) -> str:
    """Names a picture in a message: by its path, else by its place in a list."""
    if isinstance(picture, (str, os.PathLike)):
        return printable(os.fspath(picture))
    return f'picture {number}'


def describe_error(error: Exception) -> str:
    """Says in a few words, which follow the name of a picture, why it cannot be read.

    Args:
      error: a BadImage, an OSError, or a MemoryError.
    """
    if isinstance(error, OSError):
        return f'cannot be read: {error.strerror or error}'
    if isinstance(error, MemoryError):
        return 'needs more memory than there is'
    text = str(error)
    return text if text.startswith(('is ', 'has ')) else f'cannot be decoded: {text}'
