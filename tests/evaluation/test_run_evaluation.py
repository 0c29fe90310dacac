import json
import re

import jax
import numpy as np
import pytest

import nets
import runs
import tars
from alexnet_jax.data import sources
from alexnet_jax.evaluation import error_rates, run_evaluation
from alexnet_jax.evaluation.trained_net import LabelledImages, TrainedNet
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.workdir import Workdir


def net(name, *rows):
    p = nets.log(rows)
    return run_evaluation.NetOutputs(name, 7, 5, p, p[::-1])


def test_the_table_has_each_net_and_their_mean():
    """Two images by hand: the mean is right for the centre crop and wrong for all views."""
    labels = np.int32([0, 1])
    one, other = net('a', [0.8, 0.2], [0.3, 0.7]), net('b', [0.45, 0.55], [0.1, 0.9])
    results = run_evaluation.compute_results([one, other], labels)
    assert [(x.net, x.step, x.views) for x in results] == [
        ('a', 7, 'centre crop'),
        ('a', 7, 'mean of 5 views'),
        ('b', 7, 'centre crop'),
        ('b', 7, 'mean of 5 views'),
        ('mean of 2 nets', None, 'centre crop'),
        ('mean of 2 nets', None, 'all views'),
    ]
    assert [x.errors.top1 for x in results] == [0, 1, 0.5, 0.5, 0, 1]
    lines = run_evaluation.table(results, classes=6).splitlines()
    assert lines[0].startswith('2 images')
    assert re.search(r'step +top-1 +95 % interval +top-5 +95 % interval$', lines[0])
    assert lines[1].split()[:5] == ['a,', 'centre', 'crop', '7', '0.00%']
    assert '9.45% to 90.55%' in lines[3]
    assert len(lines) == 7
    assert len(run_evaluation.compute_results([one], labels)) == 2


def test_outputs_that_are_nan_are_told_below_the_table():
    labels = np.int32([0, 1])
    right, broken = net('a', [0.8, 0.2], [0.3, 0.7]), net('b', [0.8, 0.2], [np.nan, np.nan])
    assert run_evaluation.nan_notes(run_evaluation.compute_results([right], labels)) == []
    results = run_evaluation.compute_results([right, broken], labels)
    notes = run_evaluation.nan_notes(results)
    assert [note.partition(':')[0] for note in notes] == [
        'b, centre crop',
        'b, mean of 5 views',
        'mean of 2 nets, centre crop',
        'mean of 2 nets, all views',
    ]
    assert [x.errors.top1 for x in results[2:]] == [0.5, 1, 0.5, 1]
    plain = json.dumps(run_evaluation._plain(results), allow_nan=False)
    assert 'null' in plain


def test_what_differs_between_two_sets_of_images_is_named():
    one = LabelledImages(['cat', 'dog'], ['1.jpg', '2.jpg'], np.int32([0, 1]))
    assert run_evaluation.difference(one, one) == ''
    for changed, what in (
        ({'classes': ['cat']}, '2 and 1 classes'),
        ({'classes': ['cat', 'emu']}, 'classes dog and emu'),
        ({'names': ['1.jpg']}, '2 and 1 images'),
        ({'names': ['1.jpg', '3.jpg']}, 'images 2.jpg and 3.jpg'),
        ({'labels': np.int32([0, 0])}, '2.jpg is dog and cat'),
    ):
        assert run_evaluation.difference(one, one._replace(**changed)) == what


def few(data_dir, **overrides):
    """Returns the settings of an untrained net with few test images."""
    small = {'model__width': 0.0625, 'dataset__data_dir': data_dir}
    return nets.small(**small | {'dataset__eval_split': 'test[:30]'} | overrides)


