import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nets
import reference
from alexnet_jax.model.parameters import Bias, ParameterInfo, Weight
from alexnet_jax.training.optimizer import Progress, Rates, learning_rate, paper_momentum, rates
from nets import override


def infos(*layers):
    """Describes a kernel and a bias in each layer."""
    return {
        layer: {'kernel': ParameterInfo(layer, Weight, ()), 'bias': ParameterInfo(layer, Bias, ())}
        for layer in layers
    }


def run(config, values, seed=0):
    """Takes a step at each learning rate, with random gradients.

    Returns:
      The parameters, and those of the reference.
    """
    rng = np.random.default_rng(seed)
    optimizer = config.optimizer
    params = {'conv2': {'kernel': rng.normal(size=7), 'bias': rng.normal(size=3)}}
    actual = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    expected = {n: (x, np.zeros_like(x)) for n, x in params['conv2'].items()}
    update = paper_momentum(config, infos('conv2'))
    state = update.init(actual)
    decays = {'kernel': optimizer.weight_decay, 'bias': optimizer.bias_weight_decay}
    factors = {'kernel': 1.0, 'bias': optimizer.bias_rate_factor}
    for rate in values:
        gradient = {n: rng.normal(size=x.shape) for n, x in params['conv2'].items()}
        as_float32 = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), {'conv2': gradient})
        step_rates = Rates.equal(rate)._replace(biases=rate * factors['bias'])
        change, state = update.update(as_float32, state, actual, learning_rate=step_rates)
        actual = optax.apply_updates(actual, change)
        expected = {
            n: reference.momentum_step(
                w, v, gradient[n], rate * factors[n], optimizer.momentum, decays[n]
            )
            for n, (w, v) in expected.items()
        }
    return actual['conv2'], {n: w for n, (w, _) in expected.items()}


RATES = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001]


def test_the_update_is_the_printed_one():
    """It is followed for ten steps with a falling learning rate."""
    actual, expected = run(nets.full(), RATES)
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-6)


def test_biases_as_in_2012():
    """Biases have twice the learning rate and no weight decay."""
    config = nets.full(
        optimizer__bias_rate_factor=2.0,
        optimizer__bias_weight_decay=0.0,
        optimizer__weight_decay=0.1,
    )
    actual, expected = run(config, RATES)
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-6)


def test_the_learning_rate_is_inside_the_velocity():
    """A lower learning rate does not change the old velocity; optax.sgd would scale it down."""
    config = nets.full(optimizer__weight_decay=0.0, optimizer__bias_weight_decay=0.0)
    update = paper_momentum(config, infos('conv2'))
    w = {'conv2': {'kernel': jnp.zeros(1), 'bias': jnp.zeros(1)}}
    g = jax.tree.map(jnp.ones_like, w)
    state = update.init(w)
    first, state = update.update(g, state, w, learning_rate=Rates.equal(1.0))
    second, _ = update.update(g, state, w, learning_rate=Rates.equal(0.0))
    assert first['conv2']['kernel'][0] == -1
    assert second['conv2']['kernel'][0] == pytest.approx(-0.9)


def test_the_state_is_one_copy_of_the_parameters():
    w = {'conv2': {'kernel': jnp.zeros((3, 5)), 'bias': jnp.zeros(5)}}
    state = paper_momentum(nets.full(), infos('conv2')).init(w)
    assert sum(x.size for x in jax.tree.leaves(state)) == 20


def levels(schedule, epochs, **settings):
    """Returns the learning rates of a schedule at these epochs."""
    settings = {f'learning_rate__{name}': x for name, x in settings.items()}
    rate = nets.full(learning_rate__schedule=schedule, **settings).learning_rate
    return [learning_rate(rate, epoch, 95.0, Progress()) for epoch in epochs]


def test_the_fixed_schedule_of_2012():
    """By lr.cu:132, it has 0.01, 0.001587, 0.000252, 0.00004 in the quarters of 95 epochs."""
    actual = levels('fixed', [0, 23.7, 23.8, 47.4, 47.6, 71.2, 71.3, 95])
    expected = [x for x in (0.01, 0.001587, 0.000252, 0.00004) for _ in range(2)]
    np.testing.assert_allclose(actual, expected, rtol=2e-3)


