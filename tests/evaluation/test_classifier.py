import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import nets
import runs
from alexnet_jax.evaluation import classifier, trained_net
from alexnet_jax.evaluation.trained_net import TrainedNet
from alexnet_jax.runtime.user_errors import UserError


@pytest.fixture(scope='module')
def evaluated(trained_run):
    """The run on the machine that has its data set, for the first ten test images."""
    config = trained_net.read_config(trained_run)
    few = dataclasses.replace(config.dataset, eval_split='test[:10]')
    return TrainedNet(trained_run, config=dataclasses.replace(config, dataset=few))


@pytest.fixture(scope='module')
def images(evaluated):
    return np.stack([evaluated.image(number) for number in range(10)])


@pytest.fixture(scope='module')
def net(trained_run, tmp_path_factory):
    """A copy of the run where its data set is not."""
    copy = tmp_path_factory.mktemp('copy') / 'run'
    shutil.copytree(trained_run, copy)
    record = json.loads((copy / 'config.json').read_text())
    record['config']['dataset']['data_dir'] = str(copy / 'nowhere')
    record['data']['folder'] = str(copy / 'nowhere')
    (copy / 'config.json').write_text(json.dumps(record))
    return classifier.load(copy)


def test_a_trained_net_is_loaded_without_its_data_set_and_in_silence(
    tmp_path, trained_run, caplog, capfd
):
    shutil.copytree(trained_run, tmp_path / 'run')
    record = json.loads((tmp_path / 'run' / 'config.json').read_text())
    record['config']['dataset']['data_dir'] = str(tmp_path / 'nowhere')
    (tmp_path / 'run' / 'config.json').write_text(json.dumps(record))
    net = classifier.load(tmp_path / 'run')
    assert net.config.seed == 0
    assert net.mesh.shape['tower'] == 2
    _, arrays = runs.final(trained_run)
    for layer, parameters in net.params.items():
        for name, x in parameters.items():
            np.testing.assert_array_equal(x, arrays[f".params['{layer}']['{name}']"])
    assert classifier.load(str(tmp_path / 'run'), mesh=nets.mesh_of(1)).mesh.shape['tower'] == 1
    assert not (tmp_path / 'nowhere').exists()
    assert net(np.zeros((1, 64, 64, 3))).shape == (1, 10)
    assert caplog.records == []
    assert capfd.readouterr() == ('', '')


def test_pictures_have_the_probabilities_of_the_evaluation(evaluated, images, net, tmp_path):
    """A copy of the workdir is enough; other sizes of batches change the rounding alone."""
    paths = [tmp_path / f'{number}.png' for number in range(10)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    for views, log_p_NK in zip((1, None), evaluated.log_probabilities(), strict=True):
        predictions = net.predict(paths, top=10, views=views)
        for answers, p_K in zip(predictions, np.exp(log_p_NK), strict=True):
            assert [x.name for x in answers] == [str(x.label) for x in answers]
            assert answers[0].label == p_K.argmax()
            probabilities = [x.probability for x in answers]
            assert probabilities == sorted(probabilities, reverse=True)
            np.testing.assert_allclose(probabilities, p_K[[x.label for x in answers]], 1e-5)


def test_a_picture_is_a_path_bytes_an_image_or_an_array(images, net, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / 'a.png')
    path = tmp_path / 'a.png'
    grey = images[0, :, :, 0]
    pictures = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
        images[0],
        grey,
        grey[..., None],
        np.stack([grey, np.full_like(grey, 255)], axis=-1),  # grey and alpha
        np.dstack([images[0], np.full_like(grey, 255)]),
        np.asfortranarray(images[0]),
        jax.numpy.asarray(images[0]),
        bytearray(path.read_bytes()),
    ]
    expected = net.predict(path)
    assert len(expected) == 5
    for picture in pictures:
        assert net.predict(picture) == expected
    assert net.predict([path, images[0]]) == [expected, expected]
    assert net.predict([]) == []


def probabilities(predictions):
    """Returns the probabilities of all classes in the order of their labels."""
    return [x.probability for x in sorted(predictions, key=lambda x: x.label)]


