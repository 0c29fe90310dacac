"""StableHLO files: what `jax.export` computes from them, against our net."""

import re
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest

import nets
import portable_nets
from alexnet_jax.interchange.exports import stablehlo_file

# Of the largest logit: the same operations in float32, which XLA fuses in another way.
TOLERANCE = 1e-6
FORMS = {
    'as run, a layer without shared weights': lambda: portable_nets.recipe(
        'ilsvrc2012_as_run', **portable_nets.STRONG, model__conv4__shared=False
    ),
    "Caffe's": portable_nets.CONFIGS["Caffe's"],
    "torchvision's": portable_nets.CONFIGS["torchvision's"],
}


@pytest.mark.parametrize('name', FORMS)
def test_a_file_computes_our_log_probabilities(name, tmp_path):
    net = portable_nets.random_net(FORMS[name]())
    images = portable_nets.random_images(net.config)
    stablehlo_file.write(net, tmp_path / 'net')
    exported = jax.export.deserialize(bytearray((tmp_path / 'net').read_bytes()))
    actual = np.asarray(jax.jit(exported.call)(images))
    logits = portable_nets.logits(net, images)
    expected = np.asarray(jax.nn.log_softmax(logits))
    scale = abs(logits).max()
    assert abs(expected - expected[0]).max() > 1e-3 * scale  # images differ
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    net = portable_nets.random_net(nets.small(**portable_nets.FEW))
    file = tmp_path_factory.mktemp('stablehlo') / 'net'
    stablehlo_file.write(net, file)
    return file.read_bytes()


@pytest.fixture(scope='module')
def exported(data):
    return jax.export.deserialize(bytearray(data))


def test_a_file_has_no_path_of_the_machine_that_wrote_it(data):
    """JAX records the source file of each operation, which may name the user's home folder."""
    assert b'stablehlo_file.py' in data
    for folder in (nets.ROOT, Path(jax.__file__).parent, Path(pytest.__file__).parent):
        assert str(folder).encode() not in data
    assert jax.config.jax_hlo_source_file_canonicalization_regex is None


def test_a_file_is_for_any_batch_and_any_platform(exported):
    assert exported.platforms == ('cpu', 'cuda', 'rocm', 'tpu')
    assert exported.nr_devices == 1
    (images,), (log_p,) = exported.in_avals, exported.out_avals
    assert (str(images.shape), images.dtype) == ('(batch, 72, 72, 3)', np.uint8)
    assert str(log_p.shape) == '(batch, 10)'
    p = np.exp(jax.jit(exported.call)(portable_nets.random_images(nets.small(), 1)))
    assert p.shape == (1, 10)
    np.testing.assert_allclose(p.sum(), 1, atol=1e-5)


def test_a_file_has_the_plain_formula_and_no_kernel(exported):
    """A kernel would be a custom call, for which JAX promises no compatibility."""
    lines = exported.mlir_module().splitlines()
    calls = [line for line in lines if 'custom_call' in line]
    assert all('@shape_assertion' in line for line in calls)
    assert any('stablehlo.rsqrt' in line for line in lines)  # of response normalization


@pytest.mark.parametrize('precision', ['default', 'highest'])
def test_a_file_has_the_precision_of_the_net(precision, tmp_path):
    config = nets.small(**portable_nets.FEW, model__precision=precision)
    stablehlo_file.write(portable_nets.random_net(config), tmp_path / 'net')
    text = jax.export.deserialize(bytearray((tmp_path / 'net').read_bytes())).mlir_module()
    products = re.findall(r'stablehlo\.(?:convolution|dot_general)\b.*', text)
    assert len(products) >= len(config.model.layers())
    assert all(('HIGHEST' in x) == (precision == 'highest') for x in products)


def test_a_net_of_bfloat16_is_computed_in_float32(tmp_path):
    half = portable_nets.random_net(nets.small(**portable_nets.FEW, model__dtype='bfloat16'))
    net = stablehlo_file.in_float32(half)
    images = portable_nets.random_images(net.config)
    texts = [
        jax.jit(stablehlo_file.log_probabilities(x)).lower(images).as_text() for x in (net, half)
    ]
    assert texts[0] == texts[1]
    assert 'bf16' not in texts[0]