def test_the_steps_schedule():
    actual = levels('steps', [0, 24.9, 25, 51, 78.9, 79])
    np.testing.assert_allclose(actual, [1e-2, 1e-2, 1e-3, 1e-4, 1e-4, 1e-5])


def test_the_polynomial_schedule():
    """Caffe's 'poly' falls to 0 at the end, here after 95 epochs."""
    actual = levels('polynomial', [0, 19, 76, 95, 96], polynomial__power=2.0)
    np.testing.assert_allclose(actual, [1e-2, 0.64e-2, 0.04e-2, 0, 0], atol=1e-12)


def test_the_warm_up_takes_the_place_of_the_first_epochs():
    """It rises in equal steps, for biases of any schedule too; what follows is not shifted."""
    warm_up = dict(learning_rate__warm_up__epochs=10.0, learning_rate__warm_up__divide_by=5.0)
    config = nets.full(learning_rate__schedule='steps', **warm_up)
    by_epoch = [rates(config, epoch, Progress()).weights for epoch in (0, 5, 10, 24.9, 25)]
    np.testing.assert_allclose(by_epoch, [0.002, 0.006, 0.01, 0.01, 0.001])
    biases = dict(optimizer__bias_rate_falls=False, optimizer__bias_rate_factor=2.0)
    for schedule, levels_of_biases in (('steps', 0), ('fixed', 3)):
        config = nets.full(
            learning_rate__schedule=schedule,
            learning_rate__fixed__bias_levels=levels_of_biases,
            **warm_up,
            **biases,
        )
        actual = [rates(config, epoch, Progress()).biases for epoch in (0, 5, 10)]
        np.testing.assert_allclose(actual, [0.004, 0.012, 0.02])


def test_the_plateau_schedule():
    """After `patience` evaluations without a lower error, the learning rate is divided by ten.

    This happens at most three times.
    """
    rate = nets.full(learning_rate__plateau__patience=2).learning_rate
    errors = [0.9, 0.8, 0.85, 0.8, 0.5, 0.6, 0.6, 0.7, 0.6, 0.5, 0.5, 0.5, 0.4, 0.5, 0.5]
    progress, drops = Progress(), []
    for error in errors:
        progress = progress.after_evaluation(rate.plateau, error)
        drops.append(progress.drops)
    assert drops == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    assert learning_rate(rate, 50.0, 90.0, progress) == pytest.approx(1e-5)


def test_layers_have_their_own_weight_decay():
    """In 2012, CIFAR-10 had none in the convolutions, and 0.004 where weights are not shared."""
    update = paper_momentum(override(nets.load('cifar10')), infos('conv1', 'conv3'))
    w = {name: {'kernel': jnp.ones(1), 'bias': jnp.ones(1)} for name in ('conv1', 'conv3')}
    zeros = jax.tree.map(jnp.zeros_like, w)
    change, _ = update.update(zeros, update.init(w), w, learning_rate=Rates.equal(1.0))
    assert change['conv1']['kernel'][0] == 0
    assert change['conv3']['kernel'][0] == pytest.approx(-0.004)
    assert change['conv3']['bias'][0] == 0


def test_a_frozen_layer_does_not_change_despite_its_velocity():
    """In 2012 (weights.cu:148), eps = 0 meant no update; other layers keep their velocity."""
    update = paper_momentum(nets.full(optimizer__weight_decay=0.0), infos('conv1', 'conv2'))
    w = {name: {'kernel': jnp.ones(1), 'bias': jnp.ones(1)} for name in ('conv1', 'conv2')}
    g = jax.tree.map(jnp.ones_like, w)
    _, state = update.update(g, update.init(w), w, learning_rate=Rates.equal(0.1))
    frozen = Rates.equal(0.0)._replace(biases=jnp.float32(0.1))
    change, _ = update.update(g, state, w, learning_rate=frozen)
    assert change['conv1']['kernel'][0] == change['conv1']['bias'][0] == 0
    assert change['conv2']['kernel'][0] == pytest.approx(-0.09)


