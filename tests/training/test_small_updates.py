import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.model import alexnet
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.training import small_updates
from alexnet_jax.training.optimizer import Rates, apply_updates
from alexnet_jax.training.state import State, make_optimizer
from alexnet_jax.training.step import Hyperparameters

SMALL = [f'conv{i}.{name}' for i in range(1, 6) for name in ('bias_TO', 'kernel_THWIO')]
SMALL += ['fc6.bias_TO', 'fc7.bias_TO', 'fc8.bias']


def names_with_rules(config):
    names = leaves_by_name(alexnet.shapes(config))
    return {n for n, r in zip(names, small_updates.rules_of(config), strict=True) if r is not None}


def step_of(config, rates, seed=0):
    """Returns the state and gradients before an update, and the parameters and velocity after."""
    rng = np.random.default_rng(seed)

    def draw():
        shapes = alexnet.shapes(config)
        return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

    optimizer, params, gradients = make_optimizer(config), draw(), draw()
    velocity = jax.tree.unflatten(
        jax.tree.structure(jax.eval_shape(optimizer.init, params)), jax.tree.leaves(draw())
    )

    @jax.jit
    def apply(gradients, velocity, params, rates):
        updates, velocity = optimizer.update(gradients, velocity, params, learning_rate=rates)
        return apply_updates(config, params, updates), velocity

    after = apply(gradients, velocity, params, rates)
    return State(jnp.int32(0), params, velocity), gradients, after


@pytest.mark.parametrize('conv1_rate', [0.0, 0.03125])
def test_the_kernel_computes_the_update_rule(conv1_rate):
    """The rule of `paper_momentum`, with factors for each layer as in the 2012 code."""
    config = nets.small(
        optimizer__bias_weight_decay=0.25,
        model__conv2__rate_factor=2.0,
        model__conv3__decay_factor=0.5,
        model__conv4__rate_factor=0.0,
    )
    rates = Rates(*(jnp.float32(x) for x in (0.125, 0.25, conv1_rate, conv1_rate / 2)))
    state, gradients, after = step_of(config, rates)
    nothing = jax.tree.map(np.zeros_like, after)
    arguments = state, gradients, Hyperparameters(rates, 0.0).pack(), *nothing
    update = functools.partial(small_updates._update_small, config, interpret=True)
    compiled = jax.jit(update).lower(*arguments).compile()
    params, velocity = compiled(*arguments)
    small = {name for name in SMALL if not name.startswith('conv4')}
    for actual, expected in zip((params, velocity), after, strict=True):
        pairs = zip(
            leaves_by_name(alexnet.shapes(config)),
            jax.tree.leaves(actual),
            jax.tree.leaves(expected),
            strict=True,
        )
        for name, x, y in pairs:
            y = y if name in small else np.zeros_like(y)
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6, err_msg=name)
    is_kept = np.array_equal(params['conv1']['bias_TO'], state.params['conv1']['bias_TO'])
    assert is_kept == (conv1_rate == 0)


def test_the_kernel_updates_the_convolution_kernels_and_biases_alone():
    assert names_with_rules(nets.full()) == set(SMALL)
    frozen = nets.full(model__conv3__rate_factor=0.0)
    assert names_with_rules(frozen) == {n for n in SMALL if not n.startswith('conv3')}


def test_averages_of_batch_normalization_are_not_updated():
    names = names_with_rules(nets.override(nets.load('batch_normalization')))
    assert not [name for name in names if 'mean' in name or 'variance' in name]
    assert [name for name in names if 'scale' in name]


def test_the_kernel_is_chosen_for_gpus_with_triton(capsys):
    there = Platform('gpu', is_local=False)
    assert small_updates.choose(nets.small(), there) is not None
    assert small_updates.choose(nets.small(), there._replace(has_triton=False)) is None
    assert 'Triton needs an Ampere GPU' in capsys.readouterr().err
