import contextlib
import io
import json
import shutil

import pytest

import tars
from alexnet_jax.data import dataset_check, records
from alexnet_jax.data.preparation import prepared_sets, writing
from alexnet_jax.data.preparation.catalogue import Catalogue, Entries
from alexnet_jax.data.preparation.layouts import imagenet_tars
from alexnet_jax.data.preparation.own_images import class_folders
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.runtime.signals import Stopped
from alexnet_jax.runtime.user_errors import UserError


def ignore(*_):
    """Ignores messages and progress."""


def prepare(data_dir, catalogue, raw=False):
    storage = Storage(size=32, raw=raw)
    return writing.write(catalogue, storage, data_dir, 1, 0, ignore, ignore).folder


@pytest.fixture(scope='module')
def catalogue(tmp_path_factory):
    return imagenet_tars.list_images(
        tars.ilsvrc2012(tmp_path_factory.mktemp('tars'), extra={}), ignore
    )


@pytest.fixture
def complete(monkeypatch):
    """Sets the published number of images to the number that the tars have."""
    monkeypatch.setitem(imagenet_tars.IMAGES_2012, 'train', 1000)


def examine(data_dir, name='', sample=20):
    """Returns the exit code and the output."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = dataset_check.examine(data_dir, name, sample)
    return code, out.getvalue()


@pytest.mark.parametrize('raw', [False, True])
def test_a_complete_data_set_has_no_faults(catalogue, tmp_path, complete, raw):
    prepare(tmp_path, catalogue, raw=raw)
    code, out = examine(tmp_path)
    assert code == 0, out
    assert 'train: 1,000 images of 1,000 published; 1 in each of 1,000 classes; 20 decoded' in out
    assert 'in the order of their WordNet ids' in out
    assert 'mean colour' in out
    assert 'no faults' in out


def test_missing_images_are_a_fault_unless_they_were_allowed(catalogue, tmp_path):
    folder = prepare(tmp_path, catalogue)
    code, out = examine(tmp_path, 'imagenet2012_32')
    assert code == 0  # --partial allowed it
    assert 'train: 1,000 images of 1,281,167 published' in out
    (folder / prepared_sets.SOURCE).unlink()
    folder.parent.rename(tmp_path / 'imagenet2012')
    info = tmp_path / 'imagenet2012' / '5.1.0' / 'dataset_info.json'
    info.write_text(info.read_text().replace('imagenet2012_32', 'imagenet2012'))
    for shard in info.parent.glob('imagenet2012_32-*'):
        shard.rename(info.parent / shard.name.replace('imagenet2012_32', 'imagenet2012'))
    code, out = examine(tmp_path, 'imagenet2012')
    assert code == 1, out
    assert 'FAULT: train has 1,000 images, not 1,281,167' in out


def test_a_flipped_bit_is_detected_without_decoding(catalogue, tmp_path, complete):
    folder = prepare(tmp_path, catalogue)
    shard = next(folder.glob('*-train.array_record-00001-*'))
    data = bytearray(shard.read_bytes())
    data[150_000] ^= 4
    shard.write_bytes(data)
    code, out = examine(tmp_path, sample=1)
    assert code == 1
    assert f'of {shard.name} is damaged' in out


def test_trouble_of_the_system_is_no_fault_of_the_data(catalogue, tmp_path, complete, monkeypatch):
    prepare(tmp_path, catalogue)

    def fail(_):
        raise RuntimeError('open() failed: Too many open files; opening x')

    monkeypatch.setattr(records, '_open_shard', fail)
    with pytest.raises(UserError, match=r'cannot read .*train.* \(Too many open files\)'):
        examine(tmp_path)


def test_a_truncated_shard_is_detected(catalogue, tmp_path, complete):
    folder = prepare(tmp_path, catalogue)
    shard = next(folder.glob('*-train.array_record-00001-*'))
    shard.write_bytes(shard.read_bytes()[:-70_000])
    code, out = examine(tmp_path)
    assert code == 1
    assert shard.name in out


@pytest.fixture
def relabelled(catalogue, tmp_path, complete):
    """Returns a function that prepares the training set with other labels and examines it."""

    def relabel_and_examine(rule):
        entries = catalogue.splits['train']
        changed = Entries()
        changed.start_file(entries.files[0])
        for name, label, (_, offset, size) in zip(
            entries.names, entries.labels, entries.locations, strict=True
        ):
            changed.add(name, rule(name, int(label)), offset, size)
        prepare(
            tmp_path,
            Catalogue('imagenet2012', '', catalogue.classes, {'train': changed}),
        )
        return examine(tmp_path)

    return relabel_and_examine


def test_the_order_of_the_devkit_is_identified(relabelled):
    first = dict(zip(dataset_check.DEVKIT_2012, range(5), strict=True))
    code, out = relabelled(lambda name, label: first.get(name.split('_')[0], label))
    assert code == 1
    assert "classes in the devkit's order (that of the 2012 code)" in out


def test_an_unknown_order_is_a_fault(relabelled):
    code, out = relabelled(lambda name, label: (label + 1) % 1000)
    assert code == 1
    assert 'do not fit the names of the 1000 classes in any known order' in out


def test_a_label_out_of_range_is_a_fault(relabelled):
    code, out = relabelled(lambda name, label: 1000 if label == 7 else label)
    assert code == 1
    assert 'has label 1000; there are 1000 classes' in out
    assert '1 classes have no images; the first is 7' in out


def test_an_unfinished_data_set_is_mentioned(catalogue, tmp_path, complete):
    folder = prepare(tmp_path, catalogue)
    shutil.copytree(folder, folder.with_name('.5.1.1.incomplete'))
    code, out = examine(tmp_path)
    assert code == 0
    assert 'unfinished: .5.1.1.incomplete' in out


@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json', 'label.labels.txt'])
@pytest.mark.parametrize('damage', ['torn', 'missing', 'empty'])
def test_a_data_set_that_cannot_be_opened_is_a_fault(catalogue, tmp_path, complete, file, damage):
    """The others are examined all the same, and the command that repairs it is told."""
    folder = prepare(tmp_path, catalogue)
    broken = shutil.copytree(folder, tmp_path / 'broken' / '1.0.0') / file
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2] if damage == 'torn' else b'')
    if damage == 'missing':
        broken.unlink()
    code, out = examine(tmp_path)
    assert code == 1, out
    assert 'train: 1,000 images of 1,000 published' in out
    assert 'FAULT: ' in out
    assert f'--again --name=broken --data_dir={tmp_path}' in out or '--again --tars=DIR' in out
    assert examine(tmp_path, 'imagenet2012_32')[0] == 0


@pytest.mark.parametrize('text', ['', 'null', '[]', '{"images": ', None])
def test_a_lost_record_of_the_source_is_a_fault(tmp_path, text):
    """Training refuses such a data set, so that the check must not praise it."""
    pets = class_folders.list_images(tars.class_folders(tmp_path / 'pets', images=12))
    folder = prepare(tmp_path / 'sets', pets)
    file = folder / prepared_sets.SOURCE
    file.unlink() if text is None else file.write_text(text)
    code, out = examine(tmp_path / 'sets')
    assert code == 1
    assert 'prepared.json is missing or damaged' in out
    assert f'--again --folder=DIR --size=32 --data_dir={tmp_path / "sets"}' in out


def test_data_sets_that_training_has_no_use_for_are_not_faults(catalogue, tmp_path, complete):
    folder = prepare(tmp_path, catalogue)
    other = shutil.copytree(folder, tmp_path / 'other' / '1.0.0')
    info = json.loads((other / 'dataset_info.json').read_text())
    info['fileFormat'] = 'tfrecord'
    (other / 'dataset_info.json').write_text(json.dumps(info))
    code, out = examine(tmp_path)
    assert code == 0, out
    assert 'not checked: ' in out
    assert 'is in the format tfrecord' in out
    assert examine(tmp_path, 'other')[0] == 1


def test_a_missing_shard_is_a_fault(catalogue, tmp_path, complete):
    folder = prepare(tmp_path, catalogue)
    shard = next(folder.glob('*-validation.array_record*'))
    shard.unlink()
    code, out = examine(tmp_path)
    assert code == 1, out
    assert f'{shard.name}' in out
    assert 'train: 1,000 images' in out


def test_another_number_of_images_in_the_metadata_is_a_fault(catalogue, tmp_path, complete):
    folder = prepare(tmp_path, catalogue)
    info = folder / 'dataset_info.json'
    content = json.loads(info.read_text())
    split = next(split for split in content['splits'] if split['name'] == 'validation')
    split['shardLengths'] = ['19']
    info.write_text(json.dumps(content))
    code, out = examine(tmp_path)
    assert code == 1
    assert 'has 20 records, and dataset_info.json says 19' in out


def test_a_check_can_be_stopped(catalogue, tmp_path, monkeypatch):
    prepare(tmp_path, catalogue)

    def stop():
        raise Stopped('SIGTERM')

    monkeypatch.setattr(dataset_check, 'raise_if_stopped', stop)
    with pytest.raises(Stopped):
        examine(tmp_path)


def test_damaged_statistics_are_a_fault(catalogue, tmp_path, complete):
    folder = prepare(tmp_path, catalogue)
    file = folder / 'statistics_train_32.npz'
    file.write_bytes(file.read_bytes()[:500])
    code, out = examine(tmp_path)
    assert code == 1
    assert 'statistics_train_32.npz is damaged' in out


def test_a_path_is_not_a_name(tmp_path):
    with pytest.raises(UserError, match='--name=/a/b is not the name of a data set'):
        examine(tmp_path, '/a/b')


def test_a_missing_data_set_comes_with_advice(tmp_path):
    with pytest.raises(UserError, match='has no prepared data set imagenet2012: prepare one with'):
        examine(tmp_path, 'imagenet2012')
