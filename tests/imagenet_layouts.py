"""Writes the images of synthetic tars (tars.py) in the other layouts that people have."""

import csv
import io
import json
import random
import tarfile
import zipfile

import pyarrow
import pyarrow.parquet

import tars
from alexnet_jax.data.preparation.layouts import imagenet_tars

TEST_IMAGE = 'ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG'
ANNOTATION = 'ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml'


def read_tars(folder):
    """Returns the images of a folder of tars: {split: {name: bytes}}."""
    train, validation = {}, {}
    with tarfile.open(folder / 'ILSVRC2012_img_train.tar') as outer:
        for synset in outer:
            with tarfile.open(fileobj=io.BytesIO(outer.extractfile(synset).read())) as inner:
                train |= {member.name: inner.extractfile(member).read() for member in inner}
    with tarfile.open(folder / 'ILSVRC2012_img_val.tar') as outer:
        validation = {member.name: outer.extractfile(member).read() for member in outer}
    return {'train': train, 'validation': validation}


TRUTH = imagenet_tars.validation_synsets_2012()
LABELS = {synset: label for label, synset in enumerate(imagenet_tars.labels_2012())}


def synset_of(name):
    return TRUTH.get(name) or name.partition('_')[0]


def label_of(name):
    return LABELS[synset_of(name)]


def tree(images, flat=False, prefix=''):
    """Returns the paths in a tree of train/ and val/, and the contents."""
    files = {f'{prefix}train/{n.partition("_")[0]}/{n}': d for n, d in images['train'].items()}
    for name, data in images['validation'].items():
        folder = '' if flat else f'{TRUTH[name]}/'
        files[f'{prefix}val/{folder}{name}'] = data
    return files


def kaggle(images):
    """Returns the paths and contents of Kaggle's archive."""
    files = tree(images, flat=True, prefix='ILSVRC/Data/CLS-LOC/')
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(['ImageId', 'PredictionString'])
    for name in images['validation']:
        rows.writerow([name.removesuffix('.JPEG'), f'{synset_of(name)} 1 2 30 40 '])
    files['LOC_val_solution.csv'] = text.getvalue().encode()
    files[TEST_IMAGE] = files[ANNOTATION] = b'not labelled'
    return files


def write_folder(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


class _Pipe(io.BytesIO):
    """A file that tells no position, as a pipe."""

    def tell(self):
        raise OSError

    def seek(self, *_):
        raise OSError


def write_zip(path, files, method=zipfile.ZIP_DEFLATED, streamed=False):
    """Writes a zip; `streamed`: as to a pipe, with the CRC-32 after each member."""

    target = _Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(target, 'w', method, compresslevel=1) as file:
        for name, data in files.items():
            file.writestr(name, data)
    path.write_bytes(target.getvalue())
    return path


def write_tar(path, files):
    with tarfile.open(path, 'w:gz' if path.name.endswith('gz') else 'w', **_fast(path)) as tar:
        for name, data in files.items():
            tars.add(tar, name, data)
    return path


def _fast(path):
    return {'compresslevel': 1} if path.name.endswith('gz') else {}


def write_parquet(folder, images, files=3, named=True, label=label_of, rows=100):
    """Writes the files of the Hub: rows in an order of their own, in blocks of 100."""
    (folder / 'data').mkdir(parents=True)
    for split, contents in images.items():
        names = sorted(contents)
        random.Random(0).shuffle(names)
        for number in range(files):
            part = names[number::files]
            paths = [f'{n.removesuffix(".JPEG")}_{synset_of(n)}.JPEG' for n in part]
            table = pyarrow.table(
                {
                    'image': [
                        {'bytes': contents[name], 'path': path if named else None}
                        for name, path in zip(part, paths, strict=True)
                    ],
                    'label': [label(name) for name in part],
                }
            )
            file = folder / 'data' / f'{split}-{number:05d}-of-{files:05d}.parquet'
            pyarrow.parquet.write_table(table, file, row_group_size=rows)
    return folder


def write_hub_tars(folder, images, files=2):
    """Writes the archives that the Hub had before its parquet files."""
    (folder / 'data').mkdir(parents=True)
    for split, contents in images.items():
        names = [(f'{n.removesuffix(".JPEG")}_{synset_of(n)}.JPEG', n) for n in sorted(contents)]
        if split == 'validation':
            write_tar(folder / 'data/val_images.tar.gz', {path: contents[n] for path, n in names})
            continue
        for number in range(files):
            part = {path: contents[n] for path, n in names[number::files]}
            write_tar(folder / f'data/train_images_{number}.tar.gz', part)
    write_tar(folder / 'data/test_images.tar.gz', {'ILSVRC2012_test_00000001.JPEG': b'x'})
    return folder


def write_webdataset(folder, images, shards=4, named=True, label=label_of):
    folder.mkdir(parents=True)
    for split, contents in images.items():
        names = sorted(contents)
        random.Random(0).shuffle(names)
        for number in range(shards):
            files = {}
            for i, name in enumerate(names[number::shards]):
                key = name.removesuffix('.JPEG') if named else f'{i:08d}'
                files[f'{key}.jpg'] = contents[name]
                files[f'{key}.cls'] = str(label(name)).encode()
                if named:
                    info = {'filename': f'{synset_of(name)}/{name}', 'label': label(name)}
                    files[f'{key}.json'] = json.dumps(info).encode()
            write_tar(folder / f'imagenet1k-{split}-{number:04d}.tar', files)
    return folder
