import re
import shlex
import signal
import sys
import time

import pytest

import imagenet_layouts
import runs
import tars
from alexnet_jax.data.preparation import writing
from alexnet_jax.data.preparation.own_images import class_folders
from alexnet_jax.data.preparation.storage import Storage


def prepare(*arguments):
    return runs.run([sys.executable, '-m', 'alexnet_jax.prepare', *arguments])


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    return tars.ilsvrc2012(tmp_path_factory.mktemp('tars'))


def test_a_data_set_prepared_from_tars_passes_the_check(official, tmp_path):
    data_dir = f'--data_dir={tmp_path}'
    code, out, err = prepare(f'--tars={official}', data_dir, '--size=64', '--partial')
    assert code == 0, err
    assert 'train: 1,006 images in 1,000 classes' in out
    assert ' to write in ' in out
    assert 'about 0.0' not in out
    assert '\r' not in err  # a line every ten seconds in place of a bar, where it is no terminal
    assert 'imagenet2012_64/5.1.0: 1,006 train, 20 validation' in out
    assert '--config=ilsvrc2012 --config.dataset.name=imagenet2012_64' in out
    assert f'--config.dataset.data_dir={tmp_path} --config.dataset.image_size=64' in out
    code, out, err = prepare(f'--tars={official}', data_dir, '--size=64', '--partial')
    assert code == 0, err
    assert 'already prepared' in out
    code, out, err = prepare('--check', data_dir)
    assert code == 0, err
    assert '1,006 images of 1,281,167 published; 1 to 5 in each of 1,000 classes' in out
    assert 'no faults' in out


@pytest.mark.slow
def test_kaggles_archives_are_recognized_and_prepared_again_by_name(official, tmp_path):
    """From the zip, and a subset of it from the tar.gz, which is read from its beginning."""
    files = imagenet_layouts.kaggle(imagenet_layouts.read_tars(official))
    path = imagenet_layouts.write_zip(tmp_path / 'imagenet.zip', files)
    data_dir, size = f'--data_dir={tmp_path / "data"}', '--size=32'
    code, out, err = prepare(f'--imagenet={path}', '--partial', data_dir, size)
    assert code == 0, err
    assert f'recognized: a zip archive in {path}\n' in out
    assert '1 test images have no labels and are left out' in out
    assert 'imagenet2012_32/5.1.0: 1,006 train, 20 validation' in out
    assert 'train on it: python -m alexnet_jax.main --config=ilsvrc2012' in out
    path = imagenet_layouts.write_tar(tmp_path / 'imagenet.tar.gz', files)
    synsets = {imagenet_layouts.TRUTH[f'ILSVRC2012_val_{n:08d}.JPEG'] for n in range(1, 21)}
    (tmp_path / 'list').write_text('\n'.join(sorted(synsets)))
    subset = [f'--imagenet={path}', f'--synsets={tmp_path / "list"}']
    code, out, err = prepare(*subset, data_dir, size)
    assert code == 0, err
    assert f'a subset of {len(synsets)} classes: ' in out
    assert f'copying the images out of {path} first, which can only be read from' in out
    assert f'--config.dataset.classes={len(synsets)} ' in out
    name = re.search(r'--config\.dataset\.name=(imagenet2012_\d+_[0-9a-f]{8}_32) ', out)[1]
    code, out, err = prepare('--again', f'--name={name}', data_dir)
    assert code == 0, err
    code, out, err = prepare('--check', data_dir)
    assert code == 0, out
    assert out.count('classes in the order of their WordNet ids') == 4


@pytest.mark.slow
def test_killed_while_images_are_copied_out_of_a_tar_the_same_command_resumes(official, tmp_path):
    images = imagenet_layouts.read_tars(official)
    path = imagenet_layouts.write_tar(tmp_path / 'a.tar.gz', imagenet_layouts.kaggle(images))
    command = [
        *(sys.executable, '-m', 'alexnet_jax.prepare', f'--imagenet={path}', '--size=32'),
        *(f'--data_dir={tmp_path}', '--partial', '--workers=1'),
    ]
    process = runs.start(command)
    while process.poll() is None and not list(tmp_path.glob('*/.*incomplete/.copies/*')):
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    code, out, err = runs.run(command)
    assert code == 0, err
    assert 'imagenet2012_32/5.1.0: 1,006 train, 20 validation' in out
    assert not list(tmp_path.glob('imagenet2012_32/**/.copies'))


