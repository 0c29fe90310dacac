import csv
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import nets
import runs
from alexnet_jax.data.pixel_statistics import Colours
from alexnet_jax.evaluation import classifier
from alexnet_jax.evaluation.prediction import predicting
from alexnet_jax.evaluation.prediction.picture_sources import Pictures, PictureSource, find
from alexnet_jax.evaluation.prediction.run_prediction import Request, run
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files.inputs_file import Inputs
from alexnet_jax.training.workdir import Workdir

CLASSES = tuple(map(str, range(10)))


def make_run(workdir, classes=CLASSES, **settings):
    """Makes a run with initial weights, for images of another size than the shared run's."""
    config = nets.small(dataset__image_size=80, model__width=0.0625, seed=3, **settings)
    runs.untrained(workdir, config)
    colours = Colours(np.zeros(3), np.ones(3), np.eye(3))
    mean = np.full((80, 80, 3), 99, np.float32)
    Workdir(workdir).write_inputs(Inputs(mean, colours, classes))
    return workdir


@pytest.fixture(scope='module')
def other_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp('other') / 'run', dataset__resize='lanczos')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Three pictures, one file that is none, and a file with another suffix."""
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for name in 'abc':
        pixels = rng.integers(0, 256, (90, 120, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{name}.png')
    (folder / 'bad.png').write_text('text')
    (folder / 'notes.txt').write_text('text')
    return folder


def predict(capsys, workdirs, pictures, **options):
    """Returns the number of pictures that could not be read, stdout and stderr."""
    unread = run(Request(workdirs, pictures, options.pop('top', 2), **options))
    return unread, *capsys.readouterr()


def test_answers_are_on_stdout_and_everything_else_on_stderr(trained_run, folder, capsys):
    unread, out, err = predict(capsys, [trained_run], find([str(folder)]), top=1)
    expected = classifier.load(trained_run).predict(folder / 'a.png', top=1)[0]
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [str(folder / f'{name}.png') for name in 'abc']
    assert re.split('  +', lines[0])[1:] == [f'{expected.probability:.2%}', expected.name]
    bad, summary = err.splitlines()
    assert (unread, bad) == (1, f'alexnet_jax: {folder}/bad.png is not an image (4 bytes)')
    assert re.fullmatch(
        r'4 pictures in [\d.]+ s; 1 of them could not be read; other files: 1 \.txt', summary
    )


def test_what_is_prepared_for_an_earlier_run_is_not_among_the_answers(
    trained_run, folder, capsys, monkeypatch
):
    load = predicting.load

    def prepare(*arguments):
        show('preparing digits')
        return load(*arguments)

    monkeypatch.setattr(predicting, 'load', prepare)
    pictures = find([str(folder / 'a.png')])
    _, out, err = predict(capsys, [trained_run], pictures, format='json')
    assert (len(out.splitlines()), err) == (1, 'preparing digits\n')


def test_csv_and_json_say_the_same(trained_run, folder, capsys, tmp_path):
    """One on stdout, one in a file; for one picture that is read nothing else is printed."""
    pictures = find([str(folder / 'a.png')])
    _, out, err = predict(capsys, [trained_run], pictures, format='csv', views=10)
    assert err == ''
    options = {'format': 'json', 'views': 10, 'out': tmp_path / 'x.json'}
    _, nothing, err = predict(capsys, [trained_run], pictures, **options)
    assert nothing == ''
    assert f'written to {tmp_path}/x.json' in err
    header, row = csv.reader(io.StringIO(out))
    assert header == ['name', 'answer 1', 'probability 1', 'answer 2', 'probability 2']
    answer = json.loads((tmp_path / 'x.json').read_text())
    cells = [str(x[key]) for x in answer['predictions'] for key in ('class', 'probability')]
    assert row == [answer['name'], *cells]


def test_an_ensemble_of_different_nets_is_the_mean(trained_run, other_run, folder, capsys):
    """They differ in size, filter and views, and are in either order the same."""
    pictures = find([str(folder / 'a.png')])
    p_MK = []
    for workdir in (trained_run, other_run):
        answers = classifier.load(workdir).predict(folder / 'a.png', top=10)
        p_MK.append([x.probability for x in sorted(answers, key=lambda x: x.label)])
    assert np.abs(np.subtract(*p_MK)).max() > 1e-3
    for workdirs in ([trained_run, other_run], [other_run, trained_run]):
        _, out, _ = predict(capsys, workdirs, pictures, top=10, format='json')
        answers = {x['label']: x['probability'] for x in json.loads(out)['predictions']}
        np.testing.assert_allclose([answers[k] for k in range(10)], np.mean(p_MK, axis=0), 1e-4)


def test_the_nets_of_an_ensemble_have_the_same_classes(trained_run, tmp_path, folder):
    other = make_run(tmp_path / 'run', (*CLASSES[:3], 'three', *CLASSES[4:]))
    message = f'class 3 is 3 in {trained_run} and three in {other}'
    with pytest.raises(UserError, match=re.escape(message)):
        run(Request([trained_run, other], find([str(folder)]), 1))


def test_descriptions_of_classes(trained_run, folder, capsys):
    pictures = find([str(folder / 'a.png')])
    names = [(name, f'digit {name}') for name in CLASSES[1:]] + [('11', 'eleven')]
    _, out, err = predict(capsys, [trained_run], pictures, top=10, format='json', names=names)
    for answer in json.loads(out)['predictions']:
        name = answer['class']
        assert answer['description'] == (f'digit {name}' if name != '0' else '')
    assert err == (
        'alexnet_jax: --names and the net have different classes; not in the net: 11; '
        'not described: 0\n'
    )


def test_many_pictures_have_progress_and_folders_may_be_unreadable(
    trained_run, folder, capsys, monkeypatch
):
    monkeypatch.setattr('alexnet_jax.runtime.progress.ProgressBars.SECONDS_BETWEEN_LINES', 0.0)
    path = str(folder / 'a.png')
    pictures = Pictures([PictureSource(path, path)] * 40, ['cannot list x: no'], Counter())
    unread, out, err = predict(capsys, [trained_run], pictures, top=1)
    assert len(out.splitlines()) == 40
    assert unread == 1
    assert 'alexnet_jax: cannot list x: no\n' in err
    assert re.search(r'predicting: +100% .*40/40', err)
    assert '40 pictures in' in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith('; 1 folder could not be read')
