"""A folder of images of one's own that is really ImageNet."""

import pytest

import tars
from alexnet_jax.data.preparation.own_images import class_folders
from alexnet_jax.runtime.user_errors import UserError

SYNSETS = ('n01440764', 'n01443537')


@pytest.fixture
def kaggle(tmp_path):
    root = tmp_path / 'ILSVRC' / 'Data' / 'CLS-LOC'
    tars.class_folders(root / 'train', SYNSETS, images=2)
    (root / 'val').mkdir()
    (root / 'val' / 'ILSVRC2012_val_00000001.JPEG').write_bytes(b'x')
    return root


@pytest.mark.parametrize('above', [0, 1, 3])
def test_kaggles_folders_with_flat_validation_images_are_told_from_images_of_ones_own(
    kaggle, above
):
    folder = [kaggle, *kaggle.parents][above]
    advice = rf'; but this is ImageNet: run python -m alexnet_jax.prepare --imagenet={folder} and'
    with pytest.raises(UserError, match=advice):
        class_folders.list_images(folder)


def test_a_folder_of_tars_is_told_from_images_of_ones_own(tmp_path):
    (tmp_path / 'ILSVRC2012_img_train.tar').write_bytes(b'')
    with pytest.raises(UserError, match=f'this is ImageNet: .* --imagenet={tmp_path} and'):
        class_folders.list_images(tmp_path)


def test_folders_of_synsets_are_read_and_a_note_names_the_program(tmp_path):
    """As Imagenette, or the training images of ImageNet alone."""
    for split in ('train', 'val'):
        tars.class_folders(tmp_path / split, SYNSETS, images=3)
    for folder in (tmp_path, tmp_path / 'train'):
        notes = class_folders.list_images(folder).notes
        assert f'alexnet_jax.prepare --imagenet={tmp_path} and' in notes[-1]


def test_other_images_are_told_nothing_of_imagenet(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=12)
    assert 'imagenet' not in str(class_folders.list_images(pets).notes).lower()
    (pets / 'cat' / '0.jpg').rename(pets / 'empty.jpg')
    (pets / 'empty').mkdir()
    with pytest.raises(UserError, match=r'move the folder away$'):
        class_folders.list_images(pets)
