"""A small data set for fine-tuning: digits in print, as a folder of images per class."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 72  # pixels across an image, as in the embedded digits


def write_folder(folder: Path, images: int, test_images: int, seed: int = 0) -> None:
    """Writes `train` and `test`, each with a folder of PNGs for each of the ten digits.

    Args:
      folder: where to write; it need not exist.
      images: the number of training images of each class.
      test_images: the number of test images of each class.
      seed: the source of sizes, positions, rotations and greys.
    """
    rng = np.random.default_rng(seed)
    for split, number in (('train', images), ('test', test_images)):
        for digit in range(10):
            of_class = folder / split / str(digit)
            of_class.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                draw(digit, rng).save(of_class / f'{i:03}.png')


def draw(digit: int, rng: np.random.Generator) -> Image.Image:
    """Draws a digit with Pillow's own font, brighter than its background, at random.

    It is half to nine tenths as high as the image and rotated by up to 15 degrees, and its grey
    exceeds that of the background by at least 80 of 255.
    """
    background = int(rng.integers(0, 80))
    grey = int(rng.integers(background + 80, 256))
    font = ImageFont.load_default(size=float(rng.uniform(60, 90)))
    image = Image.new('L', (SIZE, SIZE), background)
    place = tuple(SIZE / 2 + rng.uniform(-6, 6, 2))
    ImageDraw.Draw(image).text(place, str(digit), fill=grey, font=font, anchor='mm')
    angle = rng.uniform(-15, 15)
    turned = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=background)
    return turned.convert('RGB')