def test_nets_may_differ_in_their_recipe(tmp_path, data_dir):
    """In crop, width, towers and image size; the test images are the same."""
    recipes = (
        {},
        {'model__towers': 1, 'model__width': 0.125},
        {'augmentation__crop': 72, 'dataset__image_size': 80, 'augmentation__mirror': True},
    )
    workdirs = [
        runs.untrained(tmp_path / str(i), few(data_dir, seed=i, **recipe))
        for i, recipe in enumerate(recipes)
    ]
    run_evaluation.evaluate_runs(workdirs, {}, tmp_path / 'out', tune=True)
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['workdirs'] == [str(w) for w in workdirs]
    assert summary['steps'] == [3, 3, 3]
    views = [result['views'] for result in summary['results']]
    assert views[1::2] == ['mean of 5 views', 'mean of 5 views', 'mean of 10 views', 'all views']
    assert sum(summary['tuned']['weights']) == pytest.approx(1)
    assert [r['images'] for r in summary['tuned']['results']] == [15, 15]
    assert summary['environment']['versions']['jax']
    with np.load(tmp_path / 'out' / 'probabilities.npz') as file:
        assert file['probabilities'].shape == (30, 10)
        assert file['tuned_on'].sum() == 15
        is_other = ~file['tuned_on']
        error = error_rates.errors(
            nets.log(file['weighted_probabilities'][is_other]), file['labels'][is_other]
        ).top5
        assert summary['tuned']['results'][1]['top5_error'] == pytest.approx(error)
        total = error_rates.errors(nets.log(file['probabilities']), file['labels'])
    assert summary['results'][-1]['top1_error'] == pytest.approx(total.top1)
    assert summary['results'][-1]['loss'] == pytest.approx(total.loss)


def test_other_images_than_in_training(tmp_path, data_dir):
    workdir = runs.untrained(tmp_path / 'w', few(data_dir))
    run_evaluation.evaluate_runs(
        [workdir], {'eval_split': 'train[:12]'}, tmp_path / 'out', tune=False
    )
    rows = (tmp_path / 'out' / 'predictions.csv').read_text().splitlines()
    assert len(rows) == 13
    assert 'digits-train' in rows[1]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, data_dir):
    return runs.untrained(tmp_path_factory.mktemp('first'), few(data_dir))


@pytest.mark.parametrize(
    ('overrides', 'what'),
    [
        ({'dataset__eval_split': 'test[:31]'}, r'test\[:30\], test\[:31\]'),
        ({'dataset__name': 'synthetic'}, '30 and 256 images'),
        ({'dataset__name': 'synthetic', 'dataset__classes': 9}, '10 and 9 classes'),
        ({'dataset__folder': '/pets'}, 'digits, /pets'),
    ],
)
def test_nets_with_different_test_images_are_not_an_ensemble(
    tmp_path, data_dir, workdir, overrides, what
):
    """The message names both, and nothing is written."""
    other = runs.untrained(tmp_path / 'other', few(data_dir, **overrides))
    with pytest.raises(
        UserError, match=rf'{workdir} and {other} are not evaluated on the same images \({what}\)'
    ):
        run_evaluation.evaluate_runs([workdir, other], {}, tmp_path / 'out', tune=False)
    assert not (tmp_path / 'out').exists()


def test_mistakes_are_user_errors(tmp_path, data_dir, workdir):
    (tmp_path / 'file').write_text('')
    for workdirs, changes, out, tune, message in (
        ([workdir, workdir / '..' / workdir.name], {}, 'out', False, 'are the same run: name it'),
        ([tmp_path / 'nowhere'], {}, 'out', False, 'nowhere is not the workdir of a run'),
        ([workdir], {'folder': '/pets'}, 'out', False, 'is a run on digits, not on a folder'),
        ([workdir], {'eval_split': 'tset'}, 'out', False, f"{workdir}: .* has no split 'tset'"),
        (
            [workdir],
            {'eval_split': 'test[:0]'},
            'out',
            False,
            r"the split 'test\[:0\]' of digits selects no",
        ),
        ([workdir], {'eval_split': 'test[:1]'}, 'out', True, 'has too few images: choose a'),
        ([workdir], {}, 'file/out', False, 'file is a file, not a folder: choose another --out'),
        ([workdir], {}, 'file', False, 'file is a file, not a folder: choose another --out'),
        (
            [workdir],
            {'data_dir': '/proc/x'},
            'out',
            False,
            'is not a folder: .* with --data_dir=DIR$',
        ),
    ):
        with pytest.raises(UserError, match=message):
            run_evaluation.evaluate_runs(workdirs, changes, tmp_path / out, tune)


def test_devices_that_are_missing_are_no_fault_of_the_checkpoints(tmp_path, workdir, monkeypatch):
    def fail(*_):
        raise AssertionError  # as JAX does for JAX_PLATFORMS=cuda where CUDA is not installed

    monkeypatch.setattr(jax, 'devices', fail)
    monkeypatch.setattr(jax, 'process_index', fail)
    with pytest.raises(UserError, match=r'cannot (be used|use the devices)') as error:
        run_evaluation.evaluate_runs([workdir], {}, tmp_path / 'out', tune=False)
    assert 'checkpoint' not in str(error.value)


