import jax
import numpy as np
import pytest

import nets
import reference
from alexnet_jax import model, towers
from alexnet_jax.errors import UserError


def per_tower(params):
    """Our parameters under the names of the reference."""
    return {
        layer: {name.partition('_')[0]: np.asarray(x) for name, x in arrays.items()}
        for layer, arrays in params.items()
    }


def lively(config):
    """Initial parameters with random biases, and a signal of the same size in every layer."""
    params = model.initialize(config)
    rng = np.random.default_rng(1)

    def scale(path, x):
        if path[-1].key.startswith('bias'):
            return rng.normal(size=x.shape).astype(np.float32)
        inputs = x[0].size // x.shape[-1]
        return np.asarray(x / x.std() / np.sqrt(inputs))

    return jax.tree_util.tree_map_with_path(scale, params)


@pytest.mark.parametrize('tower', [1, 2])
def test_logits_agree_with_numpy(tower):
    """Both towers against one grouped net in float64, written from the formulas."""
    # alpha as large as it takes for the sum of squares to matter beside k.
    config = nets.small(model__response_normalization__alpha=0.02, augmentation__crop=64)
    params, x = lively(config), nets.images(config, 4) / 64
    ours = nets.compiled_logits(config, nets.mesh_of(tower))(params, x)
    grouped = reference.grouped_params(per_tower(params))
    theirs = reference.alexnet(grouped, x, alpha=0.02)['logits']
    assert np.std(theirs) > 0.1  # not all biases
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_full_size_logits_agree_with_numpy():
    config = nets.full()
    params, x = lively(config), nets.images(config, 2)
    ours = nets.compiled_logits(config, nets.mesh_of(2))(params, x)
    theirs = reference.alexnet(reference.grouped_params(per_tower(params)), x)['logits']
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_table_agrees_with_the_arrays():
    config = nets.small(model__towers=4, dataset__classes=7)
    params = model.initialize(config)
    counted = {layer: sum(x.size for x in jax.tree.leaves(p)) for layer, p in params.items()}
    assert counted == {row.name: row.parameters for row in model.layer_table(config)}


def on_one_device(function, *arguments):
    mesh = nets.mesh_of(1)
    here = towers.spec(mesh, 'step')
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=here, out_specs=here))(*arguments)


def masks(layer=6, seed=0, images=2):
    """(2 towers, images, 4096)."""
    draw = model.Masks(jax.random.key(seed), images).draw
    return np.asarray(on_one_device(lambda: draw(layer, 2, 4096, 0.5)))


def test_dropout_masks_differ_between_layers_towers_images_and_steps():
    first = masks()
    assert first.mean() == pytest.approx(0.5, abs=0.02)
    for other in (masks(layer=7), masks(seed=1), first[::-1], first[:, ::-1]):
        assert 0.45 < np.mean(first == other) < 0.55


@pytest.mark.parametrize(('tower', 'data'), [(2, 1), (1, 2)])
def test_a_mask_does_not_depend_on_where_its_tower_or_image_is(tower, data):
    mesh = nets.mesh_of(tower, data)
    draw = model.Masks(jax.random.key(0), 2).draw
    place = towers.PartitionSpec('tower', 'data')
    parts = jax.shard_map(
        lambda: draw(6, 2, 4096, 0.5), mesh=mesh, in_specs=(), out_specs=place, check_vma=False
    )
    np.testing.assert_array_equal(jax.jit(parts)(), masks())


def test_dropout_keeps_the_mean():
    """Half of the outputs in training, all times 0.5 at test: the expected input is the same."""

    def both(x):
        key = model.Masks(jax.random.key(0), 1)
        return [model.dropout([x, x], 0.5, 6, 2, drawn)[0] for drawn in (key, None)]

    training, test = on_one_device(both, np.ones((1, 20_000), np.float32))
    assert set(np.unique(training)) == {0, 1}  # not scaled up, unlike the dropout of today
    np.testing.assert_array_equal(test, 0.5)
    assert training.mean() == pytest.approx(0.5, abs=0.02)


def test_width_keeps_the_size_of_the_signal():
    """Standard deviations grow by 1 / sqrt(width), all but the first layer's."""
    narrow, wide = nets.small(model__width=0.25).model, nets.small(model__width=1.0).model
    assert narrow.initial_std(narrow.conv1) == wide.initial_std(wide.conv1)
    for layer in ('conv2', 'conv5', 'fc6', 'fc8'):
        ratio = narrow.initial_std(getattr(narrow, layer)) / wide.initial_std(getattr(wide, layer))
        assert ratio == pytest.approx(2)


def test_a_crop_that_is_too_small_is_named():
    with pytest.raises(UserError, match=r'augmentation\.crop=2 is too small'):
        model.layer_table(nets.small(augmentation__crop=2))


def test_a_unit_at_rest_learns_nothing():
    """The derivative of ReLU at 0 is 0, as in the 2012 code, and not 1/2 as that of a maximum."""
    config = nets.small()
    params = model.initialize(config)
    for layer in params.values():
        for name in layer:
            if name.startswith('bias'):
                layer[name][...] = 0
    logits = nets.compiled_logits(config, nets.mesh_of(1))
    black = np.zeros((2, 64, 64, 3), np.float32)
    gradient = jax.grad(lambda p: logits(p, black).sum())(params)
    assert np.all(np.asarray(gradient['conv5']['bias_TO']) == 0)
    assert np.all(np.asarray(gradient['fc8']['bias']) == 2)