def test_any_series_of_pictures_has_a_list_of_predictions(images, net):
    """A tuple, a generator, or an array (N, rows, columns, 3); the last batch is incomplete."""
    expected = [probabilities(net.predict(image, top=10)) for image in images[:3]]
    assert np.ptp(expected, axis=0).max() > 1e-3
    for series in (tuple(images[:3]), (x for x in images[:3]), images[:3], images[:3, ..., :1]):
        answers = [probabilities(row) for row in net.predict(series, top=10)]
        np.testing.assert_allclose(answers, expected, 1e-4)
    many = net.predict(itertools.islice(itertools.cycle(images[:3]), 40), top=10)
    assert len(many) == 40 > net.batch_size
    for number, row in enumerate(many):
        np.testing.assert_allclose(probabilities(row), expected[number % 3], 1e-4)
    assert net.predict(images[:1]) == [net.predict(images[0])]
    assert net.features(tuple(images[:2]), 'fc6').shape == (2, 256)
    with pytest.raises(TypeError, match='int is neither a picture nor a series of them'):
        net.predict(7)
    with pytest.raises(TypeError, match='int is not a picture'):
        net.predict([7])


def test_the_number_of_classes_that_are_named(images, net):
    assert len(net.predict(images[0], top=1)) == 1
    assert len(net.predict(images[0], top=99)) == 10
    for top in (0, -1):
        with pytest.raises(ValueError, match=f'top={top} must be at least 1'):
            net.predict(images[0], top=top)
    with pytest.raises(TypeError, match=r"top='b\.png' must be an integer; several pictures are"):
        net.predict(images[0], 'b.png')


def test_an_open_file_is_not_taken_for_a_series_of_lines(net):
    with pytest.raises(TypeError, match=r'BytesIO is an open file: give its path, or its bytes'):
        net.predict(io.BytesIO(b'line\nline'))


def test_a_net_is_described_in_one_line(net):
    place = f"workdir='{net.workdir.path}', step={net.step}"
    parameters = sum(x.size for x in jax.tree.leaves(net.params))
    counts = f'towers=2, devices=2, parameters={parameters}, classes=10'
    assert repr(net) == str(net) == f'Classifier({place}, {counts})'


def test_an_image_of_pillow_may_stand_twice_in_a_list(images, net, tmp_path):
    """Pillow reads its pixels when they are needed, here by several threads at once."""
    Image.fromarray(np.tile(images[0], (9, 9, 1))).save(tmp_path / 'a.png')
    expected = probabilities(net.predict(tmp_path / 'a.png', top=10))
    with Image.open(tmp_path / 'a.png') as image:
        answers = net.predict([image] * 16, top=10)
    np.testing.assert_allclose([probabilities(x) for x in answers], [expected] * 16, 1e-4)


