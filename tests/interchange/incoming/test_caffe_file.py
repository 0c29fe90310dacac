"""The reader of Caffe's files, on files of each generation that the tests write themselves."""

import struct
import tracemalloc

import numpy as np
import pytest

import caffe_files
from alexnet_jax.interchange.incoming import caffe_file, wire_format
from alexnet_jax.runtime.user_errors import UserError
from caffe_files import Form, Layer, integer, message

FORMS = [
    Form(version, packed, legacy, double)
    for version in ('v2', 'v1', 'v0')
    for packed in (True, False)
    for legacy in (True, False)
    for double in (True, False)
]


def small_layers():
    rng = np.random.default_rng(0)
    return [
        Layer('data', 'Data', {}),
        Layer(
            'conv1',
            'Convolution',
            dict(num_output=4, pad=2, kernel_size=5, group=2, stride=3),
            (
                rng.standard_normal((4, 3, 5, 5)).astype(np.float32),
                rng.standard_normal(4).astype(np.float32),
            ),
        ),
        Layer('norm1', 'LRN', dict(local_size=3, alpha=0.5, k=2.0)),
        Layer('fc8', 'InnerProduct', {}, (rng.standard_normal((70, 4000)).astype(np.float32),)),
    ]


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize('form', FORMS, ids=lambda form: '-'.join(map(str, form)))
def test_every_generation_is_read_bit_by_bit(form, tmp_path):
    layers = small_layers()
    net = caffe_file.read_net(write(tmp_path / 'x.caffemodel', caffe_files.net(layers, form)))
    assert net.name == 'AlexNet'
    assert [layer.name for layer in net.layers] == ['data', 'conv1', 'norm1', 'fc8']
    types = [layer.type for layer in net.layers[1:]]
    assert types == ['Convolution', 'LRN', 'InnerProduct']
    for actual, expected in zip(net.layers, layers, strict=True):
        for array, blob in zip(actual.blobs, expected.blobs, strict=True):
            assert array.dtype == (np.float64 if form.double else np.float32)
            sizes = (1,) * (4 - blob.ndim) + blob.shape if form.legacy else blob.shape
            assert array.shape == sizes
            np.testing.assert_array_equal(array.reshape(blob.shape), blob)
    if form.version != 'v0':  # which has the padding in layers of its own
        settings = {layer.name: dict(layer.settings) for layer in net.layers}
        assert settings['conv1'] == dict(pad=2, group=2, stride=3, dilation=1)
        assert settings['norm1'] == dict(local_size=3, alpha=0.5, beta=0.75, norm_region=0, k=2)
        assert settings['data'] == settings['fc8'] == {}


def test_unknown_fields_are_skipped_and_pieces_of_an_array_are_joined(tmp_path):
    array = np.arange(12, dtype='<f4')
    data = [
        message(5, array[:4].tobytes()),
        message(99, b'unknown'),
        integer(98, 2**63),
        *(caffe_files.real(5, value) for value in array[4:9]),
        caffe_files.tag(97, 1) + bytes(8),
        message(6, bytes(8)),  # diff
        message(5, array[9:].tobytes()),
        message(7, message(1, bytes([3, 4]))),
    ]
    blob = caffe_file.read_blob(write(tmp_path / 'mean', b''.join(data)))
    np.testing.assert_array_equal(blob, array.reshape(3, 4))


def test_packed_arrays_need_no_memory_and_unpacked_ones_at_most_three_times_theirs(tmp_path):
    array = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    peaks = {}
    for packed in (True, False):
        file = write(tmp_path / 'mean', caffe_files.blob(array, Form(packed=packed)))
        tracemalloc.start()
        np.testing.assert_array_equal(caffe_file.read_blob(file)[:9], array[:9])
        peaks[packed] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[True] < 200_000
    assert peaks[False] < 3 * array.nbytes


FLOATS = message(5, struct.pack('<4f', 1, 2, 3, 4))


def sized(*sizes):
    return message(7, message(1, b''.join(map(caffe_files.varint, sizes))))


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'is empty'),
        (FLOATS + sized(2**60), 'shape (1152921504606846976) has 4 numbers'),
        (FLOATS + sized(2**32, 2**32), 'has 4 numbers'),
        (FLOATS + sized(-1, -4), 'has 4 numbers'),
        (FLOATS + sized(5), 'shape (5) has 4 numbers'),
        (FLOATS + sized(*[1] * 40), 'a list has more than 32 numbers'),
        (FLOATS + message(7, integer(1, 1) * 40), 'more than 32 axes'),
        (FLOATS[:-1], 'a value of 16 bytes is longer than the 15 bytes that are left'),
        (message(5, bytes(7)) + sized(2), 'ends within a number'),
        (caffe_files.tag(5, 2) + b'\xff' * 9 + b'\x01', 'a value of 18,446,744,073,709,551,615'),
        (caffe_files.tag(5, 2) + b'\xff' * 11, 'longer than 64 bits'),
        (caffe_files.tag(5, 3) + caffe_files.tag(5, 4), 'a group'),
        (caffe_files.tag(5, 6), 'wire type 6'),
        (caffe_files.tag(5, 5) + bytes(3), 'a number of 4 bytes is cut off'),
        (caffe_files.tag(5, 1) + bytes(8), 'wrong type'),
        (integer(7, 3) + FLOATS, 'field 7 has the wrong type'),
        (message(8, bytes(16)) + FLOATS + sized(6), 'numbers of two types'),
        (bytes(100), 'a field has the number 0'),
        (b'\x89HDF\r\n\x1a\n' + bytes(9), 'is an HDF5 file'),
        (b'name: "AlexNet"\nlayer {\n', 'is a text, such as a .prototxt'),
    ],
)
def test_damage_is_told_in_one_line(data, reason, tmp_path):
    with pytest.raises(UserError) as error:
        caffe_file.read_blob(write(tmp_path / 'mean', data))
    assert reason in str(error.value)
    assert '\n' not in str(error.value)


def test_the_number_of_fields_is_limited():
    reader = wire_format.Reader(limit=10)
    assert len(list(reader.fields(memoryview(integer(9, 1) * 7)))) == 7
    with pytest.raises(wire_format.DamagedError, match='too many fields'):
        list(reader.fields(memoryview(integer(9, 1) * 4)))


def test_messages_within_messages_are_not_descended_into(tmp_path):
    data = b''
    while len(data) < 100_000:
        data = message(7, data)
    with pytest.raises(UserError, match='it has no layer with weights'):
        caffe_file.read_net(write(tmp_path / 'x', data))
    layers = message(100, message(1, 'x'))
    with pytest.raises(UserError, match='it has more than 10,000 layers'):
        caffe_file.read_net(write(tmp_path / 'x', layers * 10_001))
