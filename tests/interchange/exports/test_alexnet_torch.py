"""The PyTorch module of an export, against our net; these tests need PyTorch."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nets
import portable_nets
from alexnet_jax.evaluation import pictures
from alexnet_jax.interchange import safetensors_files
from alexnet_jax.interchange.exports import description

torch = pytest.importorskip('torch')

# Of the largest logit. Both compute in float32 and sum up to some 1000 products in another order.
TOLERANCE = 1e-5


def write(net, folder):
    """Writes what the PyTorch module needs; returns the module of the folder."""
    folder.mkdir(exist_ok=True)
    safetensors_files.write(net, folder / 'model.safetensors', safetensors_files.TORCH)
    (folder / 'config.json').write_text(json.dumps(description.describe(net)))
    source = Path(description.__file__).with_name('alexnet_torch.py')
    file = shutil.copy(source, folder)
    spec = importlib.util.spec_from_file_location('exported', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def channels_first(images_BHWC):
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)


@pytest.mark.parametrize('name', portable_nets.CONFIGS)
def test_pytorch_computes_our_logits(name, tmp_path):
    net = portable_nets.random_net(portable_nets.CONFIGS[name]())
    images = portable_nets.random_images(net.config)
    with torch.no_grad():
        actual = write(net, tmp_path).load(tmp_path)(channels_first(images)).numpy()
    expected = portable_nets.logits(net, images)
    scale = abs(expected).max()
    assert abs(expected - expected[0]).max() > 1e-3 * scale  # images differ
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """The folder of an export, its module and its net."""
    net = portable_nets.random_net(nets.small(**portable_nets.FEW))
    folder = tmp_path_factory.mktemp('torch')
    return folder, write(net, folder), net


def test_the_preprocessing_may_be_done_before(exported):
    folder, module, net = exported
    torch_net = module.load(folder)
    images = channels_first(portable_nets.random_images(net.config))
    crops = torch_net.preprocess(images)
    assert crops.shape == (7, 3, 64, 64)
    assert torch.equal(torch_net(crops, preprocess=False), torch_net(images))
    middle = images[:, :, 4:68, 4:68].float() - torch_net.mean[:, 4:68, 4:68]
    assert torch.equal(crops, middle)


def test_the_state_dict_is_that_of_a_grouped_net(exported):
    folder, module, _ = exported
    shapes = {name: tuple(x.shape) for name, x in module.load(folder).state_dict().items()}
    assert shapes['conv2.weight'] == (16, 3, 5, 5)  # of 6 maps, each group has 3
    assert shapes['fc6.weight'] == (256, 16)
    assert shapes['fc8.bias'] == (10,)


def test_classes_are_named_by_their_descriptions(exported):
    folder, module, net = exported
    images = portable_nets.random_images(net.config)
    rows = module.load(folder).classify(channels_first(images), top=3)
    p = np.exp(portable_nets.logits(net, images))
    p /= p.sum(1, keepdims=True)
    for row, p_K in zip(rows, p, strict=True):
        best = np.argsort(-p_K)[:3]
        assert [name for name, _ in row] == [f'Gefäß {k}' for k in best]
        np.testing.assert_allclose([x for _, x in row], p_K[best], rtol=1e-4)


def test_dropout_in_training_keeps_the_mean(exported):
    """In training inputs are set to zero and not scaled; at test time they are scaled."""
    _, module, _ = exported
    layer, x = module.Dropout(0.3), torch.ones(100_000)
    torch.manual_seed(0)
    y = layer.train()(x)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert abs(float(y.mean()) - 0.7) < 0.01
    assert torch.equal(layer.eval()(x), x * 0.7)


def test_a_step_of_training_lowers_the_loss(exported):
    folder, module, net = exported
    torch_net = module.load(folder).train()
    images = channels_first(portable_nets.random_images(net.config))
    labels = torch.arange(len(images))
    optimizer, losses = torch.optim.SGD(torch_net.parameters(), 1e-4), []
    for _ in range(10):
        torch.manual_seed(0)  # the same masks
        loss = torch.nn.functional.cross_entropy(torch_net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize('resize', ['area', 'bilinear', 'bicubic', 'lanczos', 'nearest'])
def test_the_module_reads_pictures_as_we_do(resize, tmp_path):
    """Large and small pictures that are not JPEGs; the libraries round by up to 2 of 255."""
    settings = dict(dataset__resize=resize, dataset__background='black')
    net = portable_nets.random_net(nets.small(**portable_nets.FEW, **settings))
    torch_net = write(net, tmp_path / 'net').load(tmp_path / 'net')
    rough = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    for size in ((163, 122), (122, 163), (61, 50)):
        picture = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
        picture.save(tmp_path / 'a.png')
        ours = pictures.read(tmp_path / 'a.png', net.config.dataset)
        theirs = torch_net.read_picture(tmp_path / 'a.png').permute(1, 2, 0).numpy()
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_the_file_is_a_program(exported, tmp_path):
    folder, _, _ = exported
    Image.new('RGB', (90, 80), 'red').save(tmp_path / 'red.png')
    done = run(folder, tmp_path, 'none.png', 'red.png')
    assert done.stdout.startswith('red.png: Gefäß')
    assert done.stdout.count('%') == 5
    assert done.stderr == 'none.png cannot be read: No such file or directory\n'
    assert done.returncode == 1
    done = run(folder, tmp_path)
    assert (done.returncode, done.stderr) == (2, 'usage: python alexnet_torch.py PICTURE ...\n')


def run(folder, cwd, *arguments):
    command = [sys.executable, folder / 'alexnet_torch.py', *arguments]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True)
