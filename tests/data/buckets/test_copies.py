"""A data set in a bucket is copied once, as far as it is needed, and what is copied is checked."""

import json

import numpy as np
import pytest

import nets
from alexnet_jax.data import sources
from alexnet_jax.data.buckets import copies
from alexnet_jax.data.preparation import disk_space, tfds_sets
from alexnet_jax.runtime import signals
from alexnet_jax.runtime.user_errors import UserError
from bucket_server import BucketServer

TRAIN, TEST = (f'digits-{split}.array_record-00000-of-00001' for split in ('train', 'test'))


@pytest.fixture(params=['gs', 's3'])
def protocol(request):
    return request.param


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A bucket with the digits; copies are in the folder 'here'."""
    prepared = sources.open_splits(nets.small().dataset).folder
    with BucketServer() as server:
        server.add_folder(tfds_sets.data_dir('') / 'digits', 'bucket/sets/digits')
        assert f'bucket/sets/digits/1.0.0/{TRAIN}' in server.objects, prepared
        monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', server.url)
        monkeypatch.setenv('GCE_METADATA_ROOT', server.url.removeprefix('http://'))
        monkeypatch.setenv('AWS_ENDPOINT_URL_S3', server.url)
        monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'someone')
        monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'secret')
        monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'here'))
        monkeypatch.setattr('alexnet_jax.data.buckets.bucket._RETRIES', {'max_retries': 1})
        yield server


def digits(protocol, **changes):
    address = f'{protocol}://bucket/sets'
    return nets.small(**{'dataset__data_dir': address} | changes).dataset


def test_a_data_set_in_a_bucket_has_the_same_records(server, protocol, tmp_path, monkeypatch):
    copied = sources.open_splits(digits(protocol))
    assert copied.folder == str(tmp_path / f'here/.buckets/{protocol}/bucket/sets/digits/1.0.0')
    monkeypatch.undo()
    here = sources.open_splits(nets.small().dataset)
    assert copied.fingerprints == here.fingerprints
    for one, other in ((copied.train, here.train), (copied.eval, here.eval)):
        assert len(one) == len(other)
        for index in (0, len(one) - 1):
            np.testing.assert_array_equal(one[index]['image'], other[index]['image'])


def test_a_complete_copy_is_used_again_and_only_needed_splits_are_copied(server, protocol):
    only_train = {'dataset__train_split': 'train[:90%]', 'dataset__eval_split': 'train[90%:]'}
    sources.open_splits(digits(protocol, **only_train))
    folder = 'bucket/sets/digits/1.0.0'
    assert (server.reads[f'{folder}/{TRAIN}'], server.reads[f'{folder}/{TEST}']) == (1, 0)
    sources.open_splits(digits(protocol))
    sources.open_splits(digits(protocol))
    assert (server.reads[f'{folder}/{TRAIN}'], server.reads[f'{folder}/{TEST}']) == (1, 1)


def test_a_data_set_that_was_replaced_in_the_bucket_is_copied_again(server, protocol, capfd):
    name = 'bucket/sets/digits/1.0.0/dataset_info.json'
    sources.open_splits(digits(protocol))
    info = json.loads(server.objects[name])
    server.objects[name] = json.dumps(info | {'description': 'other digits'}).encode()
    sources.open_splits(digits(protocol))
    assert server.reads[f'bucket/sets/digits/1.0.0/{TRAIN}'] == 2
    assert 'has changed: copying it again' in capfd.readouterr().out


def test_a_stopped_copy_resumes_with_the_shard_that_is_missing(server, protocol, monkeypatch):
    """A signal arrives while the second shard is awaited."""
    read, folder = copies.Bucket.read, 'bucket/sets/digits/1.0.0'

    def read_one_shard(self, names):
        for index, item in enumerate(read(self, names)):
            if 'array_record' in names[0] and index:
                raise signals.Stopped('SIGTERM')
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(copies.Bucket, 'read', read_one_shard)
        with pytest.raises(signals.Stopped):
            sources.open_splits(digits(protocol))
    reads = server.reads[f'{folder}/{TRAIN}']
    sources.open_splits(digits(protocol))
    assert server.reads[f'{folder}/{TRAIN}'] == reads
    assert server.reads[f'{folder}/{TEST}'] >= 1


def test_classes_are_counted_without_copying_an_image(server, protocol):
    assert sources.count_classes(digits(protocol)) == 10
    assert not server.reads[f'bucket/sets/digits/1.0.0/{TRAIN}']


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda data: data[: len(data) // 2], 'is damaged ('),
        (lambda data: data[:200_000] + bytes([data[200_000] ^ 1]) + data[200_001:], 'is damaged ('),
        (lambda data: None, 'is missing: copy the data set to the bucket again'),
    ],
    ids=['truncated', 'flipped', 'missing'],
)
def test_a_damaged_shard_is_named_and_not_kept(server, protocol, tmp_path, damage, message):
    name = f'bucket/sets/digits/1.0.0/{TRAIN}'
    server.objects[name] = damage(server.objects[name])
    with pytest.raises(UserError) as error:
        sources.open_splits(digits(protocol))
    assert f'{protocol}://{name} {message}' in str(error.value)
    assert '\n' not in str(error.value)
    assert not list((tmp_path / 'here').rglob('*array_record*'))


@pytest.mark.parametrize(
    ('status', 'message'),
    [(401, 'log in with'), (403, 'log in with'), (404, 'bucket')],
)
def test_a_bucket_that_cannot_be_read_is_one_line(server, protocol, status, message):
    server.status = status
    with pytest.raises(UserError, match=r'sets (cannot be listed \(|has no data set)') as error:
        sources.open_splits(digits(protocol))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_a_server_that_does_not_answer_is_one_line(server, protocol, monkeypatch):
    monkeypatch.setenv('AWS_ENDPOINT_URL_S3', 'http://127.0.0.1:9')
    monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', 'http://127.0.0.1:9')
    with pytest.raises(UserError, match='when the network works, the same command resumes'):
        sources.open_splits(digits(protocol))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'name': 'mnist'}, 's has no data set mnist (a folder mnist/VERSION'),
        ({'name': 'digits:2.0.0'}, 's has no data set digits:2.0.0'),
        ({'name': '../digits'}, "'../digits' is not the name of a data set in a bucket"),
        ({'data_dir': 'gs://'}, 'is not the address of a folder in a bucket'),
        ({'data_dir': 's3://bucket/../x'}, 'is not the address of a folder in a bucket'),
        ({'data_dir': 'gs://B/x'}, 'dataset.data_dir=gs://B/x cannot be used'),
        ({'eval_split': 'nothing'}, "has no split 'nothing'"),
        ({'train_split': ''}, 'dataset.train_split is empty'),
    ],
)
def test_what_cannot_be_meant_is_one_line(server, changes, message):
    values = {f'dataset__{name}': value for name, value in changes.items()}
    with pytest.raises(UserError) as error:
        sources.open_splits(digits('gs', **values))
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_a_data_set_that_does_not_fit_on_the_disk_is_refused_before_it_is_copied(
    server, monkeypatch
):
    monkeypatch.setattr(disk_space, 'SPARE', 1 << 60)
    with pytest.raises(UserError, match='GB free and about'):
        sources.open_splits(digits('gs'))
    assert not server.reads[f'bucket/sets/digits/1.0.0/{TRAIN}']
