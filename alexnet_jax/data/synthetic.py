"""Synthetic images, for timing the net without a data set; nothing can be learned from them."""

from typing import Any

import numpy as np

NOTICE = 'SYNTHETIC IMAGES: only the speed is meaningful; the errors are those of noise'


class Synthetic:
    """Noise with random labels; an index always gives the same image and label.

    Attributes:
      SIZES: number of images in the training and in the evaluation split.
      size: pixels across an image.
      classes: names of the labels.
    """

    SIZES = (12_800, 256)

    def __init__(self, length: int, image_size: int, classes: int) -> None:
        self._length, self._classes = length, classes
        self.classes = [str(number) for number in range(classes)]
        self._noise = np.random.default_rng(0).integers(
            0, 256, (2 * image_size, image_size, 3), np.uint8
        )
        self.size = image_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        first = index % self.size
        label = np.random.default_rng(index).integers(self._classes)
        return {'image': self._noise[first : first + self.size], 'label': int(label)}

    def where(self, index: int) -> str:
        """Returns a name for an image, for messages."""
        return f'synthetic image {index}'
