"""The other ways to run the towers of one device compute what the net computes."""

import jax
import numpy as np
import optax
import pytest
from tower_forms import FORMS, make_apply

import devices
import nets
from alexnet_jax.model import alexnet, dropout, towers

CONFIG = nets.small(mesh__tower=1)
KEY = jax.random.key(3)
OTHERS = [form for form in FORMS if form != 'unrolled']


def on_one_device(function, out):
    """Runs a function of parameters, images and labels as training does, on one device."""
    mesh = nets.mesh_of(1)
    params = alexnet.initialize(CONFIG)
    specs, images = alexnet.partitions(CONFIG, mesh), towers.spec(mesh, 'images')
    outs = {'images': images, 'params': specs}[out]
    wrapped = jax.shard_map(function, mesh=mesh, in_specs=(specs, images, images), out_specs=outs)
    labels = np.arange(8, dtype=np.int32)
    return wrapped, (params, nets.images(CONFIG, 8), labels)


def logits(form, masks):
    apply = make_apply(form, CONFIG)

    def function(params, x, labels):
        return apply(params, x, dropout.Masks(KEY, 8) if masks else None)

    return on_one_device(function, 'images')


@pytest.mark.parametrize('masks', [False, True])
@pytest.mark.parametrize('form', OTHERS)
def test_the_logits_are_those_of_the_net(form, masks):
    (ours, arguments), (other, _) = logits('unrolled', masks), logits(form, masks)
    np.testing.assert_allclose(
        *(devices.run(function, *arguments) for function in (other, ours)), rtol=2e-4, atol=2e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize('form', OTHERS)
def test_the_gradient_is_that_of_the_net(form):
    def gradient(form):
        apply = make_apply(form, CONFIG)

        def function(params, x, labels):
            def loss(params):
                logits_BK = apply(params, x, dropout.Masks(KEY, 8))
                return optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels).mean()

            return jax.grad(loss)(params)

        function, arguments = on_one_device(function, 'params')
        return devices.run(function, *arguments)

    own, right = gradient(form), gradient('unrolled')
    scale = jax.tree.map(lambda x: np.abs(x).max() + 1e-12, right)
    for leaf, expected, largest in zip(*map(jax.tree.leaves, (own, right, scale)), strict=True):
        np.testing.assert_allclose(leaf / largest, expected / largest, atol=2e-4)


def test_each_form_runs_its_convolutions_its_own_way():
    """Each layer has two convolutions, or one for both towers, grouped or mapped."""
    counts, groups = {}, {}
    for form in FORMS:
        function, arguments = logits(form, masks=False)
        text = devices.lowered(function, 'cuda', *arguments)
        counts[form] = text.count('stablehlo.convolution')
        groups[form] = text.count('feature_group_count = 2')
    assert counts == {'unrolled': 10, 'vmapped': 5, 'grouped': 5, 'blocks': 10}
    assert groups['unrolled'] == groups['blocks'] == 0
    assert groups['grouped'] == 3  # conv2, conv4 and conv5 read their own tower's maps
    assert groups['vmapped'] == 3


def test_a_layer_that_the_forms_do_not_know_is_refused():
    other = nets.small(mesh__tower=1, model__conv2__shared=False)
    apply = make_apply('grouped', other)
    with pytest.raises(
        ValueError, match='conv2: the forms of the towers cover plain convolutions only'
    ):
        jax.eval_shape(apply, alexnet.shapes(other), nets.images(other, 8), None)
