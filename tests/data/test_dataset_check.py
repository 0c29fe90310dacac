import contextlib
import io
import shutil

import pytest

import tars
from alexnet_jax.data import catalogue, dataset_check, writing
from alexnet_jax.runtime.user_errors import UserError


def silent(*_):
    """Tells nobody."""


def prepared(data_dir, found, **storage):
    storage = writing.Storage(**{'size': 32, **storage})
    return writing.write(found, storage, data_dir, 1, 0, silent, silent).folder


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    return catalogue.find(tars.ilsvrc2012(tmp_path_factory.mktemp('tars'), extra={}), silent)


@pytest.fixture
def complete(monkeypatch):
    """As if no more had been published than was made."""
    monkeypatch.setitem(catalogue.IMAGES_2012, 'train', 1000)


def examined(data_dir, name='', sample=20):
    """Exit code and what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = dataset_check.examine(data_dir, name, sample)
    return code, out.getvalue()


@pytest.mark.parametrize('raw', [False, True])
def test_nothing_is_wrong(found, tmp_path, complete, raw):
    prepared(tmp_path, found, raw=raw)
    code, out = examined(tmp_path)
    assert code == 0, out
    assert 'train: 1,000 images of 1,000 published; 1 in each of 1,000 classes; 20 decoded' in out
    assert 'in the order of their WordNet ids' in out
    assert 'mean colour' in out
    assert 'nothing is wrong' in out


def test_too_few_are_counted(found, tmp_path):
    folder = prepared(tmp_path, found)
    code, out = examined(tmp_path, 'imagenet2012_32')
    assert code == 0  # as few as were allowed
    assert 'train: 1,000 images of 1,281,167 published' in out
    (folder / writing.SOURCE).unlink()
    folder.parent.rename(tmp_path / 'imagenet2012')
    info = tmp_path / 'imagenet2012' / '5.1.0' / 'dataset_info.json'
    info.write_text(info.read_text().replace('imagenet2012_32', 'imagenet2012'))
    for shard in info.parent.glob('imagenet2012_32-*'):
        shard.rename(info.parent / shard.name.replace('imagenet2012_32', 'imagenet2012'))
    code, out = examined(tmp_path, 'imagenet2012')
    assert code == 1, out
    assert 'WRONG: train has 1,000 images, not 1,281,167' in out


def test_a_flipped_bit_is_found_without_decoding(found, tmp_path, complete):
    folder = prepared(tmp_path, found)
    shard = next(folder.glob('*-train.array_record-00001-*'))
    data = bytearray(shard.read_bytes())
    data[150_000] ^= 4
    shard.write_bytes(data)
    code, out = examined(tmp_path, sample=1)
    assert code == 1
    assert f'of {shard.name} is damaged' in out


def test_a_cut_off_shard_is_found(found, tmp_path, complete):
    folder = prepared(tmp_path, found)
    shard = next(folder.glob('*-train.array_record-00001-*'))
    shard.write_bytes(shard.read_bytes()[:-70_000])
    code, out = examined(tmp_path)
    assert code == 1
    assert shard.name in out


@pytest.fixture
def relabelled(found, tmp_path, complete):
    """Prepares the training set with labels by another rule."""

    def prepare(rule):
        entries = found.splits['train']
        own = catalogue.Entries()
        own.begin(entries.files[0])
        for name, label, (_, offset, size) in zip(
            entries.names, entries.labels, entries.where, strict=True
        ):
            own.add(name, rule(name, int(label)), offset, size)
        prepared(
            tmp_path,
            catalogue.Catalogue('imagenet2012', '', found.classes, {'train': own}),
        )
        return examined(tmp_path)

    return prepare


def test_the_devkits_order_is_told(relabelled):
    first = dict(zip(dataset_check.DEVKIT_2012, range(5), strict=True))
    code, out = relabelled(lambda name, label: first.get(name.split('_')[0], label))
    assert code == 1
    assert "classes in the devkit's order (the 2012 code's)" in out


def test_an_unknown_order_is_told(relabelled):
    code, out = relabelled(lambda name, label: (label + 1) % 1000)
    assert code == 1
    assert 'do not fit the names of the 1000 classes in any known order' in out


def test_a_label_out_of_range_is_told(relabelled):
    code, out = relabelled(lambda name, label: 1000 if label == 7 else label)
    assert code == 1
    assert 'has label 1000; there are 1000 classes' in out
    assert '1 classes have no image, the first is 7' in out


def test_what_is_unfinished_is_mentioned(found, tmp_path, complete):
    folder = prepared(tmp_path, found)
    shutil.copytree(folder, folder.with_name('.5.1.1.incomplete'))
    code, out = examined(tmp_path)
    assert code == 0
    assert 'unfinished beside it: .5.1.1.incomplete' in out


def test_what_is_not_ours_is_passed_over(found, tmp_path, complete):
    """A broken description, a set of another kind: the others are examined all the same."""
    folder = prepared(tmp_path, found)
    (tmp_path / 'broken' / '1.0.0').mkdir(parents=True)
    broken = tmp_path / 'broken' / '1.0.0' / 'dataset_info.json'
    broken.write_text((folder / 'dataset_info.json').read_text()[:100])
    code, out = examined(tmp_path)
    assert code == 0, out
    assert 'broken/1.0.0\n  not looked at: ' in out
    assert 'train: 1,000 images of 1,000 published' in out
    assert examined(tmp_path, 'broken')[0] == 1


def test_damaged_statistics_are_told(found, tmp_path, complete):
    folder = prepared(tmp_path, found)
    file = folder / 'statistics_train_32.npz'
    file.write_bytes(file.read_bytes()[:500])
    code, out = examined(tmp_path)
    assert code == 1
    assert 'statistics_train_32.npz is damaged' in out


def test_a_path_is_no_name(tmp_path):
    with pytest.raises(UserError, match='--name=/a/b is no name of a data set'):
        examined(tmp_path, '/a/b')


def test_nothing_there_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match='has no prepared data set imagenet2012: prepare one with'):
        examined(tmp_path, 'imagenet2012')