def test_pictures_are_turned_upright(images, net, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    Image.fromarray(np.rot90(images[0])).save(tmp_path / 'turned.png', exif=exif)
    assert net.predict(tmp_path / 'turned.png') == net.predict(images[0])


@pytest.mark.parametrize(
    ('picture', 'message'),
    [
        ('nowhere.png', 'nowhere.png cannot be read: No such file or directory'),
        ('/', '/ cannot be read: Is a directory'),
        ('/dev/zero', '/dev/zero is not a file'),
        (b'no picture', r'picture 2 is not an image \(10 bytes\)'),
        (np.zeros((4, 4)), r'picture 2 is an array \(4, 4\) of float64, not'),
        (np.zeros((4, 4, 5), np.uint8), r'picture 2 is an array \(4, 4, 5\) of uint8, not'),
        (np.zeros((4, 4, 3), '>u2'), r'picture 2 is an array \(4, 4, 3\) of >u2, not'),
        (np.zeros((4, 0, 3), np.uint8), 'picture 2 has no pixels'),
        (Image.new('F', (4, 4)), r'picture 2 has pixels of an unknown range \(mode F\)'),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(images, net, picture, message):
    with pytest.raises(UserError, match=message):
        net.predict([images[0], picture])


def test_features_are_the_inputs_of_the_next_layer(evaluated, images, net):
    """fc8 of the features of fc7 are the logits of the centre crop."""
    features = net.features([*images], layer='fc7')
    fc8 = jax.device_get(net.params['fc8'])
    log_p = jax.nn.log_softmax(features @ np.concatenate([*fc8['kernel_TIK']]) + fc8['bias'])
    np.testing.assert_allclose(log_p, evaluated.log_probabilities()[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.features(images[3]), features[3], rtol=1e-4, atol=1e-5)
    maps = net.features([*images[:2]], layer='conv5')
    assert maps.shape == (2, 1, 1, 16)
    assert net.features([], layer='conv5').shape == (0, 1, 1, 16)
    with pytest.raises(ValueError, match="layer='fc9' must be a layer before fc8: conv1, "):
        net.features(images[0], layer='fc9')


def test_outputs_do_not_depend_on_the_mesh(images, net):
    one = classifier.load(net.workdir.path, mesh=nets.mesh_of(1))
    np.testing.assert_allclose(
        one.log_probabilities(images), net.log_probabilities(images), rtol=1e-4, atol=1e-5
    )
    for layer in ('conv3', 'fc6'):
        np.testing.assert_allclose(
            one.features([*images], layer), net.features([*images], layer), rtol=1e-4, atol=1e-5
        )


def test_a_number_of_views_is_one_that_the_paper_has(images, net):
    with pytest.raises(ValueError, match='3 views: 1, 5 or 10 are averaged'):
        net.predict(images[0], views=3)


def test_a_run_that_did_not_keep_its_mean_image_needs_the_data_set(
    trained_run, net, tmp_path, images
):
    """Such are the runs of earlier versions."""
    shutil.copytree(net.workdir.path, tmp_path / 'copy')
    (tmp_path / 'copy' / 'inputs.npz').unlink()
    old = classifier.load(tmp_path / 'copy')
    with pytest.raises(UserError, match='earlier version, which did not keep its mean image, and'):
        old.predict(images[0])
    shutil.copytree(trained_run, tmp_path / 'run')
    (tmp_path / 'run' / 'inputs.npz').unlink()
    assert classifier.load(tmp_path / 'run').predict(images[0]) == net.predict(images[0])


def python_of_readme(section):
    """Returns the first block of Python in a section of the README."""
    text = (nets.ROOT / 'README.md').read_text()
    section = re.search(rf'^## {section}$(.*?)^## ', text, re.DOTALL | re.MULTILINE)[1]
    return re.search(r'^```python\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)[1]


PRINTED = """
import sys
print(sorted({'grain', 'tensorflow_datasets'} & sys.modules.keys()))
print(logits.shape, net.predict('a.png')[0].label)
print(tuple(flax.nnx.get_partition_spec(flax.nnx.state(net))['towers']['fc6']['kernel_TIO'].get_value()))
"""


@pytest.mark.slow
def test_the_example_of_the_readme(trained_run, images, net, tmp_path):
    """What reads data sets is not imported: that would take a quarter of the time."""
    shutil.copytree(trained_run, tmp_path / 'runs' / 'digits')
    for name in ('a.png', 'b.png'):
        Image.fromarray(images[0]).save(tmp_path / name)
    code = python_of_readme('In Python') + PRINTED
    label = net.predict(images[0])[0].label
    assert run_in(tmp_path, code) == ['[]', f'(2, 10) {label}', "('tower',)"]


STARTED = """
import alexnet_jax, numpy
alexnet_jax.Net(alexnet_jax.load_config('digits'))
net = alexnet_jax.load('run')
print(net(numpy.zeros((2, 64, 64, 3))).shape, len(net.mesh.devices.flat))
"""


@pytest.mark.slow
def test_where_jax_has_started_a_net_is_on_the_devices_that_there_are(trained_run, tmp_path):
    (tmp_path / 'run').symlink_to(trained_run)
    assert run_in(tmp_path, STARTED) == ['(2, 10) 1']


def run_in(folder, code):
    """Runs Python in a folder, where a warning is an error; returns what it has printed."""
    environment = {name: x for name, x in os.environ.items() if name != 'JAX_NUM_CPU_DEVICES'}
    command = [sys.executable, '-W', 'error', '-c', code]
    environment['PYTHONPATH'] = str(nets.ROOT)
    return subprocess.check_output(command, text=True, cwd=folder, env=environment).splitlines()
