"""The embedded data set: the 1,797 handwritten digits that ship with scikit-learn.

Scans of digits by 43 people, 8x8 pixels in 17 levels of grey (E. Alpaydin and C. Kaynak, Optical
Recognition of Handwritten Digits, UCI, 1998; its test set). They are enlarged ninefold and
converted to colour, so that they suit the paper's net.

Split: within each class, in the order of the file, every fifth image is in 'test'. This leaves
1,442 images in 'train' and 355 in 'test', with the same class proportions. The same people wrote
the digits of both, so the error does not predict that on the handwriting of others.
"""

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZE = 72  # pixels across an image
LEVELS = 16  # the brightest value in the scans


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits as 72x72 colour images."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format='png'),
                    'label': tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=('image', 'label'),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing to download
        return {
            'train': self._generate_examples(test=False),
            'test': self._generate_examples(test=True),
        }

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn import datasets as sklearn_datasets  # slow to import; only needed here

        scans: Any = sklearn_datasets.load_digits()
        per_class: Counter[int] = Counter()
        for number, (scan, label) in enumerate(zip(scans.images, scans.target, strict=True)):
            per_class[label] += 1
            if (per_class[label] % 5 == 0) == test:
                yield number, {'image': draw(scan), 'label': int(label)}


def draw(scan_HW: np.ndarray) -> bytes:
    """Draws an 8x8 scan with values of 0 to LEVELS as a PNG of SIZE x SIZE pixels in colour."""
    grey = np.round(scan_HW * (255 / LEVELS)).astype(np.uint8)
    image = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert('RGB')
    png = io.BytesIO()
    image.save(png, 'PNG')
    return png.getvalue()
