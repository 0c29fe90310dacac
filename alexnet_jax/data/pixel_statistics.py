"""Pixel statistics of a training set (§2, §4.1): mean image, mean colour, principal colours.

Sums are exact integers, so they depend neither on the order in which images are counted nor on the
number of processes that count them.
"""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import UserError


@dataclasses.dataclass(frozen=True)
class Colours:
    """The distribution of all pixels of a data set, on the scale of 0 to 255.

    Attributes:
      mean: (3,) float64; red, green, blue.
      eigenvalues: (3,) float64, of the covariance of red, green and blue; variances.
      eigenvectors: (3, 3) float64, in columns, of length 1.
    """

    mean: np.ndarray
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray


# ILSVRC-2012, as published by the authors (cuda-convnet2: make-data/input_meta).
COLOURS_2012 = Colours(
    mean=np.array([127.30, 119.72, 104.91]),
    eigenvalues=np.array([19.720833, 37.093889, 121.780061]) ** 2,
    eigenvectors=np.array(
        [
            [0.41796, -0.71258, -0.56351],
            [-0.81698, -0.02354, -0.57618],
            [0.39731, 0.70120, -0.59200],
        ]
    ),
)


@dataclasses.dataclass
class Sums:
    """Exact running sums over the pixels of images of one size.

    Attributes:
      images: number of images.
      pixels_HWC: (size, size, 3) int64, the sum of the images.
      products: (3, 3) int64, the sum over all pixels of the product of each two colours.
    """

    images: int
    pixels_HWC: np.ndarray
    products: np.ndarray

    def __post_init__(self) -> None:
        self._planes = np.empty((3, self.pixels_HWC.size // 3))  # reused for every image

    @classmethod
    def zeros(cls, size: int) -> 'Sums':
        """Returns the sums over no images, for images of `size` x `size` pixels."""
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    def add(self, image_HWC: np.ndarray) -> None:
        """Adds an image, (size, size, 3) uint8."""
        self.images += 1
        self.pixels_HWC += image_HWC
        planes = self._planes
        np.copyto(planes, image_HWC.reshape(-1, 3).T)  # float64: exact, sums stay below 2^53
        for i in range(3):
            for j in range(i, 3):  # one matrix product would take BLAS three times as long
                product = int(planes[i] @ planes[j])
                self.products[i, j] += product
                self.products[j, i] += product * (i != j)

    def merge(self, other: 'Sums') -> None:
        """Adds the sums over other images."""
        self.images += other.images
        self.pixels_HWC += other.pixels_HWC
        self.products += other.products

    def save(self, path: Path) -> None:
        """Writes an .npz file without pickle.

        Raises:
          UserError: the file cannot be written.
        """
        try:
            with atomic_files.replace(path) as partial:
                np.savez(
                    partial, images=self.images, pixels_HWC=self.pixels_HWC, products=self.products
                )
        except OSError as error:
            raise UserError(f'cannot write {path}: {error}') from error

    @classmethod
    def load(cls, path: Path) -> 'Sums':
        """Reads a file written by `save`.

        Raises:
          UserError: the file is damaged.
        """
        try:
            with path.open('rb') as opened, np.load(opened, allow_pickle=False) as file:
                return cls(int(file['images']), file['pixels_HWC'], file['products'])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f'{path} is damaged ({error}): delete this file, and it is computed again'
            ) from error

    @property
    def mean_image(self) -> np.ndarray:
        """Returns the mean image, (size, size, 3) float32."""
        return (self.pixels_HWC / self.images).astype(np.float32)

    @property
    def colours(self) -> Colours:
        """Returns the distribution of all pixels; eigenvalues in ascending order."""
        pixels = self.images * self.pixels_HWC.shape[0] * self.pixels_HWC.shape[1]
        mean = self.pixels_HWC.sum((0, 1)) / pixels
        covariance = self.products / pixels - np.outer(mean, mean)
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        return Colours(mean, np.maximum(eigenvalues, 0), eigenvectors)


def statistics_file(folder: Path, split: str, size: int, scaled_by: str = '') -> Path:
    """Returns the file with the sums of a split, beside the data.

    Args:
      folder: folder of the data set.
      split: in TFDS's notation; 'train' and 'train[:10%]' have files of their own.
      size: pixels across the images that are counted.
      scaled_by: the filter, where the images are stored at another size than they are counted at.
    """
    safe = ''.join(c if c.isalnum() else '_' for c in split)
    suffix = f'_{scaled_by}' if scaled_by else ''
    return folder / f'statistics_{safe}_{size}{suffix}.npz'
