import tarfile

import numpy as np
import pytest
import scipy.io

import tars
from alexnet_jax.data.preparation.catalogue import NO_LABEL
from alexnet_jax.data.preparation.layouts import imagenet_tars, tar_files
from alexnet_jax.runtime.signals import Stopped
from alexnet_jax.runtime.user_errors import UserError


def ignore(*_):
    """Ignores progress reports."""


def read_entry(entries, name):
    """Returns the label and the bytes of an image."""
    i = entries.names.index(name)
    file, offset, size = entries.locations[i]
    with open(entries.files[file], 'rb') as f:
        f.seek(offset)
        return entries.labels[i], f.read(size)


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    return tars.ilsvrc2012(tmp_path_factory.mktemp('tars'))


def test_images_of_the_official_tars_are_listed_in_place(official):
    catalogue = imagenet_tars.list_images(official, ignore)
    assert catalogue.name == 'imagenet2012'
    train, validation = catalogue.splits['train'], catalogue.splits['validation']
    assert len(train) == 1000 + 6
    assert len(validation) == 20
    assert catalogue.classes == sorted(catalogue.classes)
    assert catalogue.classes[0] == 'n01440764'
    label, data = read_entry(train, tars.PNG)
    assert catalogue.classes[label] == 'n02105855'
    assert data.startswith(b'\x89PNG')
    for name in (train.names[0], train.names[-1]):
        assert catalogue.classes[read_entry(train, name)[0]] == name.split('_')[0]
    # The synsets of the first validation images, as in TFDS and the devkit.
    assert [
        catalogue.classes[read_entry(validation, f'ILSVRC2012_val_{n:08d}.JPEG')[0]]
        for n in (1, 2, 3)
    ] == ['n01751748', 'n09193705', 'n02105855']


def test_number_of_images_is_compared_with_the_published_one(official):
    with pytest.raises(UserError, match='1,006 images instead of the published 1,281,167'):
        imagenet_tars.list_images(official, ignore).check_complete()


def test_a_missing_synset_is_named(tmp_path):
    catalogue = imagenet_tars.list_images(tars.ilsvrc2012(tmp_path, synsets=998, extra={}), ignore)
    assert len(catalogue.empty_classes) == 2
    with pytest.raises(UserError, match='lacks 2 of 1000 synsets, for example n13133613'):
        catalogue.check_complete()


def test_missing_validation_images_are_counted(tmp_path):
    tars.ilsvrc2012(tmp_path, synsets=1)
    (tmp_path / 'ILSVRC2012_img_train.tar').unlink()
    with pytest.raises(
        UserError, match=r'img_val.tar has 20 images instead of the published 50,000'
    ):
        imagenet_tars.list_images(tmp_path, ignore).check_complete()


@pytest.mark.parametrize('fraction', [0.3, 0.9, 0.999])
def test_a_truncated_tar_is_named(official, tmp_path, fraction):
    for tar in official.glob('*.tar'):
        data = tar.read_bytes()
        (tmp_path / tar.name).write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(UserError, match=r'ILSVRC2012_img_(train|val)\.tar (is truncated|at byte)'):
        imagenet_tars.list_images(tmp_path, ignore)


def write_train_tar(folder, inner):
    with tarfile.open(folder / 'ILSVRC2012_img_train.tar', 'w') as train:
        for name, data in inner.items():
            tars.add(train, name, data)
    return folder


@pytest.mark.parametrize(
    ('inner', 'message'),
    [
        ({'n01440764.tar': b'not a tar' * 100}, r'n01440764\.tar: .*img_train\.tar'),
        ({'n01440764.tar': tars.pack({'a.JPEG': b'x' * 5000})[:3000]}, 'n01440764.tar: '),
        ({'n00000000.tar': tars.pack({})}, 'contains n00000000.tar, which is not one of the 1000'),
    ],
)
def test_a_bad_tar_within_a_tar_is_named(tmp_path, inner, message):
    with pytest.raises(UserError, match=message):
        imagenet_tars.list_images(write_train_tar(tmp_path, inner), ignore)


def test_an_unexpected_name_among_the_validation_images_is_named(tmp_path):
    with tarfile.open(tmp_path / 'ILSVRC2012_img_val.tar', 'w') as val:
        tars.add(val, 'ILSVRC2012_val_00050001.JPEG', b'')
    with pytest.raises(UserError, match=r'00050001.JPEG, which is not an image of this'):
        imagenet_tars.list_images(tmp_path, ignore)


def test_test_images_have_no_label(tmp_path):
    with tarfile.open(tmp_path / 'ILSVRC2012_img_test.tar', 'w') as test:
        tars.add(test, 'test/ILSVRC2012_test_00000001.JPEG', b'x')
    entries = imagenet_tars.list_images(tmp_path, ignore).splits['test']
    assert entries.names == ['ILSVRC2012_test_00000001.JPEG']
    assert entries.labels.tolist() == [NO_LABEL]


def test_a_tar_without_images_is_named(tmp_path):
    (tmp_path / 'ILSVRC2012_img_val.tar').write_bytes(tars.pack({}))
    with pytest.raises(UserError, match=r'img_val.tar has no images for validation'):
        imagenet_tars.list_images(tmp_path, ignore)
    (tmp_path / 'ILSVRC2012_img_val.tar').rename(tmp_path / 'ILSVRC2012_img_train_t3.tar')
    with pytest.raises(UserError, match=r'has neither ILSVRC2012_img_train.tar'):
        imagenet_tars.list_images(tmp_path, ignore)


