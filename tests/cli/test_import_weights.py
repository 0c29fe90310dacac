"""The program that makes a run of published weights, on small files of their formats."""

import json
import sys

import numpy as np
import pytest

import caffe_files
import nets
import runs
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.data.preparation.layouts import imagenet_tars
from alexnet_jax.evaluation import classifier
from alexnet_jax.interchange import grouped_layout, safetensors_files
from alexnet_jax.interchange.incoming import class_names, importing
from alexnet_jax.interchange.incoming.importing import Request
from alexnet_jax.interchange.portable_net import PortableNet, read_run
from alexnet_jax.model import alexnet
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files.inputs_file import Inputs
from caffe_files import Form

OVERRIDES = {'model.width': 1 / 12, 'dataset.image_size': 110, 'augmentation.crop': 104}
FLAGS = [f'--config.{name}={value}' for name, value in OVERRIDES.items()]
RECIPE = 'bvlc_reference_caffenet'


def import_weights(*arguments):
    return runs.run([sys.executable, '-m', 'alexnet_jax.import_weights', *arguments])


def config(recipe=RECIPE, **overrides):
    tiny = {name.replace('.', '__'): value for name, value in OVERRIDES.items()}
    return nets.override(nets.load(recipe), **tiny | {'dataset__classes': 6} | overrides)


def caffe_net():
    shapes = grouped_layout.shapes(config())
    weights = {k.removesuffix('.weight'): v for k, v in shapes.items() if 'weight' in k}
    return caffe_files.alexnet(weights, grouped_layout.groups(config()), pool_first=True)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """The folder of a CaffeNet, its mean image and its classes."""
    folder = tmp_path_factory.mktemp('caffe')
    net = caffe_files.net(caffe_net(), Form('v1', legacy=True), name='CaffeNet')
    (folder / 'net.caffemodel').write_bytes(net)
    mean_CHW = np.random.default_rng(1).uniform(90, 140, (3, 110, 110)).astype(np.float32)
    (folder / 'mean.binaryproto').write_bytes(caffe_files.blob(mean_CHW, Form(legacy=True)))
    lines = ''.join(f'n0000000{i} thing {i}, object\n' for i in range(6))
    (folder / 'synset_words.txt').write_text(lines)
    return folder, mean_CHW


def test_a_caffe_net_becomes_a_run_that_classifies_as_caffe_does(files, tmp_path):
    """The probabilities of uint8 images: the mean, crop and order of colours are Caffe's, too."""
    folder, mean_CHW = files
    workdir = tmp_path / 'run'
    code, out, err = import_weights(
        f'--from_caffe={folder / "net.caffemodel"}',
        f'--mean={folder / "mean.binaryproto"}',
        f'--classes={folder / "synset_words.txt"}',
        f'--workdir={workdir}',
        *FLAGS,
    )
    assert code == 0, err
    assert 'net.caffemodel: 206,754 parameters' in out
    assert 'as --config=bvlc_reference_caffenet' in out
    assert f'mean image: that of {folder / "mean.binaryproto"}' in out
    assert f'python -m alexnet_jax.evaluate --workdir={workdir}' in out
    net = classifier.load(workdir)
    assert net.classes == tuple(f'n0000000{i}' for i in range(6))
    assert net.inputs.descriptions[5] == 'thing 5, object'
    record = json.loads((workdir / 'config.json').read_text())['imported']
    assert record['file'] == str(folder / 'net.caffemodel')
    images = np.random.default_rng(0).integers(0, 256, (4, 110, 110, 3), np.uint8)
    blue_green_red = images[..., ::-1].transpose(0, 3, 1, 2) - mean_CHW
    logits = caffe_files.forward(caffe_net(), blue_green_red[:, :, 3:107, 3:107])
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    actual = net.log_probabilities(images, views=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(logits).max())


