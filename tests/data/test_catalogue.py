import os
import shutil
import tarfile

import numpy as np
import pytest
import scipy.io

import tars
from alexnet_jax.data import catalogue, writing
from alexnet_jax.runtime.user_errors import UserError


def silent(*_):
    """Tells nobody."""


def entry(entries, name):
    """Label and bytes of an image."""
    i = entries.names.index(name)
    file, offset, size = entries.where[i]
    with open(entries.files[file], 'rb') as f:
        f.seek(offset)
        return entries.labels[i], f.read(size)


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    return tars.ilsvrc2012(tmp_path_factory.mktemp('tars'))


def test_official_tars_are_listed_where_they_lie(official):
    found = catalogue.find(official, silent)
    assert found.name == 'imagenet2012'
    train, validation = found.splits['train'], found.splits['validation']
    assert len(train) == 1000 + 6
    assert len(validation) == 20
    assert found.classes == sorted(found.classes)
    assert found.classes[0] == 'n01440764'
    label, data = entry(train, tars.PNG)
    assert found.classes[label] == 'n02105855'
    assert data.startswith(b'\x89PNG')
    for name in (train.names[0], train.names[-1]):
        assert found.classes[entry(train, name)[0]] == name.split('_')[0]
    # The first validation images' synsets, as TFDS and the devkit have them.
    assert [
        found.classes[entry(validation, f'ILSVRC2012_val_{n:08d}.JPEG')[0]] for n in (1, 2, 3)
    ] == ['n01751748', 'n09193705', 'n02105855']


def test_the_order_is_a_function_of_the_names(official):
    entries = catalogue.find(official, silent).splits['train']
    order = entries.shuffled()
    assert sorted(order) == list(range(len(entries)))
    assert np.corrcoef(order, np.arange(len(order)))[0, 1] < 0.1
    np.testing.assert_array_equal(order, entries.shuffled())


def test_what_is_published_must_be_there(official):
    with pytest.raises(UserError, match='1,006 images and 1,281,167 are published'):
        catalogue.find(official, silent).check_complete()


def test_a_missing_synset_is_named(tmp_path):
    found = catalogue.find(tars.ilsvrc2012(tmp_path, synsets=998, extra={}), silent)
    assert len(found.missing) == 2
    with pytest.raises(UserError, match='lacks 2 of 1000 synsets, n13133613 among them'):
        found.check_complete()


def test_missing_validation_images_are_counted(tmp_path):
    tars.ilsvrc2012(tmp_path, synsets=1)
    (tmp_path / 'ILSVRC2012_img_train.tar').unlink()
    with pytest.raises(UserError, match=r'img_val.tar has 20 images and 50,000 are published'):
        catalogue.find(tmp_path, silent).check_complete()


@pytest.mark.parametrize('part', [0.3, 0.9, 0.999])
def test_a_cut_off_tar_is_named(official, tmp_path, part):
    for tar in official.glob('*.tar'):
        whole = tar.read_bytes()
        (tmp_path / tar.name).write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match=r'ILSVRC2012_img_(train|val)\.tar (is cut|breaks|cannot)'):
        catalogue.find(tmp_path, silent)


def train_of(folder, inner):
    with tarfile.open(folder / 'ILSVRC2012_img_train.tar', 'w') as train:
        for name, data in inner.items():
            tars.add(train, name, data)
    return folder


@pytest.mark.parametrize(
    ('inner', 'message'),
    [
        ({'n01440764.tar': b'no tar at all' * 100}, r'n01440764\.tar in .*img_train\.tar'),
        ({'n01440764.tar': tars.packed({'a.JPEG': b'x' * 5000})[:3000]}, 'n01440764.tar in'),
        ({'n00000000.tar': tars.packed({})}, 'has n00000000.tar, which is none of the 1000'),
    ],
)
def test_a_bad_tar_within_is_named(tmp_path, inner, message):
    with pytest.raises(UserError, match=message):
        catalogue.find(train_of(tmp_path, inner), silent)


