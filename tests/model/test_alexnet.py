import jax
import numpy as np
import pytest

import nets
import reference
from alexnet_jax.model import alexnet, dropout, inference, towers
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.runtime.user_errors import UserError
from devices import run


def reference_names(params):
    """Returns the parameters under the names of the reference."""
    return {
        layer: {name.partition('_')[0]: np.asarray(x) for name, x in arrays.items()}
        for layer, arrays in params.items()
    }


def random_parameters(config):
    """Returns parameters with random biases, and a signal of about the same size in every layer."""
    params = alexnet.initialize(config)
    rng = np.random.default_rng(1)

    def scale(path, x):
        if path[-1].key.startswith('bias'):
            return rng.normal(size=x.shape).astype(np.float32)
        inputs = x[0].size // x.shape[-1]
        return np.asarray(x / x.std() / np.sqrt(inputs))

    return jax.tree_util.tree_map_with_path(scale, params)


@pytest.mark.parametrize('tower', [1, 2])
def test_logits_agree_with_numpy(tower):
    """The reference is one grouped net in float64, written from the formulas."""
    # With this alpha, the sum of squares is not small compared with k.
    config = nets.small(model__response_normalization__alpha=0.02, augmentation__crop=64)
    params, x = random_parameters(config), nets.images(config, 4) / 64
    logits = nets.compiled_logits(config, nets.mesh_of(tower))(params, x)
    grouped = reference.grouped_params(reference_names(params))
    expected = reference.alexnet(grouped, x, alpha=0.02)['logits']
    assert np.std(expected) > 0.1  # the images have an effect, not only the biases
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_full_size_logits_agree_with_numpy():
    config = nets.full()
    params, x = random_parameters(config), nets.images(config, 2)
    logits = nets.compiled_logits(config, nets.mesh_of(2))(params, x)
    expected = reference.alexnet(reference.grouped_params(reference_names(params)), x)['logits']
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_layer_table_agrees_with_the_arrays():
    config = nets.small(model__towers=4, dataset__classes=7)
    params = alexnet.initialize(config)
    sizes = {layer: sum(x.size for x in jax.tree.leaves(p)) for layer, p in params.items()}
    assert sizes == {row.name: row.parameters for row in layer_table(config)}


def run_on_one_device(function, *arguments):
    """Calls a function inside a shard_map over one device."""
    mesh = nets.mesh_of(1)
    replicated = towers.spec(mesh, 'step')
    mapped = jax.shard_map(function, mesh=mesh, in_specs=replicated, out_specs=replicated)
    return run(mapped, *arguments)


def masks(layer=6, seed=0, images=2):
    """Draws dropout masks, (2 towers, images, 4096)."""
    draw = dropout.Masks(jax.random.key(seed), images).draw
    return np.asarray(run_on_one_device(lambda: draw(layer, 2, 4096, 0.5)))


