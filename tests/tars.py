"""Made-up tars and folders with the structure of the real ones, odd images included."""

import io
import tarfile

import numpy as np
from PIL import Image

from alexnet_jax.data import catalogue

CMYK, PNG = 'n01739381_1309.JPEG', 'n02105855_2933.JPEG'  # under their real names


def picture(rng, rows, columns):
    """Smooth noise, as photographs are; (rows, columns, 3) uint8."""
    coarse = rng.integers(0, 256, (max(2, rows // 32), max(2, columns // 32), 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC))


def encoded(image, form='JPEG', mode='RGB', **options):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, form, **options)
    return file.getvalue()


def odd():
    """Images that are not as most are, by name."""
    rng = np.random.default_rng(1)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    return {
        CMYK: encoded(picture(rng, 120, 100), mode='CMYK'),
        PNG: encoded(picture(rng, 120, 100), 'PNG'),
        'n01440764_1.JPEG': encoded(picture(rng, 90, 130), mode='L'),
        'n01440764_2.JPEG': encoded(picture(rng, 90, 130), exif=turned.tobytes()),
        'n01440764_3.JPEG': encoded(picture(rng, 20, 30)),
        'n01440764_4.JPEG': encoded(picture(rng, 1500, 2500)),
    }


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def packed(files):
    """A tar of files as bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as tar:
        for name, data in files.items():
            add(tar, name, data)
    return file.getvalue()


def usual(rng, images):
    """JPEGs of sizes as ImageNet has them, smaller."""
    return [
        encoded(picture(rng, int(r), int(c)), quality=85)
        for r, c in rng.integers(60, 160, (images, 2))
    ]


def ilsvrc2012(folder, images=1, validation=20, synsets=1000, extra=None):
    """The tars of train and val; `images` to a synset (some of the same pixels), and `extra`."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    few, extra = usual(rng, 50), odd() if extra is None else extra
    with tarfile.open(folder / 'ILSVRC2012_img_train.tar', 'w') as train:
        for n, synset in enumerate(catalogue.labels_2012()[:synsets]):
            files = {f'{synset}_{100 + i}.JPEG': few[(n + i) % 50] for i in range(images)}
            files |= {name: data for name, data in extra.items() if name.startswith(synset)}
            add(train, f'{synset}.tar', packed(files))
    with tarfile.open(folder / 'ILSVRC2012_img_val.tar', 'w') as val:
        for number in range(1, validation + 1):
            add(val, f'ILSVRC2012_val_{number:08d}.JPEG', few[number % 50])
    return folder


def class_folders(folder, classes=('cat', 'dog'), images=20):
    """One folder of JPEGs per class; each class is a colour."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            image = picture(rng, 40, 50) // 2
            image[..., label % 3] += 100
            (folder / name / f'{i}.jpg').write_bytes(encoded(image))
    return folder
