"""The program that exports a trained net, on a run as a user makes it."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import jax.export
import numpy as np
import pytest
from PIL import Image

import nets
import portable_nets
import runs
from alexnet_jax.evaluation import classifier, pictures
from alexnet_jax.interchange import portable_net, safetensors_files
from alexnet_jax.interchange.exports import checks, export_folder, stablehlo_file
from alexnet_jax.interchange.portable_net import read_run
from alexnet_jax.runtime.user_errors import UserError


def export(*arguments):
    return runs.run([sys.executable, '-m', 'alexnet_jax.export', *arguments])


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def everything(trained_run, tmp_path_factory):
    """The folder of an export in all formats, and what the program printed."""
    out = tmp_path_factory.mktemp('exports') / 'new' / 'folder'
    formats = '--format=safetensors,torch', '--format=onnx,stablehlo'
    code, printed, err = export(f'--workdir={trained_run}', f'--out={out}', *formats)
    assert code == 0, err
    return out, printed


def test_all_formats_are_written_and_checked_on_test_images(everything):
    out, printed = everything
    names = [name for of_format in export_folder.FILES.values() for name in of_format]
    assert files(out).keys() == {'config.json', 'README.md', *names}
    assert 'the net after 23 training steps, checked on 64 test images' in printed
    rows = {line.split()[0]: line for line in printed.splitlines() if line.startswith('  ')}
    assert rows.keys() == files(out).keys()
    for name in ('alexnet_jax.safetensors', 'model.safetensors'):
        assert 'equal to the run, bit by bit' in rows[name]
    for name in ('model.onnx', 'model.stablehlo'):
        assert float(re.search('outputs differ by (.*) of the largest', rows[name])[1]) <= 1e-5
    assert ('torch is not installed' in rows['model.safetensors']) != checks.is_installed('torch')
    readme = (out / 'README.md').read_text()
    assert all(name in readme for name in names)


def test_the_files_agree_with_a_net_that_is_loaded(everything, trained_run):
    out, _ = everything
    net, images = read_run(trained_run), portable_nets.random_images(nets.small())
    nets.assert_equal_leaves(
        safetensors_files.read(out / 'alexnet_jax.safetensors').params, net.params
    )
    expected = portable_nets.logits(net, images)
    scale = abs(expected).max()
    onnx = checks.onnx_logits(net, out / 'model.onnx', preprocessing=True)(images)
    np.testing.assert_allclose(onnx / scale, expected / scale, rtol=0, atol=checks.TOLERANCE)
    exported = jax.export.deserialize(bytearray((out / 'model.stablehlo').read_bytes()))
    log_p = np.asarray(jax.nn.log_softmax(expected))
    np.testing.assert_allclose(exported.call(images) / scale, log_p / scale, rtol=0, atol=1e-5)


def test_the_examples_of_readme_name_the_class_of_a_picture(everything, trained_run, monkeypatch):
    """They are the code for ONNX and StableHLO, from a picture's file to a name."""
    out, _ = everything
    monkeypatch.chdir(shutil.copytree(out, out.with_name('examples')))
    picture = np.kron(np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8), np.ones((8, 8)))
    Image.fromarray(picture.astype(np.uint8)).save('picture.jpg')
    _, _, text = Path('README.md').read_text().partition('## A picture for ONNX and StableHLO')
    values = {}
    for block in re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
        exec(block, values)
    net = classifier.load(trained_run)
    images = pictures.read('picture.jpg', net.config.dataset)[None]
    expected = net.log_probabilities(images, views=1)
    for p in (values['probabilities'], np.exp(values['log_probabilities'])):
        np.testing.assert_allclose(p, np.exp(expected), rtol=0, atol=1e-3)
    assert values['names'] == [str(x) for x in range(10)]


def test_config_json_says_what_a_user_of_the_net_needs(everything):
    out, _ = everything
    config = json.loads((out / 'config.json').read_text())
    assert config['architecture'] == 'alexnet'
    assert config['label_names'] == [str(x) for x in range(10)]
    assert config['pretrained_cfg']['input_size'] == [3, 64, 64]
    assert config['pretrained_cfg']['crop_pct'] == pytest.approx(64 / 72)
    words = ' '.join(config['preprocessing']['in_words'])
    assert '72 x 72 pixels with the filter bicubic' in words
    assert 'Subtract the central 64 x 64 pixels of the mean image' in words
    # The mean grey level of the digits is 5 of 16, and their centre is brighter.
    assert 255 * 5 / 16 < config['preprocessing']['mean_colour'][0] < 100
    layers = {layer['name']: layer for layer in config['layers']}
    assert [*layers] == ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7', 'fc8']
    assert (layers['conv1']['groups'], layers['conv2']['groups']) == (1, 2)
    assert layers['conv1']['padding'] == [0, 3]
    assert layers['fc8']['outputs'] == 10


