"""Synthetic photographs in tars like those of ILSVRC-2012, to time the programs that read them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import numpy as np
from PIL import Image

from alexnet_jax.data.preparation.layouts import imagenet_tars

SYNSETS, DISTINCT, VALIDATION = 16, 32, 16


def photograph(rng: np.random.Generator) -> bytes:
    """Makes a JPEG of 500x375 pixels: noise at all scales, hence about as large as a photograph."""
    pixels_HWC = rng.normal(120, 4, (375, 500, 3))
    for scale in (4, 8, 16, 32, 64, 128, 256):
        coarse = rng.integers(256, size=(375 // scale + 2, 500 // scale + 2, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        pixels_HWC += 0.5 * (scale / 256) ** 0.2 * (np.asarray(smooth) - 127.5)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels_HWC, 0, 255).astype(np.uint8)).save(file, 'JPEG', quality=90)
    return file.getvalue()


def tar_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns a tar of files; each is a pair of name and content."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode='w') as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def make_tars(folder: Path, count: int) -> float:
    """Writes the two tars of ILSVRC-2012 with few synsets and images.

    Args:
      folder: where to; it is made.
      count: the number of training images.

    Returns:
      The mean size of an image in bytes.
    """
    rng = np.random.default_rng(0)
    pool, inner = [photograph(rng) for _ in range(DISTINCT)], []
    for number, synset in enumerate(imagenet_tars.labels_2012()[:SYNSETS]):
        own = range(number, count, SYNSETS)
        files = ((f'{synset}_{i}.JPEG', pool[i // SYNSETS % DISTINCT]) for i in own)
        inner.append((f'{synset}.tar', tar_of(files)))
    held_out = ((f'ILSVRC2012_val_{i + 1:08d}.JPEG', pool[i]) for i in range(VALIDATION))
    folder.mkdir()
    (folder / 'ILSVRC2012_img_train.tar').write_bytes(tar_of(inner))
    (folder / 'ILSVRC2012_img_val.tar').write_bytes(tar_of(held_out))
    return mean(map(len, pool))