@pytest.mark.parametrize(
    ('arguments', 'reason'),
    [
        ([], 'no weights: pass --from_caffe=FILE'),
        (['--from_caffe=a', '--from_export=b'], '--from_caffe and --from_export exclude each'),
        (['--from_export=a', '--mean=b'], '--mean has no effect with --from_export'),
        (['--from_export=a', '--config=digits'], '--config has no effect with --from_export'),
        (['--from_caffe=a'], 'no folder is named for the run'),
        (['--from_caffe=a', f'--workdir={nets.ROOT}'], 'is not empty'),
    ],
)
def test_mistakes_in_the_flags_are_told_in_one_line(arguments, reason):
    code, out, err = import_weights(*arguments)
    assert (code, out) == (2, '')
    assert err.startswith('alexnet_jax: ')
    assert reason in err
    assert err.count('\n') == 1


def test_without_a_mean_image_its_colour_is_subtracted(files):
    imported = importing.import_caffe(files[0] / 'net.caffemodel', Request(overrides=OVERRIDES))
    mean_HWC = imported.net.inputs.mean_HWC
    np.testing.assert_array_equal(mean_HWC, np.broadcast_to([123, 117, 104], mean_HWC.shape))
    assert imported.net.config.augmentation.mean == 'colour'
    assert '123, 117, 104' in imported.mean
    assert imported.net.inputs.classes == tuple(f'class_{i}' for i in range(6))


def test_a_thousand_classes_are_those_of_2012():
    names = class_names.default_names(1000)
    assert names[0] == 'n01440764'
    assert list(names) == sorted(imagenet_tars.labels_2012())
    assert class_names.order_note(names) == ''
    assert 'not in sorted order' in class_names.order_note(names[::-1])
    assert class_names.order_note(['b', 'a']) == ''


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('a\nb\n', 'names 2 classes, but the net has 3'),
        ('a\n\nb\n', 'line 2 of .* is empty'),
        ('a\nb\na\n', 'lines 1 and 3 of .* both name a'),
        ('n00000001 x\nn00000001 y\nb\n', 'lines 1 and 2 of .* both name n00000001'),
        (b'\xff\xfe\n', 'is not text in UTF-8'),
        (None, 'cannot be read: No such file'),
    ],
)
def test_class_names_that_do_not_fit(text, reason, tmp_path):
    path = tmp_path / 'names.txt'
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=reason):
        class_names.read_names(path, 3)


@pytest.fixture(params=[safetensors_files.OURS, safetensors_files.TORCH])
def export(request, tmp_path):
    """The folder of an export, and its net."""
    inputs = Inputs(np.full((110, 110, 3), 100, np.float32), COLOURS_2012, tuple('abcdef'))
    net = PortableNet(config(), alexnet.initialize(config()), inputs, step=7)
    names = {safetensors_files.OURS: 'alexnet_jax', safetensors_files.TORCH: 'model'}
    (tmp_path / 'export').mkdir()
    path = tmp_path / 'export' / f'{names[request.param]}.safetensors'
    safetensors_files.write(net, path, request.param)
    return path.parent, net


def test_an_export_comes_back_bit_by_bit(export):
    folder, net = export
    imported = importing.import_export(folder, Request(overrides={'seed': 5})).net
    nets.assert_equal_leaves(imported.params, net.params)
    np.testing.assert_array_equal(imported.inputs.mean_HWC, net.inputs.mean_HWC)
    assert imported.inputs.classes == net.inputs.classes
    assert (imported.step, imported.config.seed) == (7, 5)


def test_the_classes_of_an_export_are_compared_and_its_sizes_stay(export, tmp_path):
    folder, _ = export
    names = tmp_path / 'names.txt'
    names.write_text('a\nb\nc\nd\nf\ne\n')
    with pytest.raises(UserError, match='names 2 classes otherwise than the export, such as f in'):
        importing.import_export(folder, Request(classes=names))
    for name, value in (('model.width', 0.5), ('augmentation.deviations', (2.0, 2.0, 2.0))):
        with pytest.raises(UserError, match=rf'--config\.{name} would change the net itself'):
            importing.import_export(folder, Request(overrides={name: value}))


@pytest.mark.parametrize('export', [safetensors_files.TORCH], indirect=True)
def test_an_export_becomes_a_run(export, tmp_path):
    folder, net = export
    code, out, err = import_weights(f'--from_export={folder}', f'--workdir={tmp_path / "run"}')
    assert code == 0, err
    assert '6 classes: those of the export' in out
    nets.assert_equal_leaves(read_run(tmp_path / 'run').params, net.params)
