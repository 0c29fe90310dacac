import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
from alexnet_jax.model import towers
from alexnet_jax.training.state import place_initial_state


@pytest.mark.slow
def test_meshes_agree_after_20_steps():
    """Dropout and random crops are on, and LLVM optimizes the program as in a user's run.

    The meshes are one device, two devices with a tower each, and two that share the batch.
    """
    config = nets.small()
    (state, metrics), *others = (
        nets.run_steps(config, mesh, 20, optimized=True)
        for mesh in (nets.mesh_of(1), nets.mesh_of(2), nets.mesh_of(1, data=2))
    )
    for other_state, other_metrics in others:
        for actual, expected in zip(other_metrics, metrics, strict=True):
            assert actual == pytest.approx(expected, rel=2e-5)
        for path, x in jax.tree_util.tree_leaves_with_path(other_state.params):
            expected = state.params[path[0].key][path[1].key]
            np.testing.assert_allclose(x, expected, rtol=1e-4, atol=2e-6, err_msg=str(path))


def losses_on(batches, number, rate):
    """Trains the small net on two devices, on these batches in turn, and returns the losses."""
    config, mesh = nets.small(), nets.mesh_of(2)
    step, state, losses = nets.compiled_step(config, mesh), place_initial_state(config, mesh), []
    batches = [towers.put_batch(mesh, batch) for batch in batches]
    for i in range(number):
        state, metrics = step(
            state,
            batches[i % len(batches)],
            nets.constants(),
            nets.hyperparameters(rate),
        )
        losses.append(float(metrics['loss']))
    return losses


def test_bfloat16_is_used_for_activations_only():
    """The training is the same except for rounding.

    Parameters, velocity and loss are float32, and towers exchange half as many bytes.
    """
    exact, rounded = nets.small(), nets.small(model__dtype='bfloat16')
    mesh = nets.mesh_of(2)
    (_, metrics), (state, rounded_metrics) = (
        nets.run_steps(config, mesh, 5) for config in (exact, rounded)
    )
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype('float32'), jnp.dtype('int32')}
    losses, rounded_losses = ([m['loss'] for m in each] for each in (metrics, rounded_metrics))
    assert losses == pytest.approx(rounded_losses, rel=0.02)
    assert losses != pytest.approx(rounded_losses, rel=1e-6)
    logits = nets.compiled_logits(rounded, mesh)
    text = logits.lower(state.params, nets.images(rounded, 8)).as_text()
    gathers = re.findall(r'all_gather.*?-> tensor<[0-9x]*(\w+)>', text, re.DOTALL)
    assert gathers == ['bf16'] * 3


def test_colour_noise_reaches_the_net():
    """A deviation of 0 adds no noise, and every other one uses the same draws.

    So two runs that differ in the deviation can be compared.
    """
    config, mesh = nets.small(augmentation__colour__noise='root'), nets.mesh_of(2)
    step = nets.compiled_step(config, mesh)
    batch = towers.put_batch(mesh, nets.batch(config))
    constants = nets.constants()
    constants = constants._replace(colours=200 * constants.colours)

    def loss(deviation):
        state = place_initial_state(config, mesh)
        _, metrics = step(state, batch, constants, nets.hyperparameters(0.01, deviation))
        return float(metrics['loss'])

    _, (metrics,) = nets.run_steps(nets.small(), mesh, 1)
    assert abs(loss(0.0) - metrics['loss']) < 0.05  # the crops are drawn differently
    assert loss(0.0) == loss(0.0)
    assert loss(0.5) == loss(0.5) != loss(0.0)


def test_dropout_and_random_crops_are_on():
    """With a learning rate of 0, only the masks and the crops differ between steps."""
    batches = [nets.batch(nets.small())]
    losses = losses_on(batches, 3, rate=0.0)
    assert len(set(losses)) == 3
    assert losses == losses_on(batches, 3, rate=0.0)


def test_training_lowers_the_loss():
    """The net learns to distinguish ten shades of grey, in four batches."""
    batches = [nets.batch(nets.small(), seed) for seed in range(4)]
    for batch in batches:
        shades = np.uint8(28 * batch['label'])[:, None, None, None]
        batch['image'] = np.broadcast_to(shades, batch['image'].shape).copy()
    assert len({label for batch in batches for label in batch['label']}) == 10
    losses = losses_on(batches, 200, rate=0.01)
    assert losses[0] == pytest.approx(np.log(10), abs=1)
    assert np.mean(losses[-10:]) < 0.7 * np.log(10)


def test_the_initial_state_does_not_depend_on_the_mesh():
    config = nets.small()
    one, two = (place_initial_state(config, nets.mesh_of(n)) for n in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
