"""Damaged and hostile files of weights: one line each, nothing executed, bounded memory."""

import functools
import json
import os
import pickle
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

import caffe_files
import nets
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.interchange import grouped_layout, safetensors_files
from alexnet_jax.interchange.incoming import importing
from alexnet_jax.interchange.incoming.importing import Request
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model import alexnet
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files.inputs_file import Inputs
from caffe_files import Form, integer, message, varint

TINY = {'model.width': 1 / 24, 'dataset.image_size': 110, 'augmentation.crop': 104}
READERS = {
    'caffe': importing.import_caffe,
    'torchvision': importing.import_torchvision,
    'export': importing.import_export,
}
SUFFIXES = {'caffe': '.caffemodel', 'torchvision': '.safetensors', 'export': '.safetensors'}


def config(recipe):
    overrides = {name.replace('.', '__'): value for name, value in TINY.items()}
    return nets.override(nets.load(recipe), **overrides, dataset__classes=4)


@functools.cache
def good(kind):
    """The bytes of an undamaged file."""
    if kind == 'caffe':
        shapes = grouped_layout.shapes(config('bvlc_alexnet'))
        weights = {k.removesuffix('.weight'): v for k, v in shapes.items() if 'weight' in k}
        groups = grouped_layout.groups(config('bvlc_alexnet'))
        return caffe_files.net(caffe_files.alexnet(weights, groups), Form('v1', legacy=True))
    if kind == 'torchvision':
        names = zip(
            grouped_layout.shapes(config('torchvision')).items(), _tensor_names(), strict=True
        )
        return save({name: np.ones(shape, np.float32) for (_, shape), name in names})
    return b''


def _tensor_names():
    layers = [*(f'features.{i}' for i in (0, 3, 6, 8, 10)), *(f'classifier.{i}' for i in (1, 4, 6))]
    return [f'{layer}.{kind}' for layer in layers for kind in ('weight', 'bias')]


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """The bytes of an export in our layout."""
    net = config('bvlc_alexnet')
    size, classes = net.dataset.image_size, tuple('abcd')
    inputs = Inputs(np.zeros((size, size, 3), np.float32), COLOURS_2012, classes)
    path = tmp_path_factory.mktemp('export') / 'model.safetensors'
    safetensors_files.write(PortableNet(net, alexnet.initialize(net), inputs), path)
    return path.read_bytes()


def read(kind, path):
    """Imports a file; returns the line that refuses it, '' for none, and the memory used."""
    overrides = {} if kind == 'export' else TINY
    tracemalloc.start()
    try:
        READERS[kind](path, Request(overrides=overrides))
        line = ''
    except UserError as error:
        line = str(error)
        assert line
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return line, peak


def truncated(data, rng):
    return data[: rng.randrange(len(data))]


