"""The storage of a prepared data set: size, format and name (§2)."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import images

VERSION = '5.1.0'  # that of TFDS's imagenet2012, whose features and classes the original size keeps
STATISTICS_SIZE = 256  # pixels across an image for the statistics, where files are kept as they are


@dataclasses.dataclass(frozen=True)
class Storage:
    """Size and format of stored images.

    The text form of this object is part of each shard's fingerprint. It mentions the background
    only where it is not the default: published ImageNet has no transparent pixels, and is not
    prepared again because this setting exists.

    Attributes:
      size: pixels across the square that an image becomes; 0 keeps the files as they are.
      raw: whether uint8 pixels are stored instead of a JPEG.
      quality: JPEG quality, 1 to 100.
      filter: the filter that scales images, one of images.FILTERS.
      background: the colour behind transparent pixels, 'white' or 'black'.
    """

    size: int = 256
    raw: bool = False
    quality: int = 90
    filter: str = 'bicubic'
    background: str = dataclasses.field(default='white', repr=False)

    def __str__(self) -> str:
        background = '' if self.background == Storage.background else f' on {self.background}'
        return f'{self!r}{background}'

    @property
    def statistics_size(self) -> int:
        """Returns the pixels across an image as it is counted for the statistics."""
        return self.size or STATISTICS_SIZE

    def name(self, source: str) -> str:
        """Returns the data set's name, which mentions all that differs from the defaults."""
        if not self.size:
            return source
        parts = [source, str(self.size), 'raw' if self.raw else '']
        parts.append('' if self.raw or self.quality == Storage.quality else f'q{self.quality}')
        parts.append('' if self.filter == Storage.filter else self.filter)
        parts.append('' if self.background == Storage.background else self.background)
        return '_'.join(part for part in parts if part)

    def features(self, classes: list[str]) -> tfds.features.FeaturesDict:
        """Returns TFDS's description of a record; that of imagenet2012 for the original size."""
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

    def convert(self, data: bytes, upright: bool) -> tuple[bytes, np.ndarray]:
        """Converts an image file to what is stored of it.

        Args:
          data: the bytes of the file.
          upright: whether the image is rotated as its EXIF orientation says; files that are stored
            unchanged are never rotated.

        Returns:
          The bytes to store, and the square of pixels to count for the statistics,
          (statistics_size, statistics_size, 3) uint8.

        Raises:
          BadImage: the image cannot be decoded.
        """
        if self.size:
            square = images.square(
                data, self.size, self.filter, upright, background=self.background
            )
            stored = square.tobytes() if self.raw else images.encode(square, self.quality)
            return stored, square
        # Decoded even if it is kept as it is: a damaged file is found now, not during training.
        pixels = images.decode(data, background=self.background)
        square = images.central_square(pixels, STATISTICS_SIZE, self.filter)
        plain = images.is_plain_jpeg(data)
        return data if plain else images.encode(pixels, quality=100), square