@pytest.mark.parametrize(('reads', 'tower'), [('all', 2), ('own', 1)])
def test_the_bottleneck_is_linear(reads, tower):
    """With fc8 behind it, it is one linear layer: fc8 of a net without it."""
    plain = nets.small(model__width=0.0625)
    bottleneck = dict(units=112, reads=reads, std=0.5, bias=0.0, decay_factor=1.0, rate_factor=1.0)
    config = nets.small(model__width=0.0625, model__bottleneck=bottleneck)
    params = random_parameters(config)
    assert params['bottleneck']['bias_TO'].shape == (2, 7)
    kernel_TIO, bias_TO = (
        reference.float64(params['bottleneck'][name]) for name in ('kernel_TIO', 'bias_TO')
    )
    kernel_TIK, bias_K = (reference.float64(params['fc8'][name]) for name in ('kernel_TIK', 'bias'))
    product_TIK = kernel_TIO @ kernel_TIK
    if reads == 'all':  # each tower's part of fc7 reaches the units of both
        product_TIK = product_TIK.sum(axis=0).reshape(2, -1, 10)
    joined = {name: layer for name, layer in params.items() if name != 'bottleneck'}
    joined['fc8'] = {
        'kernel_TIK': np.float32(product_TIK),
        'bias': np.float32(bias_K + np.einsum('to,tok->k', bias_TO, kernel_TIK)),
    }
    x = nets.images(config, 3) / 64
    actual = nets.compiled_logits(config, nets.mesh_of(tower))(params, x)
    expected = nets.compiled_logits(plain, nets.mesh_of(1))(joined, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_dropout_masks_differ_between_layers_towers_images_and_steps():
    first = masks()
    assert first.mean() == pytest.approx(0.5, abs=0.02)
    for other in (masks(layer=7), masks(seed=1), first[::-1], first[:, ::-1]):
        assert 0.45 < np.mean(first == other) < 0.55


@pytest.mark.parametrize(('tower', 'data'), [(2, 1), (1, 2)])
def test_a_mask_does_not_depend_on_the_device_of_its_tower_or_image(tower, data):
    mesh = nets.mesh_of(tower, data)
    draw = dropout.Masks(jax.random.key(0), 2).draw
    place = towers.PartitionSpec('tower', 'data')
    parts = jax.shard_map(
        lambda: draw(6, 2, 4096, 0.5), mesh=mesh, in_specs=(), out_specs=place, check_vma=False
    )
    np.testing.assert_array_equal(jax.jit(parts)(), masks())


def test_dropout_preserves_the_mean():
    """Training keeps half of the outputs, and test time multiplies all of them by 0.5 (§4.2)."""

    def both(x):
        key = dropout.Masks(jax.random.key(0), 1)
        return [dropout.dropout([x, x], 0.5, 6, 2, drawn)[0] for drawn in (key, None)]

    training, test = run_on_one_device(both, np.ones((1, 20_000), np.float32))
    assert set(np.unique(training)) == {0, 1}  # not scaled up, unlike later forms of dropout
    np.testing.assert_array_equal(test, 0.5)
    assert training.mean() == pytest.approx(0.5, abs=0.02)


def test_a_change_of_width_preserves_the_size_of_the_signal():
    """The initial standard deviations, except the first layer's, grow by 1 / sqrt(width)."""
    narrow, wide = nets.small(model__width=0.25).model, nets.small(model__width=1.0).model
    assert narrow.initial_std(narrow.conv1) == wide.initial_std(wide.conv1)
    for layer in ('conv2', 'conv5', 'fc6', 'fc8'):
        ratio = narrow.initial_std(getattr(narrow, layer)) / wide.initial_std(getattr(wide, layer))
        assert ratio == pytest.approx(2)


def test_a_crop_that_is_too_small_is_an_error():
    with pytest.raises(UserError, match=r'augmentation\.crop=2 is too small'):
        layer_table(nets.small(augmentation__crop=2))


def test_a_unit_with_input_0_has_no_gradient():
    """The derivative of ReLU at 0 is 0, as in the 2012 code; that of jnp.maximum would be 1/2."""
    config = nets.small()
    params = alexnet.initialize(config)
    for layer in params.values():
        for name in layer:
            if name.startswith('bias'):
                layer[name][...] = 0
    logits = nets.compiled_logits(config, nets.mesh_of(1))
    black = np.zeros((2, 64, 64, 3), np.float32)
    gradient = run(jax.grad(lambda p: logits(p, black).sum()), params)
    assert np.all(np.asarray(gradient['conv5']['bias_TO']) == 0)
    assert np.all(np.asarray(gradient['fc8']['bias']) == 2)


def spatially_normalized(x, size=5, alpha=4e-5):
    """Normalizes over the surrounding pixels of the same map (2012, type=rnorm), in float64."""
    y = np.empty_like(x)
    for i, j in np.ndindex(x.shape[1:3]):
        top, left = max(0, i - size // 2), max(0, j - size // 2)
        window = x[:, top : i + size - size // 2, left : j + size - size // 2]
        y[:, i, j] = x[:, i, j] * (1 + alpha * (window**2).sum((1, 2))) ** -0.75
    return y


def test_the_order_as_run_agrees_with_numpy():
    """Net #145 has norm, pool, ReLU in layer 1, and ReLU, norm, spatial norm, pool in layer 2."""
    as_run = nets.override(nets.load('ilsvrc2012_as_run')).model
    config = nets.small(
        model__conv1__then=as_run.conv1.then,
        model__conv2__then=as_run.conv2.then,
        model__conv2__reads='all',  # so that conv2 is connected to all maps of conv1
        model__response_normalization__alpha=0.02,
        model__spatial_normalization__alpha=0.05,
        model__towers=1,
    )
    params, x = random_parameters(config), nets.images(config, 2) / 64
    net = alexnet.nnx.merge(alexnet.graph(config), params)
    (maps,) = run_on_one_device(lambda x: net.conv2(net.conv1([x])), x)

    layers = reference_names(params)
    edge, two = reference.overhang(64), (2, 2)

    def conv(name, x, stride, padding):
        kernel, bias = layers[name]['kernel'][0], layers[name]['bias'][0]
        return reference.convolution(x, kernel, bias, stride, (padding, padding), 1)

    def norm(x):
        return reference.response_normalization(x, 5, 2.0, 0.02, 0.75, 1)

    y = reference.relu(reference.max_pooling(norm(conv('conv1', x, 4, edge)), 3, 2))
    y = norm(reference.relu(conv('conv2', y, 1, two)))
    y = reference.max_pooling(spatially_normalized(y, alpha=0.05), 3, 2)
    np.testing.assert_allclose(maps, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())


def towers_with_gradient(config):
    """Returns, by layer, which towers' biases influence tower 0's fc7."""
    graph, params = alexnet.graph(config), alexnet.initialize(config)
    x = nets.images(config, 2)

    def total(params):
        units = alexnet.nnx.merge(graph, params).hidden(x)
        return (units[0] ** 2).sum()

    gradient = run_on_one_device(jax.grad(total), params)
    return {
        name: [bool(np.any(arrays['bias_TO'][tower])) for tower in range(2)]
        for name, arrays in gradient.items()
        if name != 'fc8'
    }


def test_towers_with_their_own_inputs_do_not_meet_before_fc8():
    """In net #150, tower 0's last hidden layer does not depend on tower 1."""
    own = {f'model__{name}__reads': 'own' for name in ('conv3', 'fc6', 'fc7')}
    separate = towers_with_gradient(nets.small(**own))
    assert set(map(tuple, separate.values())) == {(True, False)}
    connected = towers_with_gradient(nets.small())
    assert connected['conv1'] == connected['conv5'] == [True, True]


@pytest.mark.parametrize('tower', [1, 2])
def test_tanh_bounds_the_units(tower):
    tanh = {f'model__{name}__nonlinearity': 'tanh' for name in ('fc6', 'fc7')}
    config = nets.small(**tanh)
    mesh, params = nets.mesh_of(tower), random_parameters(nets.small(**tanh))
    last_hidden = inference.make_hidden(config, mesh)
    images = nets.batch(config)['image']
    mean = np.zeros((72, 72, 3), np.float32)
    placed = jax.device_put(params, towers.shardings(mesh, alexnet.partitions(config, mesh)))
    hidden = np.asarray(last_hidden(placed, mean, images, inference.test_views(config)[0]))
    assert hidden.shape == (8, 2 * config.model.scale_to_width(2048))
    assert hidden.min() < 0
    assert np.abs(hidden).max() <= 0.5  # times 0.5 for dropout at test time
    relu = inference.make_hidden(nets.small(), mesh)
    assert np.asarray(relu(placed, mean, images, inference.test_views(config)[0])).min() >= 0


def test_global_average_pooling_can_replace_fc6_and_fc7():
    """The input of fc8 is then one number for each map."""
    config = nets.small(
        model__conv5__then=('relu', 'global_average_pooling'),
        model__fc6__units=0,
        model__fc7__units=0,
    )
    rows = {row.name: row for row in layer_table(config)}
    assert rows['conv5'].pooled == 1
    assert rows['fc8'].reads == rows['conv5'].maps
    params, x = random_parameters(config), nets.images(config, 2)
    one, two = (nets.compiled_logits(config, nets.mesh_of(n))(params, x) for n in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_net_of_four_layers_runs():
    """In configs/cifar10.py, two layers have different weights at each place."""
    config = nets.override(nets.load('cifar10'), model__width=0.25)
    params, x = alexnet.initialize(config), nets.images(config, 2)
    assert params['conv3']['kernel_TYXHWIO'].shape == (1, 8, 8, 3, 3, 16, 8)
    assert nets.compiled_logits(config, nets.mesh_of(1))(params, x).shape == (2, 10)