def flipped(data, rng):
    """Flips bits of a file, most of them near its start, where lengths and names are."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        end = rng.choice([64, 1024, len(data)])
        changed[rng.randrange(min(end, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def enlarged(data, rng):
    """Replaces eight bytes by a large number."""
    at = rng.randrange(max(1, min(len(data) - 8, 2048)))
    number = rng.choice([2**63 - 1, 2**60, 2**40, 2**31])
    return data[:at] + struct.pack('<Q', number) + data[at + 8 :]


def overwritten(data, rng):
    at, length = rng.randrange(rng.choice([2048, len(data)])), rng.randint(1, 300)
    return data[:at] + rng.randbytes(length) + data[at + length :]


@pytest.mark.parametrize('damage', [truncated, flipped, enlarged, overwritten])
@pytest.mark.parametrize('kind', READERS)
def test_damaged_files_are_refused_in_one_line(kind, damage, exported, tmp_path):
    """18 files for each kind of file and of damage, 216 in all.

    Beside the file, which is mapped, memory holds each array at most three times: in the layout of
    the file, divided for dropout, and in ours. A flipped bit of a weight is no damage.
    """
    data = exported if kind == 'export' else good(kind)
    path, rng, refused = tmp_path / f'x{SUFFIXES[kind]}', random.Random(damage.__name__ + kind), 0
    path.write_bytes(data)
    assert read(kind, path)[0] == ''
    for _ in range(18):
        path.write_bytes(damage(data, rng))
        line, peak = read(kind, path)
        refused += bool(line)
        assert '\n' not in line
        assert peak < 3 * len(data) + 3_000_000
    assert refused > (12 if damage is truncated else 3)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def header(entries, data=b''):
    text = json.dumps(entries).encode()
    return struct.pack('<Q', len(text)) + text + data


TENSOR = {'dtype': 'F32', 'shape': [2**30, 2**30], 'data_offsets': [0, 8]}
HOSTILE_SAFETENSORS = {
    'huge header': struct.pack('<Q', 2**63) + b'{}',
    'long header': struct.pack('<Q', 2**25) + b' ' * 2**25,
    'deep header': header('x')[:8] + b'[' * 100_000,
    'huge shape': header({'features.0.weight': TENSOR}, bytes(8)),
    'offsets beyond the end': header(
        {'features.0.weight': TENSOR | {'shape': [2], 'data_offsets': [0, 2**40]}}, bytes(8)
    ),
    'negative offsets': header({'a': TENSOR | {'data_offsets': [-8, 0]}}, bytes(8)),
    'no list': header([1, 2]),
    'empty': b'',
    'text': b'<html>404 Not Found</html>',
}


@pytest.mark.parametrize('name', HOSTILE_SAFETENSORS)
@pytest.mark.parametrize('kind', ['torchvision', 'export'])
def test_hostile_safetensors_are_refused(kind, name, tmp_path):
    data = HOSTILE_SAFETENSORS[name]
    path = tmp_path / 'x.safetensors'
    path.write_bytes(data)
    line, peak = read(kind, path)
    assert str(path) in line
    assert '\n' not in line
    assert peak < len(data) + 3_000_000


@pytest.mark.parametrize('kind', READERS)
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.caffemodel'])
def test_a_pickle_in_place_of_weights_is_not_executed(kind, suffix, tmp_path):
    victim, path = tmp_path / 'made', tmp_path / f'x{suffix}'
    path.write_bytes(pickle.dumps({'features.0.weight': Harmful(victim)}, protocol=2))
    assert read(kind, path)[0]
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', pickle.dumps(Harmful(victim), protocol=2))
        archive.writestr('x/version', '3\n')
        archive.writestr('x/byteorder', 'little')
    line, _ = read(kind, path)
    assert line
    assert '\n' not in line
    assert not victim.exists()


def number_pickle(number):
    """A pickle like that of a state dict with a storage of so many numbers."""
    return pickle.dumps({'a': ('storage', 'FloatStorage', '0', 'cpu', number)}, protocol=2)


def test_a_pth_that_would_need_more_memory_than_it_has_bytes_is_refused_unread(tmp_path):
    path = tmp_path / 'x.pth'
    members = {
        'is compressed': {'x/data.pkl': number_pickle(4), 'x/data/0': bytes(100_000_000)},
        'states 1,152,921,504,606,846,976 numbers': {'x/data.pkl': number_pickle(2**60)},
        'has a pickle of 2,000,000 bytes': {'x/data.pkl': bytes(2_000_000)},
        'more than 10,000 members': {f'x/{i}': b'' for i in range(10_001)},
        'exhausted before seeing STOP': {'x/data.pkl': b'\x80\x02]'},
    }
    for reason, files in members.items():
        kind = zipfile.ZIP_DEFLATED if reason == 'is compressed' else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, 'w', kind) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        line, peak = read('torchvision', path)
        assert reason in line
        assert peak < 20_000_000
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    legacy = [magic, pickle.dumps(1001, 2), pickle.dumps({}, 2), number_pickle(2**60)]
    path.write_bytes(b''.join(legacy) + bytes(5000))
    assert 'states 1,152,921,504,606,846,976 numbers' in read('torchvision', path)[0]
    path.write_bytes(magic)
    assert 'is damaged, or was not saved by PyTorch' in read('torchvision', path)[0]


@pytest.mark.parametrize(
    'blob',
    [
        message(7, message(1, varint(2**60))) + message(5, bytes(8)),
        b''.join(integer(i, 2**40) for i in range(1, 5)) + message(5, bytes(8)),
        message(7, message(1, varint(2))) + varint(5 << 3 | 2) + varint(2**60),
        message(7, message(7, message(7, message(7, b'')))) + message(5, bytes(4)) * 3,
    ],
)
def test_a_hostile_array_in_a_caffemodel_is_refused(blob, tmp_path):
    path = tmp_path / 'x.caffemodel'
    path.write_bytes(message(100, message(1, 'conv1') + message(7, blob)) + good('caffe'))
    line, peak = read('caffe', path)
    assert 'is damaged' in line or 'has the shape' in line
    assert peak < 1_000_000


@pytest.mark.parametrize('kind', READERS)
def test_a_folder_and_a_missing_file_are_told(kind, tmp_path):
    for path in (tmp_path, tmp_path / 'missing'):
        line, _ = read(kind, path)
        assert 'there is no file' in line or 'is not a file' in line