def test_a_tfds_data_set_is_prepared_once(tmp_path):
    for _ in range(2):
        code, out, err = prepare('--name=digits', f'--data_dir={tmp_path}')
        assert code == 0, err
        assert 'train: 1,442 images' in out
        assert 'test: 355 images' in out
    assert len(list(tmp_path.glob('digits/*/*.array_record*'))) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'nothing to prepare: pass --imagenet=PATH, --tars=DIR, --name=NAME'),
        (['--name=no_such_set'], "'no_such_set' is not a TFDS data set"),
        (['--nam=digits'], 'Did you mean: name'),
        (['--tars=/no/such/folder'], '/no/such/folder is not a folder'),
        (['--name=digits', '--data_dir=/proc/x'], 'cannot write to /proc/x/digits'),
        (['--name=imagenet2012'], 'cannot be prepared by its name: download ILSVRC2012_img_train'),
        (['--name=digits', '--tars=TARS'], '--tars and --name exclude each other'),
        (['--name=digits', '--size=64'], '--size has no effect with --name'),
        (['--check', '--again'], '--again has no effect with --check'),
        (['--name='], '--name= is empty'),
        (['--verify', '--name=digits'], '--verify has no effect with --name'),
        (['--tars=TARS', '--size=²'], "--size=² must be 'original' or from 8 to"),
        (['--tars=TARS', '--workers=nonsense'], '--workers=nonsense'),
        (['--imagenet=/no/such/folder'], '/no/such/folder does not exist: pass --imagenet=PATH'),
        (['--imagenet=/tmp', '--verify'], '--verify has no effect with --imagenet'),
        (['--imagenet=TARS', '--synsets=/no/file'], 'cannot read /no/file'),
        (['--folder=/tmp', '--synsets=/no/file'], '--synsets has no effect with --folder'),
        (['--imagenet=TARS', '--tars=TARS'], '--imagenet and --tars exclude each other'),
        (['--imagenet=TARS'], '1,006 images instead of the published 1,281,167'),
        (['--folder=/no/such/folder'], '/no/such/folder is not a folder'),
        (['--name=digits', '--data_dir=gs://bucket'], '--data_dir=gs://bucket'),
        (['--tars=TARS', '--data_dir=/proc/x', '--partial'], 'cannot write to /proc/x'),
        (['--tars=TARS'], '1,006 images instead of the published 1,281,167'),
        (['--tars=TARS', '--verify'], '1d675b47d978889d74fa0da5fadfb00e is published'),
        (['--tars=TARS', '--size=many'], "--size=many must be 'original' or from 8 to"),
        (['--tars=TARS', '--size=original', '--storage=raw'], '--storage=raw needs a --size'),
        (['--tars=TARS', '--filter=cubic'], 'should be one of'),
        (['--check'], 'has no prepared data set'),
        (['TARS'], "unexpected argument '"),
    ],
)
def test_mistakes_are_reported_in_one_line(official, tmp_path, arguments, message):
    arguments = [argument.replace('TARS', str(official)) for argument in arguments]
    code, _, err = prepare(f'--data_dir={tmp_path}', *arguments)
    assert code == 2
    assert message in err
    assert 'Traceback' not in err
    assert err.strip().splitlines()[-1].startswith('alexnet_jax: ')


@pytest.mark.slow
def test_a_damaged_data_set_is_found_and_prepared_again(tmp_path):
    """The check tells a command, which repairs it: for TFDS's own data set, and for a folder."""
    pets = tars.class_folders(tmp_path / 'pets', images=20)
    for arguments in (['--name=digits'], [f'--folder={pets}', '--size=32']):
        data_dir = tmp_path / arguments[0][2]
        code, out, err = prepare(*arguments, f'--data_dir={data_dir}')
        assert code == 0, err
        shard = next(data_dir.glob('*/*/*-train.array_record*'))
        content = bytearray(shard.read_bytes())
        content[len(content) // 2 - 20_000] ^= 1
        content[7000] ^= 1
        shard.write_bytes(content)
        code, out, _ = prepare('--check', f'--data_dir={data_dir}')
        assert code == 1
        command = re.search(r'prepare the data set again: python -m alexnet_jax\.prepare (.*)', out)
        code, _, err = prepare(*shlex.split(command[1]))
        assert code == 0, err
        code, out, _ = prepare('--check', f'--data_dir={data_dir}')
        assert code == 0, out


def test_images_that_have_moved_are_asked_for(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=15)
    catalogue = class_folders.list_images(pets)
    final = writing.write(catalogue, Storage(32), tmp_path, 1, 0, print, lambda *_: None).folder
    pets.rename(tmp_path / 'moved')
    code, _, err = prepare('--again', f'--name={final.parent.name}', f'--data_dir={tmp_path}')
    assert code == 2
    assert f'{pets}, from which {final.parent.name} was prepared, is gone' in err
    assert f'--again --folder=DIR --size=32 --data_dir={tmp_path} with the DIR' in err


@pytest.mark.slow
def test_a_stop_ends_with_75_and_the_same_command_resumes(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=600)
    command = [
        *(sys.executable, '-m', 'alexnet_jax.prepare', f'--folder={pets}', '--size=72'),
        *(f'--data_dir={tmp_path}', '--workers=1'),
    ]
    process = runs.start(command)
    while process.poll() is None and not list(tmp_path.glob('*/.*incomplete/.records/*.npz')):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert 'stopped by SIGTERM: the same command resumes' in err
    code, out, err = runs.run(command)
    assert code == 0, err
    assert 'resuming after' in out


@pytest.mark.slow
def test_the_full_net_trains_an_epoch_on_images_from_tars(tmp_path):
    """Four steps of configs/ilsvrc2012.py with smaller batches, on tars like the official ones."""
    folder = tars.ilsvrc2012(tmp_path / 'tars', validation=10, synsets=64, extra={})
    code, _, err = prepare(f'--tars={folder}', f'--data_dir={tmp_path}', '--partial')
    assert code == 0, err
    workdir = tmp_path / 'run'
    process = runs.start(
        [
            *(sys.executable, '-m', 'alexnet_jax.main', '--config=configs/ilsvrc2012.py'),
            *(f'--workdir={workdir}', f'--config.dataset.data_dir={tmp_path}'),
            *('--config.optimizer.epochs=1.0', '--config.optimizer.batch_size=16'),
            '--config.evaluation.batch_size=10',
        ]
    )
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert '60,965,224 parameters' in out
    assert 'mean of 10 views' in out
    last = runs.metrics(workdir)[-1]
    assert last['step'] == 4
    assert 0 < last['eval/loss'] < 8
    assert 0.9 <= last['eval_10_views/top5_error'] <= 1  # nothing can be learned from noise