def test_without_the_data_set_the_check_takes_random_pictures(trained_run, tmp_path, capsys):
    run = shutil.copytree(trained_run, tmp_path / 'run')
    record = json.loads((run / 'config.json').read_text())
    record['config']['dataset']['data_dir'] = record['data']['folder'] = str(tmp_path / 'nowhere')
    (run / 'config.json').write_text(json.dumps(record))
    export_folder.export(run, ['stablehlo'], run / 'export')
    assert 'checked on 64 random pictures, since the test images' in capsys.readouterr().out
    assert files(run / 'export').keys() == {'config.json', 'README.md', 'model.stablehlo'}


def test_formats_are_added_to_a_folder_of_the_same_net_alone(trained_run, tmp_path, monkeypatch):
    out = tmp_path / 'export'
    export_folder.export(trained_run, ['torch'], out)
    export_folder.export(trained_run, ['safetensors'], out)
    readme = (out / 'README.md').read_text()
    assert 'alexnet_torch.load' in readme
    assert 'safetensors_files.read' in readme
    before = files(out)

    def read_other_step(*arguments):
        return dataclasses.replace(read_run(*arguments), step=24)

    monkeypatch.setattr(export_folder, 'read_run', read_other_step)
    with pytest.raises(
        UserError, match=r'another net or checkpoint: model\.safetensors; replace'
    ) as e:
        export_folder.export(trained_run, ['safetensors'], out)
    assert '--format=safetensors,torch' in str(e.value)
    assert files(out) == before
    export_folder.export(trained_run, ['safetensors', 'torch'], out)
    assert safetensors_files.read(out / 'model.safetensors').step == 24


def test_files_that_are_not_of_an_export_stay(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / 'run')
    record = (run / 'config.json').read_bytes()
    with pytest.raises(
        UserError, match=r'run has files that are not of an export \(config\.json\)'
    ):
        export_folder.export(run, ['safetensors'], run)
    assert (run / 'config.json').read_bytes() == record
    (tmp_path / 'README.md').write_text('mine')
    with pytest.raises(UserError, match=r'has files that are not of an export \(README\.md\)'):
        export_folder.export(run, ['safetensors'], tmp_path)
    assert (tmp_path / 'README.md').read_text() == 'mine'


def test_a_file_that_computes_something_else_is_not_written(trained_run, tmp_path, monkeypatch):
    """The earlier export stays as it is."""
    out, write = tmp_path / 'export', stablehlo_file.write
    export_folder.export(trained_run, ['safetensors'], out)
    before = files(out)

    def write_other_net(net, file):
        fc8 = net.params['fc8'] | {
            'bias': net.params['fc8']['bias'] + np.linspace(0, 1e-2, 10, dtype=np.float32)
        }
        write(dataclasses.replace(net, params=net.params | {'fc8': fc8}), file)

    monkeypatch.setattr(stablehlo_file, 'write', write_other_net)
    with pytest.raises(UserError, match='the stablehlo export differs from the net: on 64 test'):
        export_folder.export(trained_run, ['safetensors', 'stablehlo'], out)
    assert files(out) == before


def test_files_of_two_nets_with_the_same_settings_are_not_mixed(trained_run, tmp_path):
    """As of two files of weights that were imported with one recipe."""
    net = read_run(trained_run)
    fc8 = net.params['fc8'] | {'bias': net.params['fc8']['bias'] + np.float32(1)}
    other = dataclasses.replace(net, params=net.params | {'fc8': fc8})
    for name, x in {'run': net, 'other': other}.items():
        portable_net.write_run(x, tmp_path / name, {})
    out = tmp_path / 'export'
    export_folder.export(tmp_path / 'run', ['safetensors'], out)
    before = files(out)
    with pytest.raises(UserError, match='has files of another net or checkpoint: alexnet_jax'):
        export_folder.export(tmp_path / 'other', ['torch'], out)
    assert files(out) == before


def test_what_a_format_cannot_express_is_refused_before_anything_is_written(tmp_path, data_dir):
    config = nets.small(**portable_nets.FEW, model__conv4__shared=False, dataset__data_dir=data_dir)
    run = runs.untrained(tmp_path / 'run', config)
    with pytest.raises(UserError, match='conv4 has separate weights for each place'):
        export_folder.export(run, ['safetensors', 'torch'], run / 'export')
    assert not (run / 'export').exists()
    export_folder.export(run, ['safetensors'], run / 'export')
    assert (run / 'export' / 'alexnet_jax.safetensors').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'no run is named: --workdir=DIR'),
        (['--workdir=x,y'], 'one run is exported at a time'),
        (['--workdir=x', '--format=pth'], '--format=pth is not one of safetensors, torch, onnx'),
        (['--workdir=x', '--format='], '--format= is empty'),
        (['--workdir=x', '--checkpoint=last'], '--checkpoint=last must be newest, best or'),
        (['--workdir=/nowhere'], '/nowhere is not the workdir of a run'),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message):
    code, out, err = export(*arguments)
    assert (code, out) == (2, '')
    assert message in err
    assert err.count('\n') == 1
