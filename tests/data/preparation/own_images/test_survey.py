import numpy as np
import pytest
from PIL import Image

import tars
from alexnet_jax.data.preparation.own_images import class_folders, survey
from alexnet_jax.runtime.user_errors import UserError


def save(path, size, mode='RGB', form='PNG', **options):
    """Writes a picture of (columns, rows) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(tars.picture(np.random.default_rng(0), size[1], size[0]))
    picture.convert(mode).save(path, form, **options)


def two_classes(folder, number=12, **options):
    for kind in ('cat', 'dog'):
        for i in range(number):
            save(folder / kind / f'{i}.png', **options)
    return folder


def survey_of(folder):
    return survey.survey(class_folders.list_images(folder))


def test_the_training_images_are_counted_by_class(tmp_path):
    folder = two_classes(tmp_path, size=(20, 30))
    catalogue = class_folders.list_images(folder)
    images = survey.survey(catalogue)
    labels = catalogue.splits['train'].labels.tolist()
    assert images.per_class == (labels.count(0), labels.count(1))
    assert (images.images, images.classes) == (len(labels), 2)
    assert (images.smallest_side, images.median_side, images.largest_side) == (20, 20, 20)
    assert 'a short side of 20 pixels; in colour' in survey.describe(images)


def test_the_median_is_that_of_the_short_sides(tmp_path):
    two_classes(tmp_path / 'train', 4, size=(40, 90))
    save(tmp_path / 'train/cat/wide.png', (500, 30))
    save(tmp_path / 'train/cat/large.png', (300, 200))
    two_classes(tmp_path / 'val', 1, size=(9, 9))  # not trained on
    images = survey_of(tmp_path)
    assert (images.smallest_side, images.median_side, images.largest_side) == (30, 40, 200)
    assert 'short sides of 30 to 200 pixels, median 40' in survey.describe(images)


@pytest.mark.parametrize(
    ('mode', 'form', 'grey'),
    [
        ('L', 'PNG', 1.0),
        ('1', 'PNG', 1.0),
        ('LA', 'PNG', 1.0),
        ('P', 'GIF', 0.0),
        ('RGBA', 'PNG', 0.0),
        ('CMYK', 'JPEG', 0.0),
        ('RGB', 'JPEG', 0.0),
    ],
)
def test_images_of_every_kind_are_grey_or_in_colour(tmp_path, mode, form, grey):
    images = survey_of(two_classes(tmp_path, 4, size=(33, 40), mode=mode, form=form))
    assert (images.grey, images.median_side) == (grey, 33)


def test_grey_pictures_that_are_stored_in_colour_are_grey(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30), np.uint8)
    for i in range(8):
        for kind in 'ab':
            path = tmp_path / kind / f'{i}.jpg'
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).convert('RGB').save(path)
    assert survey_of(tmp_path).grey == 1.0


def test_a_turned_photograph_has_the_same_short_side(tmp_path):
    """The EXIF orientation exchanges rows and columns."""
    orientation = Image.Exif()
    orientation[0x0112] = 6
    two_classes(tmp_path, 6, size=(60, 45), form='JPEG', exif=orientation.tobytes())
    assert survey_of(tmp_path).median_side == 45


def test_the_sample_is_spread_over_the_classes(tmp_path, monkeypatch):
    """Of a class of 40 and nine of 3, a sample of 20 has an image of every class at least."""
    monkeypatch.setattr(survey, 'SAMPLE', 20)
    for k in range(10):
        for i in range(40 if k == 0 else 3):
            save(tmp_path / f'{k}' / f'{i}.png', (10 + k, 10 + k))
    train = class_folders.list_images(tmp_path).splits['train']
    sample = survey._choose_sample(train)
    assert len(sample) == len(set(sample.tolist())) == 20
    assert set(train.labels[sample].tolist()) == set(range(10))
    images = survey_of(tmp_path)
    assert (images.smallest_side, images.largest_side) == (10, 19)


def test_damaged_images_are_left_to_the_preparation(tmp_path):
    two_classes(tmp_path, 6, size=(20, 20))
    names = class_folders.list_images(tmp_path).splits['train'].names
    (tmp_path / names[0]).write_bytes(b'no image')
    assert survey_of(tmp_path).median_side == 20
    for name in names:
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(UserError, match=r'none of \d+ images that were tried can be decoded'):
        survey_of(tmp_path)
