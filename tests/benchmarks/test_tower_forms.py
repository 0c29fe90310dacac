"""The other ways to run the towers of one device compute what the net computes."""

import functools

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
    outs = {'logits': images, 'logits and gradient': (images, specs)}[out]
    wrapped = jax.shard_map(function, mesh=mesh, in_specs=(specs, images, images), out_specs=outs)
    labels = np.arange(8, dtype=np.int32)
    return wrapped, (params, nets.images(CONFIG, 8), labels)


def logits(form):
    apply = make_apply(form, CONFIG)

    def function(params, x, labels):
        return apply(params, x, None)

    return on_one_device(function, 'logits')


def assert_close_logits(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-5)


def test_the_logits_at_test_time_are_those_of_the_net():
    results = {}
    for form in FORMS:
        function, arguments = logits(form)
        results[form] = devices.run(function, *arguments)
    for form in OTHERS:
        assert_close_logits(results[form], results['unrolled'])


@functools.cache
def logits_and_gradient(form):
    """Computes the logits with dropout masks, and the gradient of the mean loss."""
    apply = make_apply(form, CONFIG)

    def function(params, x, labels):
        def loss(params):
            logits_BK = apply(params, x, dropout.Masks(KEY, 8))
            losses_B = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels)
            return losses_B.mean(), logits_BK

        gradient, logits_BK = jax.grad(loss, has_aux=True)(params)
        return logits_BK, gradient

    function, arguments = on_one_device(function, 'logits and gradient')
    return devices.run(function, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize('form', OTHERS)
def test_logits_and_gradient_in_training_are_those_of_the_net(form):
    (logits_BK, own), (expected_BK, right) = map(logits_and_gradient, (form, 'unrolled'))
    assert_close_logits(logits_BK, expected_BK)
    scale = jax.tree.map(lambda x: np.abs(x).max() + 1e-12, right)
    for leaf, expected, largest in zip(*map(jax.tree.leaves, (own, right, scale)), strict=True):
        np.testing.assert_allclose(leaf / largest, expected / largest, atol=2e-4)


def test_each_form_runs_its_convolutions_its_own_way():
    """Each layer has two convolutions, or one for both towers, grouped or mapped."""
    counts, groups = {}, {}
    for form in FORMS:
        function, arguments = logits(form)
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
