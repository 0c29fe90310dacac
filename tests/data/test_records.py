import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import records

NAMES = (b'image', b'label', b'file_name')


def example(**features):
    """As the library writes it."""
    made = tf_example_pb2.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return made.SerializeToString()


@pytest.mark.parametrize('size', [0, 1, 100, 127, 128, 20_000, 3_000_000])
def test_features_are_where_the_library_put_them(size):
    image = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    record = example(
        image=[image, b'another'],
        more=[0.5, 2.5],
        label=[300, 7],
        file_name=[b'n01440764_1.JPEG'],
        strange=[b'image'],
    )
    found = records.features_of(record, NAMES)
    assert record[slice(*found[b'image'])] == image
    assert record[slice(*found[b'file_name'])] == b'n01440764_1.JPEG'
    assert records._varint(record, found[b'label'][0])[0] == 300
    assert found.keys() == set(NAMES)


def test_what_is_not_there_is_not_found():
    assert records.features_of(example(other=[1]), NAMES) == {}
    assert records.features_of(b'', NAMES) == {}


def test_broken_bytes_never_pass_for_a_whole_image():
    """Cut off anywhere, it is an error or the image is not found; never a part of it."""
    record = example(image=[b'x' * 500], label=[3])
    for end in range(len(record)):
        try:
            found = records.features_of(record[:end], NAMES)
        except (IndexError, ValueError):
            continue
        assert b'image' not in found or found[b'image'][1] <= end
