"""Synthetic tars and folders with the structure of the real ones, unusual images included."""

import io
import tarfile

import numpy as np
from PIL import Image

from alexnet_jax.data.preparation.layouts import imagenet_tars

CMYK, PNG = 'n01739381_1309.JPEG', 'n02105855_2933.JPEG'  # their names in ILSVRC-2012


def picture(rng, rows, columns):
    """Returns smooth noise, which compresses like a photograph; (rows, columns, 3) uint8."""
    coarse = rng.integers(0, 256, (max(2, rows // 32), max(2, columns // 32), 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC))


def encode(image, form='JPEG', mode='RGB', **options):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, form, **options)
    return file.getvalue()


def unusual():
    """Returns images in unusual formats and sizes by their names."""
    rng = np.random.default_rng(1)
    orientation = Image.Exif()
    orientation[0x0112] = 6  # a quarter turn
    return {
        CMYK: encode(picture(rng, 120, 100), mode='CMYK'),
        PNG: encode(picture(rng, 120, 100), 'PNG'),
        'n01440764_1.JPEG': encode(picture(rng, 90, 130), mode='L'),
        'n01440764_2.JPEG': encode(picture(rng, 90, 130), exif=orientation.tobytes()),
        'n01440764_3.JPEG': encode(picture(rng, 20, 30)),
        'n01440764_4.JPEG': encode(picture(rng, 1500, 2500)),
    }


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def pack(files):
    """Returns the bytes of a tar with these files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as tar:
        for name, data in files.items():
            add(tar, name, data)
    return file.getvalue()


def typical(rng, images):
    """Returns JPEGs of various sizes, as ImageNet has them but smaller."""
    return [
        encode(picture(rng, int(r), int(c)), quality=85)
        for r, c in rng.integers(60, 160, (images, 2))
    ]


def ilsvrc2012(folder, images=1, validation=20, synsets=1000, extra=None):
    """Writes the tars of train and val; returns `folder`.

    Args:
      folder: receives the tars.
      images: images per synset; 50 different pictures are used again and again.
      validation: number of validation images.
      synsets: number of synsets, at most 1,000.
      extra: further training images by name, whose synset is one of these; None for `unusual()`.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, extra = typical(rng, 50), unusual() if extra is None else extra
    with tarfile.open(folder / 'ILSVRC2012_img_train.tar', 'w') as train:
        for n, synset in enumerate(imagenet_tars.labels_2012()[:synsets]):
            files = {f'{synset}_{100 + i}.JPEG': pictures[(n + i) % 50] for i in range(images)}
            files |= {name: data for name, data in extra.items() if name.startswith(synset)}
            add(train, f'{synset}.tar', pack(files))
    with tarfile.open(folder / 'ILSVRC2012_img_val.tar', 'w') as val:
        for number in range(1, validation + 1):
            add(val, f'ILSVRC2012_val_{number:08d}.JPEG', pictures[number % 50])
    return folder


def class_folders(folder, classes=('cat', 'dog'), images=20):
    """Writes a folder of JPEGs for each class, which differ in colour; returns `folder`."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            image = picture(rng, 40, 50) // 2
            image[..., label % 3] += 100
            (folder / name / f'{i}.jpg').write_bytes(encode(image))
    return folder
