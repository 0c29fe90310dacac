import os
import shutil

import pytest

import tars
from alexnet_jax.data.preparation import class_folders, writing
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.runtime.user_errors import UserError


def ignore(*_):
    """Ignores progress reports."""


def test_images_are_split_by_their_names(tmp_path):
    catalogue = class_folders.list_images(tars.class_folders(tmp_path / 'pets', images=100))
    assert catalogue.classes == ['cat', 'dog']
    train, validation = catalogue.splits['train'], catalogue.splits['validation']
    assert len(train) + len(validation) == 200
    assert 8 <= len(validation) <= 35  # one in ten
    assert set(validation.labels.tolist()) == {0, 1}
    assert catalogue.upright
    again = class_folders.list_images(tmp_path / 'pets')
    assert again.fingerprint() == catalogue.fingerprint()
    (tmp_path / 'pets' / 'cat' / '0.jpg').unlink()
    assert class_folders.list_images(tmp_path / 'pets').fingerprint() != catalogue.fingerprint()


def test_files_that_are_not_images_are_ignored(tmp_path):
    """Hidden files, folders and broken links are ignored; names in any encoding are not."""
    pets = tars.class_folders(tmp_path / 'pets')
    (pets / 'cat' / '._0.jpg').write_bytes(b'x')
    (pets / 'cat' / 'folder.jpg').mkdir()
    (pets / 'cat' / 'link.jpg').symlink_to(tmp_path / 'nowhere')
    (pets / '.thumbnails').mkdir()
    (pets / 'cat' / 'readme.txt').write_text('')
    latin_1 = os.fsdecode(os.fsencode(pets / 'cat') + b'/caf\xe9.jpg')
    shutil.copy(pets / 'cat' / '0.jpg', latin_1)
    catalogue = class_folders.list_images(pets)
    assert sum(map(len, catalogue.splits.values())) == 41
    storage = Storage(size=16)
    result = writing.write(catalogue, storage, tmp_path, 1, 0, ignore, ignore)
    assert sum(result.images.values()) == 41


@pytest.mark.parametrize('name', ['val', 'validation', 'test'])
def test_a_split_into_folders_is_kept(tmp_path, name):
    tars.class_folders(tmp_path / 'train', images=8)
    tars.class_folders(tmp_path / name, images=3)
    catalogue = class_folders.list_images(tmp_path)
    assert (len(catalogue.splits['train']), len(catalogue.splits['validation'])) == (16, 6)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda d: None, 'has 0 class folders: it needs two or more'),
        (lambda d: tars.class_folders(d, ('cat',)), 'has 1 class folders'),
        (lambda d: (tars.class_folders(d), (d / 'empty').mkdir()), 'empty has no images'),
        (lambda d: tars.class_folders(d, images=1), 'too few images for a validation split'),
        (
            lambda d: (
                tars.class_folders(d / 'train', images=2),
                tars.class_folders(d / 'val', ('cat', 'dog', 'fox'), images=1),
            ),
            'classes without training images: fox',
        ),
    ],
)
def test_unsuitable_folders_are_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        class_folders.list_images(tmp_path)
