"""Training on a user's own images by one flag, as a user starts it."""

import json
import re
import shutil
import sys

import pytest

import runs
import tars

SHORT = (
    '--config.optimizer.epochs=2',
    '--config.model.width=0.03125',
    '--config.evaluation.average_views=false',
)


def command(folder, data, workdir, *arguments):
    return [
        *(sys.executable, '-m', 'alexnet_jax.main', '--config=own_images'),
        *(f'--config.dataset.folder={folder}', f'--workdir={workdir}'),
        *(f'--config.dataset.data_dir={data}', *arguments),
    ]


def test_a_dry_run_shows_the_images_and_the_fitted_settings_and_writes_nothing(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', ('ant', 'bee', 'cat'), images=12)
    (pets / 'ant' / 'phone.HEIC').write_bytes(b'x')
    code, out, err = runs.run(
        command(pets, tmp_path, tmp_path / 'run', '--dry_run', '--config.optimizer.epochs=7')
    )
    assert code == 0, err
    assert f'{pets}: 3 classes: ant, bee, cat\n' in out
    assert re.search(r'not read: 1 \.heic files \(HEIC\) in .*: convert them to JPEG', out)
    assert re.search(r'^dataset\.classes +3  as many as there are$', out, re.MULTILINE)
    assert re.search(r'^optimizer\.epochs +7\.0  set by you$', out, re.MULTILINE)
    assert 'dataset.classes = 3\n' in out
    assert re.search(r'^fc8 .* 3 in all', out, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ['pets']


@pytest.mark.slow
def test_one_flag_trains_and_the_same_command_resumes_with_the_same_settings(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=20)
    train = command(pets, tmp_path / 'data', tmp_path / 'run', *SHORT)
    code, out, err = runs.run(train)
    assert code == 0, err
    assert out.count('2 classes: cat, dog') == 1  # described once
    record = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert record['config']['dataset']['classes'] == 2
    code, out, err = runs.run(train)
    assert code == 0, err
    assert 'are those of the run that is resumed' in out
    assert 'already prepared' in out
    fox = pets / 'fox'
    shutil.copytree(pets / 'cat', fox)
    code, _, err = runs.run(train)
    assert (code, len(err.splitlines())) == (2, 1)
    assert 'has 3 classes, not 2' in err
    shutil.rmtree(fox)
    for i in range(20, 600):  # enough for other settings, were they fitted again
        shutil.copy(pets / 'cat' / '0.jpg', pets / 'cat' / f'{i}.jpg')
    code, _, err = runs.run(train)
    assert (code, len(err.splitlines())) == (2, 1)
    assert 'was prepared from other images (40 then, 620 now)' in err
    pets.rename(tmp_path / 'gone')
    code, _, err = runs.run(train)
    assert (code, err) == (2, f'alexnet_jax: dataset.folder={pets} is not a folder\n')


def test_mistakes_are_one_line(tmp_path):
    for kind in ('cat', 'dog'):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / '1.NEF').write_bytes(b'x')
    code, _, err = runs.run(command(tmp_path, tmp_path, tmp_path / 'run', '--dry_run'))
    assert (code, len(err.splitlines())) == (2, 1)
    assert 'cat has no images' in err
    assert 'only 1 .nef files (raw images of cameras)' in err