def test_a_strange_name_among_the_validation_images_is_named(tmp_path):
    with tarfile.open(tmp_path / 'ILSVRC2012_img_val.tar', 'w') as val:
        tars.add(val, 'ILSVRC2012_val_00050001.JPEG', b'')
    with pytest.raises(UserError, match=r'00050001.JPEG, which is no image of this'):
        catalogue.find(tmp_path, silent)


def test_the_test_images_have_no_label(tmp_path):
    with tarfile.open(tmp_path / 'ILSVRC2012_img_test.tar', 'w') as test:
        tars.add(test, 'test/ILSVRC2012_test_00000001.JPEG', b'x')
    entries = catalogue.find(tmp_path, silent).splits['test']
    assert entries.names == ['ILSVRC2012_test_00000001.JPEG']
    assert entries.labels.tolist() == [catalogue.NO_LABEL]


def test_a_tar_without_images_is_named(tmp_path):
    (tmp_path / 'ILSVRC2012_img_val.tar').write_bytes(tars.packed({}))
    with pytest.raises(UserError, match=r'img_val.tar has no images for validation'):
        catalogue.find(tmp_path, silent)
    (tmp_path / 'ILSVRC2012_img_val.tar').rename(tmp_path / 'ILSVRC2012_img_train_t3.tar')
    with pytest.raises(UserError, match=r'has neither ILSVRC2012_img_train.tar'):
        catalogue.find(tmp_path, silent)


def test_2010_is_labelled_by_its_devkit(tmp_path):
    """Numbers of the devkit become places in the sorted WordNet ids, as for 2012."""
    ids = {1: 'n03', 2: 'n01', 3: 'n02'}
    synsets = np.array(
        [(n, i) for n, i in [*ids.items(), (1001, 'n00')]],
        dtype=[('ILSVRC2010_ID', object), ('WNID', object)],
    )
    (tmp_path / 'devkit').mkdir()
    scipy.io.savemat(tmp_path / 'devkit' / 'meta.mat', {'synsets': synsets})
    for split, part, truth in (('validation', 'val', '1\n3\n'), ('test', 'test', '2\n')):
        (tmp_path / 'devkit' / f'ILSVRC2010_{split}_ground_truth.txt').write_text(truth)
        with tarfile.open(tmp_path / f'ILSVRC2010_images_{part}.tar', 'w') as tar:
            for n in range(1, len(truth.split()) + 1):
                tars.add(tar, f'{part}/ILSVRC2010_{part}_{n:08d}.JPEG', b'x')
    with tarfile.open(tmp_path / 'ILSVRC2010_images_train.tar', 'w') as train:
        for synset in ids.values():
            tars.add(train, f'{synset}.tar', tars.packed({f'{synset}_1.JPEG': b'x'}))
    found = catalogue.find(tmp_path, silent)
    assert found.name == 'imagenet2010'
    assert found.classes == ['n01', 'n02', 'n03']
    assert found.splits['validation'].labels.tolist() == [2, 1]
    assert found.splits['test'].labels.tolist() == [0]
    assert sorted(found.splits['train'].labels.tolist()) == [0, 1, 2]


def test_a_folder_of_synset_tars_has_any_number_of_classes(tmp_path):
    for synset in ('n09', 'n05', 'n01'):
        files = {f'{synset}_{i}.JPEG': b'x' for i in range(200)}
        (tmp_path / f'{synset}.tar').write_bytes(tars.packed(files))
    found = catalogue.find(tmp_path, silent)
    assert found.classes == ['n01', 'n05', 'n09']
    train, validation = found.splits['train'], found.splits['validation']
    assert len(train) + len(validation) == 600
    assert 2 <= len(validation) <= 30  # one in 50
    assert not set(train.names) & set(validation.names)
    assert entry(train, 'n05_3.JPEG') == (1, b'x')