def test_no_data_set_is_prepared_where_the_user_says_that_it_is(tmp_path, workdir):
    """A wrong --data_dir is refused, by the evaluation and by what a report shows."""
    (tmp_path / 'data').mkdir()
    changes = {'data_dir': str(tmp_path / 'data')}
    with pytest.raises(
        UserError, match=r'the data set digits is not in .*data: choose .*--data_dir=DIR$'
    ):
        run_evaluation.evaluate_runs([workdir], changes, tmp_path / 'out', tune=False)
    config = few(changes['data_dir'])
    with pytest.raises(UserError, match='the data set digits is not in'):
        TrainedNet(workdir, config=config)
    assert list((tmp_path / 'data').iterdir()) == []
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('classes', 'names'), [(5, ['top-1']), (6, ['top-1', 'top-5'])])
def test_the_top_5_error_is_left_out_where_it_is_always_0(classes, names):
    p = np.eye(classes, dtype=np.float32)
    nets_ = [run_evaluation.NetOutputs('a', 7, 1, p, p)]
    results = run_evaluation.compute_results(nets_, np.arange(classes))
    header, row = run_evaluation.table(results, classes).splitlines()
    assert re.findall(r'top-\d', header) == names
    assert row.count('0.00% to') == len(names)


def test_a_folder_of_images_may_have_moved(tmp_path, capsys):
    """--folder names the new place for all nets; without it, the message names the old one."""
    pets = tars.class_folders(tmp_path / 'pets', images=20)
    own = {'dataset__folder': str(pets), 'dataset__classes': 2, 'dataset__name': 'none'}
    own |= {'dataset__eval_split': 'validation'}
    workdir = runs.untrained(tmp_path / 'w', few(str(tmp_path / 'data'), **own))
    pets.rename(tmp_path / 'moved')
    with pytest.raises(UserError, match=f'{workdir}: .*{pets}.*--folder'):
        run_evaluation.evaluate_runs([workdir], {}, tmp_path / 'out', tune=False)
    run_evaluation.evaluate_runs(
        [workdir], {'folder': str(tmp_path / 'moved')}, tmp_path / 'out', tune=False
    )
    assert '.jpg' in (tmp_path / 'out' / 'predictions.csv').read_text()
    assert 'are not those' not in capsys.readouterr().err


def test_images_that_the_net_was_not_trained_on_are_told(tmp_path, capsys):
    """Their mean image is not that of the training, and classes of other names fit as well."""
    for name, images in (('pets', 20), ('others', 21)):
        tars.class_folders(tmp_path / name, images=images)
    own = {'dataset__classes': 2, 'dataset__eval_split': 'validation'}
    own |= {'dataset__folder': str(tmp_path / 'pets')}
    workdir = runs.untrained(tmp_path / 'w', few(str(tmp_path / 'data'), **own))
    with Workdir(workdir).claim(
        config := Workdir(workdir).read_config(),
        nets.mesh_of(1),
        sources.open_splits(config.dataset).identity(),
    ):
        pass
    for name in ('pets', 'others'):
        capsys.readouterr()
        changes = {'folder': str(tmp_path / name)}
        run_evaluation.evaluate_runs([workdir], changes, tmp_path / 'out', tune=False)
        told = f'the images are not those that {workdir} was trained on' in capsys.readouterr().err
        assert told == (name == 'others')


@pytest.mark.parametrize(
    ('classes', 'changes', 'message'),
    [
        (2, {'eval_split': 'tst'}, 'not tst: choose one of these with --split'),
        (3, {}, 'has 2 classes, not 3: choose the images that the run was trained on'),
    ],
)
def test_advice_does_not_name_settings_to_a_program_that_has_none(
    tmp_path, classes, changes, message
):
    tars.class_folders(tmp_path / 'pets', images=20)
    own = {'dataset__classes': classes, 'dataset__folder': str(tmp_path / 'pets')}
    workdir = runs.untrained(tmp_path / 'w', few(str(tmp_path / 'data'), **own))
    with pytest.raises(UserError, match=message):
        run_evaluation.evaluate_runs([workdir], changes, tmp_path / 'out', tune=False)
