"""torchvision's AlexNet: its logits, and the files that its weights come in."""

import sys

import jax
import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

import nets
from alexnet_jax.interchange import grouped_layout
from alexnet_jax.interchange.grouped_layout import dropout_factors
from alexnet_jax.interchange.incoming import torchvision_net
from alexnet_jax.interchange.incoming.weights import to_params
from alexnet_jax.runtime.user_errors import UserError

LAYERS = {
    'conv1': 'features.0',
    'conv2': 'features.3',
    'conv3': 'features.6',
    'conv4': 'features.8',
    'conv5': 'features.10',
    'fc6': 'classifier.1',
    'fc7': 'classifier.4',
    'fc8': 'classifier.6',
}


def config(**overrides):
    """torchvision's net at 1/16 of its width, for crops of 95 pixels (23, 11, 5 and 2 maps)."""
    tiny = dict(model__width=1 / 16, dataset__image_size=99, augmentation__crop=95)
    return nets.override(nets.load('torchvision'), **tiny | {'dataset__classes': 10} | overrides)


def random_tensors(seed=0):
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in grouped_layout.shapes(config()).items():
        layer, kind = name.split('.')
        std = 1.5 / np.sqrt(np.prod(shape[1:])) if kind == 'weight' else 0.5
        tensors[f'{LAYERS[layer]}.{kind}'] = (std * rng.standard_normal(shape)).astype(np.float32)
    return tensors


def write(path, tensors):
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)
    return path


def torch_net(torch, tensors):
    """torchvision's module, written out, with these weights."""
    nn = torch.nn
    conv = [tensors[f'features.{i}.weight'].shape for i in (0, 3, 6, 8, 10)]
    (units6, inputs), (units7, _), (classes, _) = (
        tensors[f'classifier.{i}.weight'].shape for i in (1, 4, 6)
    )
    net = nn.Module()
    net.features = nn.Sequential(
        nn.Conv2d(3, conv[0][0], kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(*conv[1][1::-1], kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(*conv[2][1::-1], kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(*conv[3][1::-1], kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(*conv[4][1::-1], kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    net.classifier = nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(inputs, units6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(units6, units7),
        nn.ReLU(),
        nn.Linear(units7, classes),
    )
    net.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
    return net.eval()


def test_the_logits_are_those_of_pytorch(tmp_path):
    """To 1e-5 of the largest: both are sums in float32."""
    torch = pytest.importorskip('torch')
    tensors = random_tensors()
    weights = torchvision_net.read_weights(write(tmp_path / 'x.safetensors', tensors))
    images = nets.images(config(), 3) / 64
    with torch.no_grad():
        net = torch_net(torch, tensors)
        maps = net.features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        assert maps.shape[2:] == (2, 2)
        expected = net.classifier(maps.flatten(1)).numpy()
    params = to_params(weights, config())
    logits = nets.compiled_logits(config(), nets.mesh_of(1))(params, images)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.float16, bfloat16])
def test_every_type_of_float_is_read(dtype, tmp_path):
    tensors = {f'module.{name}': x.astype(dtype) for name, x in random_tensors().items()}
    weights = torchvision_net.read_weights(write(tmp_path / 'x.safetensors', tensors))
    params, grouped = to_params(weights, config()), {}
    for name, array in grouped_layout.to_grouped(config(), params).items():
        layer, kind = name.split('.')
        factor = dropout_factors(config()).get(layer, 1) if kind == 'weight' else 1
        assert factor in (0.5, 1)  # exact
        grouped[f'module.{LAYERS[layer]}.{kind}'] = array * np.float32(factor)
    expected = {name: x.astype(np.float32) for name, x in tensors.items()}
    nets.assert_equal_leaves(grouped, expected)


def test_dropout_before_a_layer_counts_for_its_own_weights():
    assert dropout_factors(config()) == {'fc6': 0.5, 'fc7': 0.5}
    assert dropout_factors(nets.small()) == {'fc7': 0.5, 'fc8': 0.5}
    assert dropout_factors(config(model__fc6__dropout=0.75)) == {'fc6': 0.5, 'fc7': 0.125}


@pytest.mark.parametrize('legacy', [False, True])
def test_a_pth_file_and_a_checkpoint_have_the_same_weights(legacy, tmp_path):
    torch = pytest.importorskip('torch')
    tensors = random_tensors()
    state = {name: torch.from_numpy(x) for name, x in tensors.items()}
    contents = {'state': state, 'checkpoint': {'epoch': 3, 'state_dict': state}}
    for name, content in contents.items():
        path = tmp_path / f'{name}.pth'
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        weights = torchvision_net.read_weights(path)
        for ours, theirs in LAYERS.items():
            np.testing.assert_array_equal(
                weights.arrays[f'{ours}.weight'], tensors[f'{theirs}.weight']
            )


def test_without_torch_a_pth_file_is_refused_with_the_way_to_convert_it(tmp_path, monkeypatch):
    torch = pytest.importorskip('torch')
    torch.save({'features.0.weight': torch.zeros(3)}, tmp_path / 'x.pth')
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(UserError, match=r'where torch is installed.*safetensors.torch.save_file'):
        torchvision_net.read_weights(tmp_path / 'x.pth')


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'features.1.weight': np.zeros(3, np.float32)}, 'it has features.1.weight'),
        ({'features.0.weight': None}, r'lacks features.0.weight \(conv1\)'),
        ({'classifier.6.weight': None}, r'has no last layer, classifier.6.weight \(fc8\)'),
        ({'features.0.weight': np.zeros(3, np.float32)}, r'conv1\) in .* has the shape \(3,\)'),
        ({'features.0.weight': np.zeros(3, np.int64)}, 'is of dtype I64: only F64'),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(change, reason, tmp_path):
    tensors = {k: v for k, v in (random_tensors() | change).items() if v is not None}
    path = write(tmp_path / 'x.safetensors', tensors)

    def convert():
        weights = torchvision_net.read_weights(path)
        assert weights.classes
        return to_params(weights, config())

    with pytest.raises(UserError, match=reason) as error:
        convert()
    assert '\n' not in str(error.value)


def test_the_parameters_have_the_structure_of_a_net(tmp_path):
    from alexnet_jax.model import alexnet

    path = write(tmp_path / 'x.safetensors', random_tensors())
    params = to_params(torchvision_net.read_weights(path), config())
    assert jax.tree.structure(params) == jax.tree.structure(alexnet.initialize(config()))
