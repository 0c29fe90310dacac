"""Every layout of ImageNet gives the data set that the tars of the same files give."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from array_record.python import array_record_data_source

import imagenet_layouts as layouts
import tars
from alexnet_jax.data.preparation import copies, writing
from alexnet_jax.data.preparation.layouts import imagenet_tars, recognition
from alexnet_jax.data.preparation.storage import Storage
from alexnet_jax.runtime.signals import Stopped
from alexnet_jax.runtime.user_errors import UserError

SMALL = Storage(size=8, quality=50)
CLASSES = imagenet_tars.labels_2012()


def ignore(*_):
    """Ignores messages and progress."""


def listed(path, **options):
    return recognition.list_images(path, ignore, **options)


def write(catalogue, data_dir, announce=ignore):
    return writing.write(catalogue, SMALL, data_dir, 1, 0, announce, ignore)


def files_of(folder):
    """Returns the records of each file of a data set, and the metadata."""
    contents = {}
    for file in sorted(folder.iterdir()):
        if '.array_record' in file.name:
            contents[file.name] = list(array_record_data_source.ArrayRecordDataSource(str(file)))
        elif file.name == 'prepared.json':
            contents[file.name] = json.loads(file.read_text()) | {'source': {}}
        else:
            contents[file.name] = file.read_bytes()
    return contents


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """Tars of 1,000 synsets, with images in unusual formats."""
    return tars.ilsvrc2012(tmp_path_factory.mktemp('tars'))


@pytest.fixture(scope='module')
def images(official):
    return layouts.read_tars(official)


@pytest.fixture(scope='module')
def reference(official, tmp_path_factory):
    """The data set that the tars give."""
    catalogue = imagenet_tars.list_images(official, ignore)
    return catalogue, write(catalogue, tmp_path_factory.mktemp('reference')).folder


LAYOUTS = {
    'folders': lambda path, images: layouts.write_folder(path, layouts.tree(images)),
    'flat val': lambda path, images: layouts.write_folder(path, layouts.tree(images, flat=True)),
    'Kaggle, folders': lambda path, images: layouts.write_folder(path, layouts.kaggle(images)),
    'Kaggle, deflated zip': lambda path, images: layouts.write_zip(
        path / 'imagenet-object-localization-challenge.zip', layouts.kaggle(images)
    ),
    'Kaggle, stored zip': lambda path, images: layouts.write_zip(
        path / 'a.zip', layouts.kaggle(images), zipfile.ZIP_STORED
    ),
    'Kaggle, streamed zip': lambda path, images: layouts.write_zip(
        path / 'a.zip', layouts.kaggle(images), streamed=True
    ),
    'Kaggle, tar.gz': lambda path, images: layouts.write_tar(
        path / 'imagenet_object_localization_patched2019.tar.gz', layouts.kaggle(images)
    ),
    'Kaggle, tar.gz in a zip': lambda path, images: layouts.write_zip(
        path / 'a.zip',
        {
            'a.tar.gz': layouts.write_tar(path / 'a.tgz', layouts.kaggle(images)).read_bytes(),
            'LOC_val_solution.csv': layouts.kaggle(images)['LOC_val_solution.csv'],
        },
    ),
    'the Hub, tar.gz': lambda path, images: layouts.write_hub_tars(path / 'hub', images),
    'plain tar': lambda path, images: layouts.write_tar(
        path / 'a.tar', layouts.tree(images, prefix='imagenet/')
    ),
    'parquet': lambda path, images: layouts.write_parquet(path / 'hub', images),
    'WebDataset': lambda path, images: layouts.write_webdataset(path / 'wds', images),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_records_equal_those_from_tars(images, reference, tmp_path, layout):
    path = LAYOUTS[layout](tmp_path / 'images' if 'folders' in layout else tmp_path, images)
    catalogue = listed(path)
    same, folder = reference
    assert catalogue.name == same.name == 'imagenet2012'
    assert catalogue.fingerprint() == same.fingerprint()
    assert catalogue.published == imagenet_tars.IMAGES_2012
    assert any(note.startswith('recognized: ') for note in catalogue.notes)
    other = write(catalogue, tmp_path / 'data').folder
    assert files_of(other) == files_of(folder)
    assert json.loads((other / 'prepared.json').read_text())['source'] == {'imagenet': str(path)}


def test_a_set_from_tars_is_there_already_for_other_layouts(images, reference, tmp_path):
    catalogue = listed(layouts.write_parquet(tmp_path / 'hub', images))
    lines = []
    assert write(catalogue, reference[1].parents[1], lines.append).folder == reference[1]
    assert lines == [f'already prepared in {reference[1]}']


def test_a_set_that_was_prepared_when_tars_were_not_sorted_is_there_already(
    official, reference, tmp_path
):
    folder = tmp_path / reference[1].parent.name / reference[1].name
    folder.parent.mkdir()
    folder.symlink_to(reference[1])
    unsorted = imagenet_tars.list_ilsvrc2012(official, ignore)
    assert unsorted.fingerprint() != reference[0].fingerprint()
    assert unsorted.fingerprint() == reference[0].earlier_fingerprint
    lines = []
    earlier = dataclasses.replace(reference[0], earlier_fingerprint=reference[0].fingerprint())
    earlier.splits = unsorted.splits
    write(earlier, tmp_path, lines.append)
    assert lines == [f'already prepared in {folder}']


def test_test_images_and_annotations_are_left_out_and_told(images, tmp_path):
    zip_file = layouts.write_zip(tmp_path / 'a.zip', layouts.kaggle(images))
    catalogue = listed(zip_file)
    assert list(catalogue.splits) == ['train', 'validation']
    assert '1 test images have no labels and are left out' in catalogue.notes
    assert "LOC_val_solution.csv has the devkit's labels for all 20 images" in str(catalogue.notes)


def few(images, synsets):
    """Returns the training images of these synsets, and all validation images."""
    train = {n: d for n, d in images['train'].items() if n.partition('_')[0] in synsets}
    return images | {'train': train}


def test_missing_synsets_are_named(images, tmp_path):
    some = few(images, set(CLASSES) - {'n01440764', 'n13133613'})
    some['validation'] = {}
    catalogue = listed(layouts.write_folder(tmp_path, layouts.tree(some)))
    assert catalogue.classes == CLASSES
    assert 'no training images of n01440764, n13133613' in catalogue.notes
    with pytest.raises(UserError, match=r'lacks 2 of 1000 synsets: n01440764, n13133613: download'):
        catalogue.check_complete()


def test_the_number_of_images_is_compared_with_the_published_one(images, tmp_path):
    catalogue = listed(layouts.write_zip(tmp_path / 'a.zip', layouts.kaggle(images)))
    with pytest.raises(UserError, match=r'a.zip has 1,006 train images instead of .* 1,281,167'):
        catalogue.check_complete()


def test_missing_shards_are_named(images, tmp_path):
    hub = layouts.write_parquet(tmp_path / 'hub', images)
    (hub / 'data' / 'train-00001-of-00003.parquet').unlink()
    (hub / 'data' / 'validation-00002-of-00003.parquet').unlink()
    with pytest.raises(
        UserError, match=r'lacks data/train-00001-of-00003.parquet, data/validation-00002-of-00003'
    ):
        listed(hub).check_complete()
    shards = layouts.write_webdataset(tmp_path / 'wds', images)
    (shards / 'imagenet1k-train-0002.tar').unlink()
    with pytest.raises(UserError, match=r'wds lacks imagenet1k-train-0002.tar: download it again'):
        listed(shards).check_complete()


@pytest.mark.parametrize('fraction', [0.3, 0.99])
@pytest.mark.parametrize('layout', ['Kaggle, deflated zip', 'Kaggle, tar.gz', 'parquet'])
def test_a_truncated_archive_is_named(images, tmp_path, layout, fraction):
    path = LAYOUTS[layout](tmp_path, few(images, set(CLASSES[:9])))
    file = next(path.glob('data/train*')) if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: int(fraction * file.stat().st_size)])
    with pytest.raises(UserError, match=rf'{file.name} is truncated or damaged .*: download it'):
        listed(path)


def test_a_flipped_bit_in_a_zip_is_noticed(images, tmp_path):
    path = layouts.write_zip(tmp_path / 'a.zip', layouts.tree(few(images, set(CLASSES[:9]))))
    catalogue = listed(path)
    with zipfile.ZipFile(path) as file:
        info = file.infolist()[3]
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'a.zip is damaged: its member at byte [\d,]+ '):
        write(catalogue, tmp_path / 'data')


DEVKIT = ['n02119789', 'n02100735', 'n02110185', 'n02096294', 'n02102040']
DEVKIT_ORDER = [*DEVKIT, *(synset for synset in CLASSES if synset not in DEVKIT)]


@pytest.mark.parametrize('first', [0, 1])
def test_the_devkits_order_is_recognized_by_the_names(images, reference, tmp_path, first):
    def label(name):
        return DEVKIT_ORDER.index(layouts.synset_of(name)) + first

    for write_layout in (layouts.write_parquet, layouts.write_webdataset):
        catalogue = listed(write_layout(tmp_path / write_layout.__name__, images, label=label))
        assert catalogue.fingerprint() == reference[0].fingerprint()
        assert "labels: numbers in the devkit's order" in str(catalogue.notes)


def test_labels_that_contradict_the_names_are_refused(images, tmp_path):
    def label(name):
        return min(layouts.label_of(name), 998)

    with pytest.raises(
        UserError,
        match=r'of n13133613 and of n15075141 with the same label 998|'
        r'of n15075141 and of n13133613 with the same label 998',
    ):
        listed(layouts.write_parquet(tmp_path / 'hub', images, label=label))


def test_images_without_names_are_numbered_by_the_sorted_ids(images, tmp_path):
    for write_layout in (layouts.write_parquet, layouts.write_webdataset):
        catalogue = listed(write_layout(tmp_path / write_layout.__name__, images, named=False))
        assert 'taken for numbers of the sorted WordNet ids' in str(catalogue.notes)
        expected = np.bincount([layouts.label_of(name) for name in images['train']])
        assert np.bincount(catalogue.splits['train'].labels).tolist() == expected.tolist()


def test_labels_in_an_unknown_order_without_names_are_refused(images, tmp_path):
    def label(name):
        return 1000 - layouts.label_of(name)

    hub = layouts.write_parquet(tmp_path / 'hub', images, named=False, label=label)
    with pytest.raises(UserError, match='has labels from 1 to 1000, not from 0 to 999'):
        listed(hub)


def test_an_image_in_the_folder_of_another_synset_is_refused(images, tmp_path):
    files = layouts.tree(few(images, set(CLASSES[:9])))
    files['train/n01440764/n01443537_100.JPEG'] = b'x'
    with pytest.raises(UserError, match=r'lies in the folder of n01440764, but .* of n01443537'):
        listed(layouts.write_folder(tmp_path, files))


def test_validation_labels_of_kaggle_that_differ_are_refused(images, tmp_path):
    files = layouts.kaggle(images)
    files['LOC_val_solution.csv'] = files['LOC_val_solution.csv'].replace(b'n0', b'n1')
    with pytest.raises(UserError, match=r'LOC_val_solution.csv has other labels than the devkit'):
        listed(layouts.write_zip(tmp_path / 'a.zip', files))


def test_a_few_folders_of_synsets_are_a_subset(images, tmp_path):
    """As Imagenette, which has validation images of ImageNet among its training images."""
    name, moved = next(iter(images['validation'].items()))
    chosen = sorted({layouts.TRUTH[name], *CLASSES[::100][1:]})
    files = {p: d for p, d in layouts.tree(few(images, chosen)).items() if p.startswith('train')}
    files[f'train/{layouts.TRUTH[name]}/{name}'] = moved
    files |= {f'val/{synset}/{synset}_7.JPEG': moved for synset in chosen}
    files['noisy_imagenette.csv'] = b'path\n'
    catalogue = listed(layouts.write_folder(tmp_path / 'imagenette2', files))
    assert catalogue.classes == chosen
    assert catalogue.name.startswith('imagenet2012_10_')
    train = catalogue.splits['train']
    assert train.labels[train.names.index(name)] == chosen.index(layouts.TRUTH[name])
    catalogue.check_complete()
    assert write(catalogue, tmp_path / 'data').images == {
        'train': len(files) - 11,
        'validation': 10,
    }


def test_a_list_of_synsets_makes_the_same_subset_of_every_layout(images, official, tmp_path):
    chosen = [CLASSES[5], *sorted({layouts.synset_of(name) for name in images['validation']})][::-1]
    (tmp_path / 'list').write_text(''.join(f'{synset} a name\n' for synset in chosen))
    synsets = recognition.read_synsets(tmp_path / 'list')
    assert synsets == chosen
    hub = layouts.write_parquet(tmp_path / 'hub', images)
    zip_file = layouts.write_zip(tmp_path / 'a.zip', layouts.kaggle(images))
    prints = set()
    for path in (hub, zip_file, official):
        catalogue = listed(path, synsets=synsets)
        assert catalogue.classes == chosen
        prints.add((catalogue.name, catalogue.fingerprint()))
    assert len(prints) == 1
    folder = write(listed(hub, synsets=synsets), tmp_path / 'data').folder
    assert folder.parent.name.startswith(f'imagenet2012_{len(chosen)}_')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('n01440764\ntench\n', 'line 2 begins with tench, which is not a class'),
        ('n01440764\n', 'has fewer than two classes'),
        ('n01440764\nn01443537\nn01440764', 'has n01440764 twice'),
    ],
)
def test_a_list_of_synsets_with_mistakes_is_refused(tmp_path, text, message):
    (tmp_path / 'list').write_text(text)
    with pytest.raises(UserError, match=message):
        recognition.read_synsets(tmp_path / 'list')


def test_a_list_of_synsets_may_come_from_any_editor(tmp_path):
    (tmp_path / 'list').write_bytes(b'\xef\xbb\xbfn01440764\r\nn01443537 goldfish\r\n')
    assert recognition.read_synsets(tmp_path / 'list') == ['n01440764', 'n01443537']


@pytest.mark.parametrize('data', ['n01440764\n'.encode('utf-16'), b'x' * 5_000_000])
def test_a_file_that_is_no_list_of_synsets_is_refused_in_a_short_line(tmp_path, data):
    (tmp_path / 'list').write_bytes(data)
    with pytest.raises(UserError, match='is not a text file in UTF-8') as caught:
        recognition.read_synsets(tmp_path / 'list')
    assert len(str(caught.value)) < 300


def test_what_is_no_imagenet_is_told_what_would_be(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets')
    with pytest.raises(
        UserError, match=r'has no layout of ImageNet that is known.* own images, --folder=DIR'
    ):
        listed(pets)
    with pytest.raises(UserError, match='does not exist: pass --imagenet=PATH'):
        listed(tmp_path / 'none')
    (tmp_path / 'train' / 'n01440764').mkdir(parents=True)
    with pytest.raises(UserError, match=rf'pass the folder that has it as train, {tmp_path}$'):
        listed(tmp_path / 'train')


def test_copies_are_kept_after_a_stop_and_removed_at_the_end(
    images, reference, tmp_path, monkeypatch
):
    """A stop while the last of three files is copied costs that one alone."""
    catalogue = listed(layouts.write_parquet(tmp_path / 'hub', images))
    read, sources = catalogue.stream, []

    def stop(path):
        sources.append(path)
        if len(sources) == 3:
            raise Stopped('SIGTERM')
        return read(path)

    with pytest.raises(Stopped):
        write(dataclasses.replace(catalogue, stream=stop), tmp_path / 'data')
    unfinished = tmp_path / 'data' / 'imagenet2012_8_q50' / '.5.1.0.incomplete'
    assert len(list((unfinished / copies.COPIES).iterdir())) == 2
    sources.clear()
    sources += ['', '', '']
    folder = write(dataclasses.replace(catalogue, stream=stop), tmp_path / 'data').folder
    assert len(sources) == 3 + 4  # of six files, two had been copied
    assert files_of(folder) == files_of(reference[1])
