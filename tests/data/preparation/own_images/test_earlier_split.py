"""Data sets that were split before every class had a validation image."""

import nets
import tars
from alexnet_jax.data import sources
from alexnet_jax.data.preparation import writing
from alexnet_jax.data.preparation.own_images import class_folders, earlier_split
from alexnet_jax.data.preparation.storage import Storage

STORAGE = Storage(size=16)


def ignore(*_):
    """Ignores progress reports."""


def small_classes(folder):
    """Writes classes of which some have no image that its hash holds out, and one of many."""
    tars.class_folders(folder, [f'class{k}' for k in range(8)], images=5)
    tars.class_folders(folder, ['many'], images=40)
    return class_folders.list_images(folder)


def test_a_set_with_the_earlier_split_is_used_and_told(tmp_path):
    catalogue = small_classes(tmp_path / 'pets')
    assert earlier_split.prefer_prepared(catalogue, STORAGE, tmp_path) == (catalogue, '')
    writing.write(catalogue.earlier, STORAGE, tmp_path, 1, 0, ignore, ignore)
    chosen, note = earlier_split.prefer_prepared(catalogue, STORAGE, tmp_path)
    assert chosen is catalogue.earlier
    assert 'classes without a validation image are class' in note
    assert f'--again --folder={tmp_path / "pets"}' in note
    writing.write(catalogue, STORAGE, tmp_path, 1, 0, ignore, ignore, again=True)
    assert earlier_split.prefer_prepared(catalogue, STORAGE, tmp_path) == (catalogue, '')


def test_a_run_on_it_finds_its_images_again(tmp_path, capsys):
    catalogue = small_classes(tmp_path / 'pets')
    dataset = nets.small(
        dataset__folder=str(tmp_path / 'pets'),
        dataset__data_dir=str(tmp_path),
        dataset__classes=9,
        dataset__eval_split='validation',
        dataset__image_size=64,
    ).dataset
    writing.write(catalogue.earlier, Storage(size=64), tmp_path, 1, 0, ignore, ignore)
    splits = sources.open_splits(dataset)
    assert len(splits.eval) == len(catalogue.earlier.splits['validation'])
    assert 'split by an earlier version' in capsys.readouterr().out


def test_folders_whose_split_is_the_same_have_no_earlier_one(tmp_path):
    tars.class_folders(tmp_path / 'pets', images=60)
    assert class_folders.list_images(tmp_path / 'pets').earlier is None