def test_layers_have_their_own_learning_rate():
    """The factor applies to weights and biases, and to the decay, which the rate multiplies."""
    factors = {'model__conv2__rate_factor': 0.1, 'model__conv3__rate_factor': 0.0}
    layers = ('conv1', 'conv2', 'conv3')
    update = paper_momentum(nets.full(**factors), infos(*layers))
    w = {name: {'kernel': jnp.ones(1), 'bias': jnp.ones(1)} for name in layers}
    g = jax.tree.map(jnp.ones_like, w)
    rates_ = Rates.equal(0.5)._replace(biases=jnp.float32(1.0), conv1_biases=jnp.float32(1.0))
    change, state = update.update(g, update.init(w), w, learning_rate=rates_)
    for name, factor in (('conv1', 1), ('conv2', 0.1), ('conv3', 0)):
        assert change[name]['kernel'][0] == pytest.approx(-0.5 * 1.0005 * factor)
        assert change[name]['bias'][0] == pytest.approx(-1.0005 * factor)
    assert all(not np.any(v) for v in state[2].trace['conv3'].values())


def test_rates_as_in_2012():
    """By layer-params-145.cfg, biases stay at 0.02; conv1 is lowered at 67 and frozen at 72."""
    config = override(nets.load('ilsvrc2012_as_run'))
    epochs = (0, 25, 51, 67, 71.9, 72, 79)
    by_epoch = {epoch: rates(config, epoch, Progress()) for epoch in epochs}
    weights = {epoch: x.weights for epoch, x in by_epoch.items()}
    assert weights == pytest.approx(
        {0: 1e-2, 25: 1e-3, 51: 1e-4, 67: 1e-4, 71.9: 1e-4, 72: 1e-4, 79: 1e-5}
    )
    assert all(x.biases == 0.02 for x in by_epoch.values())
    conv1 = {epoch: (x.conv1_weights, x.conv1_biases) for epoch, x in by_epoch.items()}
    assert conv1[51] == pytest.approx((1e-4, 0.02))
    assert conv1[67] == conv1[71.9] == pytest.approx((1e-5, 0.02))
    assert conv1[72] == conv1[79] == (0, 0)


def test_the_fixed_schedule_has_levels_of_its_own_for_the_biases():
    """By layer-params-170.cfg, epsB is 0.02, then 0.002; conv1 is frozen at 74, and not lowered."""
    config = override(nets.load('ilsvrc2012_fixed_schedule'))
    by_epoch = {epoch: rates(config, epoch, Progress()) for epoch in (0, 47.4, 47.6, 73.9, 74, 95)}
    assert [x.biases for x in by_epoch.values()] == pytest.approx([0.02] * 2 + [0.002] * 4)
    for epoch, x in by_epoch.items():
        own = (0, 0) if epoch >= 74 else (x.weights, x.biases)
        assert (x.conv1_weights, x.conv1_biases) == own
    weights = [x.weights for x in by_epoch.values()]
    assert weights == pytest.approx([0.01, 0.00159, 0.00025, 4e-5, 4e-5, 4e-5], rel=1e-2)


@pytest.mark.parametrize('falls', [True, False])
def test_without_levels_of_their_own_the_biases_do_as_before(falls):
    config = nets.full(learning_rate__schedule='fixed', optimizer__bias_rate_falls=falls)
    late = rates(config, 89.0, Progress())
    assert late.biases == (late.weights if falls else 0.01)


def test_rates_as_printed_are_equal():
    printed = rates(nets.full(), 50.0, Progress(drops=2))
    assert list(printed) == pytest.approx([1e-4] * 4)


def test_divisors_beyond_the_range_of_floats():
    """The learning rate becomes 0, or so large that the loss is not finite, which is noticed."""
    epochs = tuple(map(float, range(10)))
    steps = {'learning_rate__steps__epochs': epochs, 'learning_rate__schedule': 'steps'}
    for divide_by, expected in ((1e38, 0.0), (1e-37, np.inf)):
        config = nets.small(**steps, learning_rate__steps__divide_by=divide_by)
        assert learning_rate(config.learning_rate, 20.0, 90.0, Progress()) == expected
