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
    """Descriptions of a kernel and a bias in each layer."""
    return {
        layer: {'kernel': ParameterInfo(layer, Weight, ()), 'bias': ParameterInfo(layer, Bias, ())}
        for layer in layers
    }


def run(config, values, seed=0):
    """Parameters after a step of each rate, with random gradients; ours and the reference's."""
    rng = np.random.default_rng(seed)
    optimizer = config.optimizer
    params = {'conv2': {'kernel': rng.normal(size=7), 'bias': rng.normal(size=3)}}
    ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    theirs = {n: (x, np.zeros_like(x)) for n, x in params['conv2'].items()}
    update = paper_momentum(config, infos('conv2'))
    state = update.init(ours)
    decays = {'kernel': optimizer.weight_decay, 'bias': optimizer.bias_weight_decay}
    factors = {'kernel': 1.0, 'bias': optimizer.bias_rate_factor}
    for rate in values:
        gradient = {n: rng.normal(size=x.shape) for n, x in params['conv2'].items()}
        as_float32 = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), {'conv2': gradient})
        now = Rates.equal(rate)._replace(biases=rate * factors['bias'])
        change, state = update.update(as_float32, state, ours, learning_rate=now)
        ours = optax.apply_updates(ours, change)
        theirs = {
            n: reference.momentum_step(
                w, v, gradient[n], rate * factors[n], optimizer.momentum, decays[n]
            )
            for n, (w, v) in theirs.items()
        }
    return ours['conv2'], {n: w for n, (w, _) in theirs.items()}


RATES = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001]


def test_the_printed_update():
    """Ten steps with a rate that falls."""
    ours, theirs = run(nets.full(), RATES)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_biases_as_in_2012():
    """Twice the rate and no decay."""
    config = nets.full(
        optimizer__bias_rate_factor=2.0,
        optimizer__bias_weight_decay=0.0,
        optimizer__weight_decay=0.1,
    )
    ours, theirs = run(config, RATES)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_the_rate_is_inside_the_velocity():
    """A fallen rate leaves the old velocity as it is; optax.sgd would scale it down at once."""
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
    settings = {f'learning_rate__{name}': x for name, x in settings.items()}
    rate = nets.full(learning_rate__schedule=schedule, **settings).learning_rate
    return [learning_rate(rate, epoch, 95.0, Progress()) for epoch in epochs]


def test_the_fixed_schedule_of_2012():
    """lr.cu:132: 0.01, 0.001587, 0.000252, 0.00004 in quarters of 95 epochs."""
    found = levels('fixed', [0, 23.7, 23.8, 47.4, 47.6, 71.2, 71.3, 95])
    pairs = [x for x in (0.01, 0.001587, 0.000252, 0.00004) for _ in range(2)]
    np.testing.assert_allclose(found, pairs, rtol=2e-3)


def test_steps():
    found = levels('steps', [0, 24.9, 25, 51, 78.9, 79])
    np.testing.assert_allclose(found, [1e-2, 1e-2, 1e-3, 1e-4, 1e-4, 1e-5])


def test_plateau():
    """Divided by ten after `patience` evaluations without a lower error, three times at most."""
    rate = nets.full(learning_rate__plateau__patience=2).learning_rate
    errors = [0.9, 0.8, 0.85, 0.8, 0.5, 0.6, 0.6, 0.7, 0.6, 0.5, 0.5, 0.5, 0.4, 0.5, 0.5]
    progress, drops = Progress(), []
    for error in errors:
        progress = progress.after_evaluation(rate.plateau, error)
        drops.append(progress.drops)
    assert drops == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    assert learning_rate(rate, 50.0, 90.0, progress) == pytest.approx(1e-5)


def test_layers_have_their_share_of_the_decay():
    """CIFAR-10, 2012: none in the convolutions, 0.004 where weights are not shared."""
    update = paper_momentum(override(nets.load('cifar10')), infos('conv1', 'conv3'))
    w = {name: {'kernel': jnp.ones(1), 'bias': jnp.ones(1)} for name in ('conv1', 'conv3')}
    still = jax.tree.map(jnp.zeros_like, w)
    change, _ = update.update(still, update.init(w), w, learning_rate=Rates.equal(1.0))
    assert change['conv1']['kernel'][0] == 0
    assert change['conv3']['kernel'][0] == pytest.approx(-0.004)
    assert change['conv3']['bias'][0] == 0


def test_a_frozen_layer_stays_whatever_its_velocity():
    """2012, weights.cu:148: with eps 0 no update at all; the others' velocity carries on."""
    update = paper_momentum(nets.full(optimizer__weight_decay=0.0), infos('conv1', 'conv2'))
    w = {name: {'kernel': jnp.ones(1), 'bias': jnp.ones(1)} for name in ('conv1', 'conv2')}
    g = jax.tree.map(jnp.ones_like, w)
    _, state = update.update(g, update.init(w), w, learning_rate=Rates.equal(0.1))
    frozen = Rates.equal(0.0)._replace(biases=jnp.float32(0.1))
    change, _ = update.update(g, state, w, learning_rate=frozen)
    assert change['conv1']['kernel'][0] == change['conv1']['bias'][0] == 0
    assert change['conv2']['kernel'][0] == pytest.approx(-0.09)


def test_rates_as_in_2012():
    """layer-params-145.cfg: biases at 0.02 to the end; conv1 lowered at 67, frozen at 72."""
    config = override(nets.load('ilsvrc2012_as_run'))
    found = {epoch: rates(config, epoch, Progress()) for epoch in (0, 25, 51, 67, 71.9, 72, 79)}
    weights = {epoch: x.weights for epoch, x in found.items()}
    assert weights == pytest.approx(
        {0: 1e-2, 25: 1e-3, 51: 1e-4, 67: 1e-4, 71.9: 1e-4, 72: 1e-4, 79: 1e-5}
    )
    assert all(x.biases == 0.02 for x in found.values())
    conv1 = {epoch: (x.conv1_weights, x.conv1_biases) for epoch, x in found.items()}
    assert conv1[51] == pytest.approx((1e-4, 0.02))
    assert conv1[67] == conv1[71.9] == pytest.approx((1e-5, 0.02))
    assert conv1[72] == conv1[79] == (0, 0)


def test_rates_as_printed_are_equal():
    found = rates(nets.full(), 50.0, Progress(drops=2))
    assert list(found) == pytest.approx([1e-4] * 4)
