import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.model import towers
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.training.optimizer import Rates
from alexnet_jax.training.state import place_initial_state
from alexnet_jax.training.step import make_train_step

CONSTANTS, NO_NOISE = nets.constants(), jnp.float32(0)


def steps(config, mesh, number, rate=0.01):
    """Returns the state and the metrics of each step after `number` steps on different batches."""
    step = make_train_step(config, mesh)
    state, history = place_initial_state(config, mesh), []
    constants = jax.device_put(CONSTANTS, towers.shardings(mesh, towers.spec(mesh, 'constants')))
    for i in range(number):
        batch = towers.put_batch(mesh, nets.batch(config, seed=i))
        state, metrics = step(state, batch, constants, Rates.equal(rate), NO_NOISE)
        history.append({name: float(x) for name, x in metrics.items()})
    return state, history


def test_meshes_agree_after_20_steps():
    """One device, two with a tower each, two with half the batch each; with dropout and crops."""
    config = nets.small()
    (one, first), *others = (
        steps(config, mesh, 20)
        for mesh in (nets.mesh_of(1), nets.mesh_of(2), nets.mesh_of(1, data=2))
    )
    for state, metrics in others:
        for values, expected in zip(metrics, first, strict=True):
            assert values == pytest.approx(expected, rel=2e-5)
        for path, x in jax.tree_util.tree_leaves_with_path(state.params):
            expected = one.params[path[0].key][path[1].key]
            np.testing.assert_allclose(x, expected, rtol=1e-4, atol=2e-6, err_msg=str(path))


@pytest.fixture(scope='module')
def two_devices():
    """A config, its mesh and its compiled step."""
    config, mesh = nets.small(optimizer__batch_size=32), nets.mesh_of(2)
    return config, mesh, make_train_step(config, mesh)


def losses_on(batch, two_devices, number, rate):
    config, mesh, step = two_devices
    state = place_initial_state(config, mesh)
    on_device, losses = towers.put_batch(mesh, batch), []
    for _ in range(number):
        state, metrics = step(state, on_device, CONSTANTS, Rates.equal(rate), NO_NOISE)
        losses.append(float(metrics['loss']))
    return losses


def test_bfloat16_is_for_activations_alone():
    """The same run but for rounding; parameters, velocity and loss are float32, and towers exchange
    half the bytes."""
    exact, rounded = nets.small(), nets.small(model__dtype='bfloat16')
    mesh = nets.mesh_of(2)
    (_, first), (state, second) = (steps(config, mesh, 5) for config in (exact, rounded))
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype('float32'), jnp.dtype('int32')}
    losses = [[metrics['loss'] for metrics in history] for history in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)
    logits = nets.compiled_logits(rounded, mesh)
    text = logits.lower(state.params, nets.images(rounded, 8)).as_text()
    gathers = re.findall(r'all_gather.*?-> tensor<[0-9x]*(\w+)>', text, re.DOTALL)
    assert gathers == ['bf16'] * 3


def test_colour_noise_reaches_the_net():
    """Except with standard deviation 0; equal deviations give equal draws."""
    config, mesh = nets.small(augmentation__colour__noise='root'), nets.mesh_of(1)
    step = make_train_step(config, mesh)
    batch = towers.put_batch(mesh, nets.batch(config))

    def loss(deviation):
        state = place_initial_state(config, mesh)
        constants = CONSTANTS._replace(colours=200 * CONSTANTS.colours)
        return float(
            step(state, batch, constants, Rates.equal(0.01), jnp.float32(deviation))[1]['loss']
        )

    plain = steps(nets.small(), mesh, 1)[1][0]['loss']
    assert abs(loss(0.0) - plain) < 0.05  # the crops are drawn differently
    assert loss(0.0) == loss(0.0)
    assert loss(0.5) == loss(0.5) != loss(0.0)


def test_dropout_and_crops_are_on(two_devices):
    """With learning rate 0 the parameters stay, and only masks and crops differ between steps."""
    losses = losses_on(nets.batch(two_devices[0]), two_devices, 3, rate=0.0)
    assert len(set(losses)) == 3
    assert losses == losses_on(nets.batch(two_devices[0]), two_devices, 3, rate=0.0)


def test_steps_lower_the_loss(two_devices):
    """The net learns to distinguish ten shades of grey."""
    batch = nets.batch(two_devices[0])
    batch['image'] = np.broadcast_to(
        np.uint8(28 * batch['label'])[:, None, None, None], batch['image'].shape
    ).copy()
    losses = losses_on(batch, two_devices, 200, rate=0.01)
    assert losses[0] == pytest.approx(np.log(10), abs=1)
    assert np.mean(losses[-10:]) < 0.7 * np.log(10)


def test_the_initial_state_does_not_depend_on_the_mesh():
    config = nets.small()
    one, two = (place_initial_state(config, nets.mesh_of(n)) for n in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_a_second_signal_ends_the_process_at_once():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop.signal
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == 'SIGINT'
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