def write_2010(folder):
    """Writes the tars of three classes, and the devkit."""
    ids = {1: 'n03', 2: 'n01', 3: 'n02'}
    synsets = np.array(
        [(n, i) for n, i in [*ids.items(), (1001, 'n00')]],
        dtype=[('ILSVRC2010_ID', object), ('WNID', object)],
    )
    (folder / 'devkit').mkdir()
    scipy.io.savemat(folder / 'devkit' / 'meta.mat', {'synsets': synsets})
    for split, part, truth in (('validation', 'val', '1\n3\n'), ('test', 'test', '2\n')):
        (folder / 'devkit' / f'ILSVRC2010_{split}_ground_truth.txt').write_text(truth)
        with tarfile.open(folder / f'ILSVRC2010_images_{part}.tar', 'w') as tar:
            for n in range(1, len(truth.split()) + 1):
                tars.add(tar, f'{part}/ILSVRC2010_{part}_{n:08d}.JPEG', b'x')
    with tarfile.open(folder / 'ILSVRC2010_images_train.tar', 'w') as train:
        for synset in ids.values():
            tars.add(train, f'{synset}.tar', tars.pack({f'{synset}_1.JPEG': b'x'}))


def test_labels_of_2010_are_those_of_its_devkit(tmp_path):
    """The devkit's numbers become positions in the sorted WordNet ids, as for 2012."""
    write_2010(tmp_path)
    catalogue = imagenet_tars.list_images(tmp_path, ignore)
    assert catalogue.name == 'imagenet2010'
    assert catalogue.classes == ['n01', 'n02', 'n03']
    assert catalogue.splits['validation'].labels.tolist() == [2, 1]
    assert catalogue.splits['test'].labels.tolist() == [0]
    assert sorted(catalogue.splits['train'].labels.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ('file', 'data'),
    [
        ('meta.mat', b'<html>'),
        ('meta.mat', b''),
        ('ILSVRC2010_test_ground_truth.txt', b'<html>'),
        ('ILSVRC2010_test_ground_truth.txt', b'7777'),
        ('ILSVRC2010_test_ground_truth.txt', b'\xff\xfe'),
    ],
)
def test_a_damaged_devkit_is_named(tmp_path, file, data):
    write_2010(tmp_path)
    (tmp_path / 'devkit' / file).write_bytes(data)
    with pytest.raises(UserError, match=rf"{file} is damaged \(.*: unpack the challenge's devkit"):
        imagenet_tars.list_images(tmp_path, ignore)


def test_a_folder_of_synset_tars_may_have_any_number_of_classes(tmp_path):
    for synset in ('n09', 'n05', 'n01'):
        files = {f'{synset}_{i}.JPEG': b'x' for i in range(200)}
        (tmp_path / f'{synset}.tar').write_bytes(tars.pack(files))
    catalogue = imagenet_tars.list_images(tmp_path, ignore)
    assert catalogue.classes == ['n01', 'n05', 'n09']
    train, validation = catalogue.splits['train'], catalogue.splits['validation']
    assert len(train) + len(validation) == 600
    assert 2 <= len(validation) <= 30  # one in 50
    assert not set(train.names) & set(validation.names)
    assert read_entry(train, 'n05_3.JPEG') == (1, b'x')


@pytest.mark.parametrize('empty', [True, False])
def test_a_folder_without_tars_is_told_which_tars_it_should_have(tmp_path, empty):
    folder = tmp_path if empty else tmp_path / 'none'
    with pytest.raises(UserError, match=r'ILSVRC2012_img_train.tar|is not a folder'):
        imagenet_tars.list_images(folder, ignore)


def test_md5_is_compared_with_the_published_one(official):
    with pytest.raises(UserError, match=r'has MD5 .*, but 1d675b47\w* is published'):
        imagenet_tars.verify_md5(official, ignore)


def test_a_published_md5_is_confirmed(tmp_path, monkeypatch):
    (tmp_path / 'a.tar').write_bytes(b'abc')
    (tmp_path / 'b.tar').write_bytes(b'abc')
    monkeypatch.setattr(imagenet_tars, 'MD5_2012', {'a.tar': '900150983cd24fb0d6963f7d28e17f72'})
    assert imagenet_tars.verify_md5(tmp_path, ignore) == [
        'a.tar: MD5 as published',
        'b.tar: no MD5 is published for it',
    ]


def test_a_folder_that_is_named_like_a_tar_is_refused(tmp_path):
    (tmp_path / 'ILSVRC2012_img_train.tar').mkdir()
    with pytest.raises(UserError, match=r'img_train\.tar is not a file: put the tar there'):
        imagenet_tars.list_images(tmp_path, ignore)


def test_there_must_be_tars_to_verify(tmp_path):
    with pytest.raises(UserError, match='has no tars to verify'):
        imagenet_tars.verify_md5(tmp_path, ignore)


def test_a_stop_is_noticed_while_tars_are_read(official, monkeypatch):
    def stop():
        raise Stopped('SIGTERM')

    monkeypatch.setattr(imagenet_tars, 'raise_if_stopped', stop)
    with pytest.raises(Stopped):
        imagenet_tars.verify_md5(official, ignore)
    monkeypatch.setattr(tar_files, 'raise_if_stopped', stop)
    with pytest.raises(Stopped):
        imagenet_tars.list_images(official, ignore)


def test_the_origin_of_the_images_is_known(official):
    assert imagenet_tars.list_images(official, ignore).source == {'tars': str(official)}