@pytest.mark.parametrize('empty', [True, False])
def test_a_folder_without_tars_says_what_was_looked_for(tmp_path, empty):
    folder = tmp_path if empty else tmp_path / 'none'
    with pytest.raises(UserError, match=r'ILSVRC2012_img_train.tar|is no folder'):
        catalogue.find(folder, silent)


def test_ones_own_images_are_split_by_name(tmp_path):
    found = catalogue.class_folders(tars.class_folders(tmp_path / 'pets', images=100))
    assert found.classes == ['cat', 'dog']
    train, validation = found.splits['train'], found.splits['validation']
    assert len(train) + len(validation) == 200
    assert 8 <= len(validation) <= 35  # one in ten
    assert set(validation.labels.tolist()) == {0, 1}
    assert found.upright
    again = catalogue.class_folders(tmp_path / 'pets')
    assert again.fingerprint() == found.fingerprint()
    (tmp_path / 'pets' / 'cat' / '0.jpg').unlink()
    assert catalogue.class_folders(tmp_path / 'pets').fingerprint() != found.fingerprint()


def test_what_is_no_image_in_a_folder_is_passed_over(tmp_path):
    """Hidden files, folders and links that lead nowhere; names in any encoding are fine."""
    pets = tars.class_folders(tmp_path / 'pets')
    (pets / 'cat' / '._0.jpg').write_bytes(b'x')
    (pets / 'cat' / 'folder.jpg').mkdir()
    (pets / 'cat' / 'link.jpg').symlink_to(tmp_path / 'nowhere')
    (pets / '.thumbnails').mkdir()
    (pets / 'cat' / 'readme.txt').write_text('')
    strange = os.fsdecode(os.fsencode(pets / 'cat') + b'/caf\xe9.jpg')
    shutil.copy(pets / 'cat' / '0.jpg', strange)
    found = catalogue.class_folders(pets)
    assert sum(map(len, found.splits.values())) == 41
    storage = writing.Storage(size=16)
    result = writing.write(found, storage, tmp_path, 1, 0, silent, silent)
    assert sum(result.images.values()) == 41


@pytest.mark.parametrize('name', ['val', 'validation', 'test'])
def test_ones_own_split_is_kept(tmp_path, name):
    tars.class_folders(tmp_path / 'train', images=8)
    tars.class_folders(tmp_path / name, images=3)
    found = catalogue.class_folders(tmp_path)
    assert (len(found.splits['train']), len(found.splits['validation'])) == (16, 6)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda d: None, 'has 0 folders: one folder of images per class'),
        (lambda d: tars.class_folders(d, ('cat',)), 'has 1 folders'),
        (lambda d: (tars.class_folders(d), (d / 'empty').mkdir()), 'empty has no images'),
        (lambda d: tars.class_folders(d, images=1), 'too few images for a validation split'),
        (
            lambda d: (
                tars.class_folders(d / 'train', images=2),
                tars.class_folders(d / 'val', ('cat', 'dog', 'fox'), images=1),
            ),
            'a class for validation only: fox',
        ),
    ],
)
def test_folders_that_will_not_do(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        catalogue.class_folders(tmp_path)


def test_md5_is_compared_with_what_is_published(official):
    with pytest.raises(UserError, match=r'has MD5 .*, published is 1d675b47'):
        catalogue.check_md5(official, silent)


def test_md5_as_published(tmp_path, monkeypatch):
    (tmp_path / 'a.tar').write_bytes(b'abc')
    (tmp_path / 'b.tar').write_bytes(b'abc')
    monkeypatch.setattr(catalogue, 'MD5_2012', {'a.tar': '900150983cd24fb0d6963f7d28e17f72'})
    assert catalogue.check_md5(tmp_path, silent) == [
        'a.tar: MD5 as published',
        'b.tar: no published MD5 is known here',
    ]
