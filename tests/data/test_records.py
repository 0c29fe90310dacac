import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import records

NAMES = (b'image', b'label', b'file_name')


def example(**features):
    """Serializes an example with the library."""
    message = tf_example_pb2.Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString()


@pytest.mark.parametrize('size', [0, 1, 100, 127, 128, 20_000, 3_000_000])
def test_features_are_located_where_the_library_wrote_them(size):
    image = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    record = example(
        image=[image, b'another'],
        more=[0.5, 2.5],
        label=[300, 7],
        file_name=[b'n01440764_1.JPEG'],
        other=[b'image'],
    )
    locations = records.locate_features(record, NAMES)
    assert record[slice(*locations[b'image'])] == image
    assert record[slice(*locations[b'file_name'])] == b'n01440764_1.JPEG'
    assert records._varint(record, locations[b'label'][0])[0] == 300
    assert locations.keys() == set(NAMES)


def test_missing_features_are_not_located():
    assert records.locate_features(example(other=[1]), NAMES) == {}
    assert records.locate_features(b'', NAMES) == {}


def test_truncated_bytes_are_never_taken_for_a_complete_image():
    """Truncation is an error, or the image is not located; a part of it never is."""
    record = example(image=[b'x' * 500], label=[3])
    for end in range(len(record)):
        try:
            locations = records.locate_features(record[:end], NAMES)
        except (IndexError, ValueError):
            continue
        assert b'image' not in locations or locations[b'image'][1] <= end
