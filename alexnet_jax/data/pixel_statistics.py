"""Pixel statistics of a training set (§2, §4.1): mean image, mean colour, principal colours.

Sums are exact integers, so they depend neither on the order in which images are counted nor on the
number of processes that count them.
"""

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from alexnet_jax.data import system_errors
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

# Pixels per product: OpenBLAS computes a product of up to 10,000 numbers in the calling thread, and
# divides a longer one among threads on every core, which is 40 times slower where others use them.
_BLOCK = 8192


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

# The mean of ImageNet that torchvision publishes with its nets; it has no principal colours.
COLOURS_TORCHVISION = Colours(
    mean=255 * np.array([0.485, 0.456, 0.406]),
    eigenvalues=np.zeros(3),
    eigenvectors=np.eye(3),
)

# Published constants by the name that `augmentation.constants` has for them.
COLOURS = {'2012': COLOURS_2012, 'torchvision': COLOURS_TORCHVISION}


@dataclasses.dataclass
class Sums:
    """Exact running sums over the pixels of images of one size.

    Attributes:
      images: number of images.
      pixels_HWC: (size, size, 3) int64, the sum of the images.
      products: (3, 3) int64, the sum over all pixels of the product of each two colours.
      left_out: number of images that could not be decoded and are not in the sums.
    """

    images: int
    pixels_HWC: np.ndarray
    products: np.ndarray
    left_out: int = 0

    def __post_init__(self) -> None:
        # The three colours of one image as float64, reused for every image.
        planes = np.empty((3, self.pixels_HWC.size // 3))
        self._planes = planes
        self._blocks = [
            [colour[start : start + _BLOCK] for start in range(0, len(colour), _BLOCK)]
            for colour in planes
        ]

    @classmethod
    def zeros(cls, size: int) -> 'Sums':
        """Returns the sums over no images, for images of `size` x `size` pixels."""
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    def add(self, image_HWC: np.ndarray) -> None:
        """Adds an image, (size, size, 3) uint8."""
        self.images += 1
        self.pixels_HWC += image_HWC
        np.copyto(self._planes, image_HWC.reshape(-1, 3).T)
        for i in range(3):
            for j in range(i, 3):  # one matrix product would take BLAS three times as long
                # Exact in float64 in any order: the sums stay below 2^53.
                pairs = zip(self._blocks[i], self._blocks[j], strict=True)
                product = int(sum(x @ y for x, y in pairs))
                self.products[i, j] += product
                self.products[j, i] += product * (i != j)

    def merge(self, other: 'Sums') -> None:
        """Adds the sums over other images."""
        self.images += other.images
        self.pixels_HWC += other.pixels_HWC
        self.products += other.products
        self.left_out += other.left_out

    def save(self, path: Path) -> None:
        """Writes an .npz file without pickle.

        Raises:
          UserError: the file cannot be written.
        """
        with explain_os_errors(f'write {path}'), atomic_files.replace(path) as partial:
            np.savez(
                partial,
                images=self.images,
                pixels_HWC=self.pixels_HWC,
                products=self.products,
                left_out=self.left_out,
            )

    @classmethod
    def load(cls, path: Path) -> 'Sums':
        """Reads a file written by `save`.

        Raises:
          UserError: the file cannot be read, is damaged, or has values that are no such sums.
        """
        try:
            data = path.read_bytes()
        except (OSError, MemoryError) as error:
            raise system_errors.user_error(f'cannot read {path}', error) from error
        try:
            sums = cls._parse(data)
            reason = sums._fault()
            if not reason:
                return sums
        except Exception as error:  # damaged archives raise many kinds of errors
            reason = first_line(error)
        raise UserError(f'{path} is damaged ({reason}): training replaces it')

    @classmethod
    def _parse(cls, data: bytes) -> 'Sums':
        with zipfile.ZipFile(io.BytesIO(data)) as archive:  # NumPy parses before it compares a CRC
            bad = archive.testzip()
        if bad:
            raise ValueError(f'{bad} has another checksum')
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            left_out = int(file['left_out']) if 'left_out' in file else 0
            return cls(int(file['images']), file['pixels_HWC'], file['products'], left_out)

    def _fault(self) -> str:
        """Returns what shows that these are no sums over images; '' for nothing."""
        pixels, products = self.pixels_HWC, self.products
        if not pixels.size or pixels.shape != (len(pixels), len(pixels), 3):
            return f'its mean image is {pixels.shape}'
        if products.shape != (3, 3) or {pixels.dtype, products.dtype} != {np.dtype(np.int64)}:
            return f'its sums are {products.shape} {products.dtype} and {pixels.dtype}'
        if self.images < 1 or self.left_out < 0:
            return f'it is of {self.images:,} images'
        if pixels.min() < 0 or pixels.max() > 255 * self.images:
            return 'its mean image is not within 0 to 255'
        return ''

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


def statistics_file(folder: Path, split: str, size: int, variant: str = '') -> Path:
    """Returns the file with the sums of a split, beside the data.

    Args:
      folder: folder of the data set.
      split: in TFDS's notation; 'train' and 'train[:10%]' have files of their own.
      size: pixels across the images that are counted.
      variant: what else the pixels depend on, such as the filter, where the images are stored at
        another size than they are counted at.
    """
    safe = ''.join(c if c.isalnum() else '_' for c in split)
    if not split.isidentifier():  # 'train[:50%]' and 'train[-50:]' would have the same file
        safe = f'{safe[:60]}_{hashlib.sha256(split.encode()).hexdigest()[:8]}'
    suffix = f'_{variant}' if variant else ''
    return folder / f'statistics_{safe}_{size}{suffix}.npz'


def load_sums(file: Path, images: int, size: int, tolerant: bool) -> Sums | None:
    """Returns the sums in a file if they are those of a split; else says why they are not used.

    Args:
      file: a file written by `Sums.save`; it may be missing.
      images: number of images of the split.
      size: pixels across an image.
      tolerant: whether some images may have been left out.
    """
    try:
        if not file.exists():
            return None
        sums = Sums.load(file)
    except (OSError, UserError) as error:
        show(f'{error}; the mean image is computed again')
        return None
    if len(sums.pixels_HWC) != size:
        reason = f'images of {len(sums.pixels_HWC)} pixels, not of {size}'
    elif sums.images + sums.left_out != images:
        reason = f'{sums.images + sums.left_out:,} images, and there are {images:,}'
    elif sums.left_out and not tolerant:
        reason = f'only {sums.images:,} images; {sums.left_out:,} were left out'
    else:
        return sums
    show(f'{file} is of {reason}; the mean image is computed again')
    return None
