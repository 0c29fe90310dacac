import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

import tars
from alexnet_jax.data.preparation import folder_tree, writing
from alexnet_jax.data.preparation.own_images import class_folders
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


def layout(folder, *paths):
    """Writes small files at these paths; the images of a folder differ from those of others."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode('utf-8', 'surrogateescape'))
    return folder


def two_classes(folder, *splits, images=3):
    """Writes images of a cat and a dog in the folder of each split."""
    names = [
        f'{split}/{kind}/{i}.jpg'
        for split in splits
        for kind in ('cat', 'dog')
        for i in range(images)
    ]
    return layout(folder, *names)


def counts(catalogue):
    return {split: len(entries) for split, entries in catalogue.splits.items()}


@pytest.mark.parametrize(
    ('train', 'validation'),
    [
        ('train', 'val'),
        ('Train', 'Valid'),
        ('training', 'validation'),
        ('TRAIN', 'dev'),
        ('train', 'eval'),
        ('train', 'test'),
        ('Training', 'Testing'),
    ],
)
def test_a_split_into_folders_is_kept_under_the_names_that_people_use(tmp_path, train, validation):
    two_classes(tmp_path, train, images=8)
    two_classes(tmp_path, validation)
    catalogue = class_folders.list_images(tmp_path)
    assert counts(catalogue) == {'train': 16, 'validation': 6}
    assert catalogue.classes == ['cat', 'dog']
    assert catalogue.other_names[validation.lower()] == 'validation'
    assert f'16 train (from {train}), 6 validation (from {validation})' in catalogue.notes


def test_beside_a_validation_split_test_is_a_split_of_its_own(tmp_path):
    two_classes(tmp_path, 'train', 'valid', images=4)
    layout(two_classes(tmp_path, 'test', images=1), 'test/cat/more.png', 'README.txt')
    catalogue = class_folders.list_images(tmp_path)
    assert counts(catalogue) == {'train': 8, 'validation': 8, 'test': 3}


def test_a_test_folder_without_classes_is_left_out_and_told(tmp_path):
    layout(two_classes(tmp_path, 'train', 'val'), 'test/1.jpg', 'test/2.jpg')
    catalogue = class_folders.list_images(tmp_path)
    assert counts(catalogue) == {'train': 6, 'validation': 6}
    assert 'test has no class folders and is left out' in catalogue.notes


def test_what_was_read_is_told(tmp_path):
    """Classes, counts, images in sub-folders, and files that are not taken, by suffix."""
    names = [f'class{k:02}/{i}.jpg' for k in range(12) for i in range(10)]
    layout(tmp_path, *names, 'class00/more/a.jpg', 'class00/more/deep/b.jpg', 'class00/c.HEIC')
    layout(tmp_path, 'class01/labels.csv', 'notes.txt', 'class01/notes.txt', 'stray.jpg')
    notes = class_folders.list_images(tmp_path).notes
    first = ', '.join(f'class{k:02}' for k in range(10))
    assert notes[0] == f'12 classes: {first} and 2 more'
    assert '(one image in 10 of each class, chosen by its name)' in notes[1]
    assert notes[4] == '2 images of class00 are in sub-folders'
    assert notes[5].startswith('not read: 1 .heic files (HEIC)')
    assert notes[6].startswith('not taken: 2 .txt, ')
    for kind in ('1 .csv', '1 images outside the class folders'):
        assert kind in notes[6]


def test_what_programs_leave_in_folders_is_ignored(tmp_path):
    two_classes(tmp_path, '.', images=20)
    for name in (
        'cat/.Trash-1000/files/dog.jpg',
        'cat/.ipynb_checkpoints/cat-checkpoint.jpg',
        'dog/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg',
        'dog/Thumbs.db',
        '__MACOSX/cat/._1.jpg',
        '.thumbnails/1.jpg',
        '$RECYCLE.BIN/1.jpg',
    ):
        layout(tmp_path, name)
    catalogue = class_folders.list_images(tmp_path)
    assert catalogue.classes == ['cat', 'dog']
    assert sum(counts(catalogue).values()) == 40
    assert not any('not taken' in note for note in catalogue.notes)


def test_links_are_followed_and_loops_end(tmp_path):
    """A link to a folder counts as a folder, also as a class; a file may be there twice."""
    pets = two_classes(tmp_path / 'pets', '.', images=12)
    store = layout(tmp_path / 'store', *(f'batch/{i}.jpg' for i in range(5)), 'fox/1.jpg')
    (pets / 'cat' / 'batch1').symlink_to(store / 'batch')
    (pets / 'cat' / 'again.jpg').symlink_to(pets / 'cat' / '0.jpg')
    (pets / 'fox').symlink_to(store / 'fox')
    (pets / 'dog' / 'loop').symlink_to(pets / 'dog')
    (pets / 'cat' / 'itself.jpg').symlink_to('itself.jpg')
    catalogue = class_folders.list_images(pets)
    per_class = Counter(
        catalogue.classes[k] for e in catalogue.splits.values() for k in e.labels.tolist()
    )
    assert per_class == {'cat': 12 + 5 + 1, 'dog': 12, 'fox': 1}
    assert any('broken links' in note for note in catalogue.notes)


NFC, NFD = 'caf\u00e9', 'cafe\u0301'


@pytest.mark.parametrize(
    ('paths', 'message'),
    [
        (['a\nb/1.jpg', 'c/1.jpg'], 'line break'),
        (['a\x1b[31m/1.jpg', 'c/1.jpg'], 'control character'),
        (['a\u2028b/1.jpg', 'c/1.jpg'], 'line break'),
        ([' /1.jpg', 'c/1.jpg'], 'blank at an end'),
        (['cat/1.jpg', 'cat /1.jpg'], 'blank at an end'),
        (['h\udcf6nd/1.jpg', 'c/1.jpg'], 'not UTF-8'),
        ([f'{NFC}/1.jpg', f'{NFD}/1.jpg'], 'same name in Unicode'),
    ],
)
def test_class_names_that_cannot_be_kept_are_refused(tmp_path, paths, message):
    layout(tmp_path, *paths)
    with pytest.raises(UserError, match=message) as error:
        class_folders.list_images(tmp_path)
    assert str(error.value).isprintable()
    assert str(tmp_path) in str(error.value)


def test_a_class_may_be_written_in_another_normalization_in_another_split(tmp_path):
    """As when one of the folders was packed on another system."""
    layout(tmp_path, f'train/{NFC}/1.jpg', 'train/b/1.jpg', f'val/{NFD}/1.jpg', 'val/b/1.jpg')
    catalogue = class_folders.list_images(tmp_path)
    assert catalogue.classes == ['b', NFC]
    assert counts(catalogue) == {'train': 2, 'validation': 2}


def test_odd_names_of_classes_and_files_come_back_as_they_are(tmp_path):
    kinds = ['=1+1', 'a,b', 'große Katze', '日本', "it's", '#x', '0']
    pets = tars.class_folders(tmp_path / 'größe [1]*', classes=kinds, images=12)
    shutil.copy(pets / '0' / '0.jpg', pets / '0' / 'line\nbreak \udcff.jpg')
    catalogue = class_folders.list_images(pets)
    result = writing.write(catalogue, Storage(size=16), tmp_path, 1, 0, ignore, ignore)
    builder = tfds.builder_from_directory(str(result.folder))
    assert builder.info.features['label'].names == sorted(kinds)
    assert len(builder.as_data_source('train')) == result.images['train']
    names = {e['file_name'] for s in result.images for e in builder.as_data_source(s)}
    assert b'0/line\nbreak \xff.jpg' in names


def test_a_long_name_of_a_folder_is_shortened(tmp_path):
    pets = tars.class_folders(tmp_path / ('é' * 100), images=12)
    catalogue = class_folders.list_images(pets)
    result = writing.write(catalogue, Storage(size=16), tmp_path, 1, 0, ignore, ignore)
    assert sum(result.images.values()) == 24


@pytest.mark.parametrize(
    ('paths', 'message'),
    [
        ([], 'has 0 class folders: it needs two or more'),
        (['cat/1.jpg'], 'has 1 class folders'),
        (['cat/1.jpg', 'dog/1.txt'], 'dog has no images'),
        (['cat/1.jpg', 'dog/1.jpg'], 'too few images for a validation split'),
        (
            ['train/a/1.jpg', 'train/b/1.jpg', 'val/a/1.jpg', 'val/b/1.jpg', 'val/fox/1.jpg'],
            'classes without training images: fox',
        ),
        (['train/a/1.jpg', 'train/b/1.jpg', 'val/a/1.jpg'], 'val lacks classes .*: b'),
        (['train/1.jpg', 'bus/1.jpg', 'car/1.jpg'], 'names of splits .train. beside .*bus, car'),
        (['Valid/1.jpg', 'invalid/1.jpg'], 'names of splits .Valid. beside others .invalid'),
        (
            ['train/a/1.jpg', 'train/b/1.jpg', 'val/a/1.jpg', 'dev/a/1.jpg'],
            'two folders of validation images, dev and val',
        ),
        (['train/a/1.jpg', 'Train/b/1.jpg'], 'two folders of train images'),
        (['train/a/1.jpg', 'train/b/1.jpg'], 'no folder for validation: add one named val, or set'),
        (['val/a/1.jpg', 'test/b/1.jpg'], 'has test, val and no folder train'),
        (
            ['pets/cat/1.jpg', 'pets/dog/1.jpg', 'cars/bus/1.jpg', 'cars/van/1.jpg'],
            r'cars has no images of its own, only folders \(bus, van\)',
        ),
        (['cat/1.jpg', 'dog/a/1.jpg', 'dog/b/1.jpg'], 'dog has no images of its own'),
    ],
)
def test_what_can_be_read_in_two_ways_or_not_at_all_is_refused(tmp_path, paths, message):
    layout(tmp_path, *paths)
    with pytest.raises(UserError, match=message) as error:
        class_folders.list_images(tmp_path)
    assert '\n' not in str(error.value)


def test_classes_may_all_have_their_images_in_one_sub_folder(tmp_path):
    """As in n01443537/images/n01443537_0.JPEG."""
    layout(tmp_path, *(f'{kind}/images/{i}.jpg' for kind in 'ab' for i in range(20)))
    assert sum(counts(class_folders.list_images(tmp_path)).values()) == 40


def test_folders_without_images_beside_splits_are_told(tmp_path):
    layout(two_classes(tmp_path, 'train', 'val'), 'annotations/1.xml')
    assert 'without images, ignored: annotations' in class_folders.list_images(tmp_path).notes


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    two_classes(tmp_path, '.')

    def refuse(folder):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(folder_tree.os, 'listdir', refuse)
    with pytest.raises(UserError, match=f'cannot list {tmp_path}: Permission denied'):
        class_folders.list_images(tmp_path)


def test_a_folder_that_cannot_be_entered_is_named(tmp_path, monkeypatch):
    """It can be listed, as with the mode 644."""
    two_classes(tmp_path, '.')
    stat = Path.stat

    def refuse(path, *, follow_symlinks=True):
        if path.parent.name == 'cat':
            raise PermissionError(13, 'Permission denied', str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, 'stat', refuse)
    with pytest.raises(UserError, match=rf'^cannot read {tmp_path}/cat/.*: Permission denied'):
        class_folders.list_images(tmp_path)
    failures = []
    assert list(folder_tree.find_images(tmp_path / 'cat', Counter(), failures.append)) == []
    assert failures


@pytest.mark.parametrize(
    ('link', 'target'),
    [('wolf', 'dog'), ('cat/all', '..'), ('cat/dogs', '../dog')],
)
def test_one_folder_is_not_two_classes(tmp_path, link, target):
    two_classes(tmp_path, '.', images=20)
    (tmp_path / link).symlink_to(target)
    with pytest.raises(UserError, match=r'are the same folder.*remove a link'):
        class_folders.list_images(tmp_path)


@pytest.mark.parametrize(('link', 'target'), [('val', 'train'), ('val/cat', '../train/cat')])
def test_training_images_are_not_validated_through_a_link(tmp_path, link, target):
    two_classes(tmp_path, 'train')
    if '/' in link:
        layout(tmp_path, 'val/dog/9.jpg')
    (tmp_path / link).symlink_to(target)
    with pytest.raises(UserError, match='are the same folder'):
        class_folders.list_images(tmp_path)


def test_one_folder_may_be_both_splits_that_are_not_trained_on(tmp_path):
    two_classes(tmp_path, 'train', 'val')
    (tmp_path / 'test').symlink_to('val')
    assert counts(class_folders.list_images(tmp_path)) == {'train': 6, 'validation': 6, 'test': 6}


def test_no_class_loses_all_its_images_to_validation(tmp_path):
    layout(tmp_path, *(f'class{k:02}/0.jpg' for k in range(60)))
    two_classes(tmp_path, '.', images=40)
    catalogue = class_folders.list_images(tmp_path)
    assert not catalogue.empty_classes
    assert counts(catalogue)['validation'] > 0


def test_of_many_classes_the_smallest_and_the_largest_are_shown(tmp_path):
    for k in range(30):
        layout(tmp_path, *(f'class{k:02}/{i}.jpg' for i in range(2 + k)))
    notes = class_folders.list_images(tmp_path).notes
    lines = notes[2].splitlines()
    assert len(lines) == 11
    names = [line.split()[0] for line in lines]
    assert names[:5] == ['class', 'class00', 'class01', 'class02', '...']
    assert names[5] in ('class14', 'class15', 'class16')  # a median of the training images
    assert names[6] == '...'
    assert all(name > 'class24' for name in names[7:10])
    assert names[10] == 'all'
    total = sum(2 + k for k in range(30))
    train, validation = (int(x) for x in lines[-1].split()[2:])
    assert train + validation == total


def test_the_imbalance_of_the_classes_is_told(tmp_path):
    for split, cats, dogs in (('train', 30, 10), ('val', 6, 2)):
        layout(tmp_path, *(f'{split}/cat/{i}.jpg' for i in range(cats)))
        layout(tmp_path, *(f'{split}/dog/{i}.jpg' for i in range(dogs)))
    notes = class_folders.list_images(tmp_path).notes
    assert '10 to 30 training images in a class: the largest has 3.0 times' in notes[3]
    assert notes[3].endswith('always answering cat has a validation error of 25.0%')
    layout(tmp_path, *(f'train/dog/more/{i}.jpg' for i in range(15)))
    assert (
        '25 to 30 training images in a class; always'
        in class_folders.list_images(tmp_path).notes[3]
    )


def test_formats_that_are_not_read_are_named_with_what_to_do(tmp_path):
    """A class that has nothing else is refused; otherwise they are counted."""
    two_classes(tmp_path, '.', images=20)
    layout(tmp_path, 'cat/1.HEIC', 'cat/2.heic', 'dog/x.avif', 'dog/y.CR2', 'dog/z.svg')
    notes = class_folders.list_images(tmp_path).notes
    unread = next(note for note in notes if note.startswith('not read: '))
    assert '2 .heic, 1 .avif, 1 .cr2 files (HEIC, AVIF, raw images of cameras)' in unread
    assert "-iname '*.heic' -o -iname '*.avif' -o -iname '*.cr2'" in unread
    assert 'not taken: 1 .svg' in notes
    layout(tmp_path, 'fox/1.heic')
    with pytest.raises(UserError, match=r'fox has no images .*: only 1 \.heic files \(HEIC\)'):
        class_folders.list_images(tmp_path)
