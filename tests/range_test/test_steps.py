import contextlib

import jax
import numpy as np
import pytest

import nets
import runs
from alexnet_jax.data import sources
from alexnet_jax.range_test import steps
from alexnet_jax.range_test.curve import Range
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Position
from alexnet_jax.training.workdir import Workdir


@pytest.mark.parametrize('schedule', ['plateau', 'steps', 'fixed'])
def test_a_rate_is_the_initial_one_of_a_run(schedule):
    """The biases keep their factor, and no schedule has divided the rate yet."""
    config = nets.small(
        learning_rate__schedule=schedule,
        optimizer__bias_rate_factor=2.0,
        augmentation__colour__noise='root',
        augmentation__colour__deviation=0.3,
        augmentation__colour__until_epoch=5.0,
    )
    for epoch, deviation in ((3.0, 0.3), (20.0, 0.0)):
        numbers = steps._hyperparameters(config, 0.25, epoch)
        assert numbers.rates == (0.25, 0.5, 0.25, 0.5)
        assert numbers.deviation == deviation


def checkpoint(workdir, config, step, velocity):
    """Writes a run with a checkpoint whose velocities are all of this value."""
    mesh = nets.mesh_of(1)
    state = steps.place_initial_state(config, mesh)
    state = runs.at_step(state, step)._replace(
        velocity=jax.tree.map(lambda x: x + velocity, state.velocity)
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(Workdir(workdir).claim(config, mesh))
        checkpoints = stack.enter_context(folder.open_checkpoints(keep=1))
        checkpoints.save(state, Position(step=step))
        checkpoints.wait()
    return state


def test_a_test_begins_as_the_same_command_would_but_without_velocity(tmp_path):
    """The newest checkpoint of the workdir comes first, then --from, then initial parameters."""
    config, mesh = nets.small(learning_rate__schedule='steps'), nets.mesh_of(1)
    run, other, examples = Workdir(tmp_path / 'run'), tmp_path / 'other', 80  # 10 steps an epoch
    fresh = steps.start(config, mesh, examples, run, None)
    assert (fresh.step, fresh.divisor, fresh.origin) == (0, 1, 'initial parameters')

    saved = checkpoint(other, config, 150, 0.5)
    begin = steps.start(config, mesh, examples, run, (other, None))
    assert (begin.step, begin.origin) == (150, f'the checkpoint of step 150 in {other}')
    assert begin.divisor == pytest.approx(10)  # after epoch 14
    nets.assert_equal_leaves(begin.state.params, saved.params)
    assert all(not np.any(x) for x in jax.tree.leaves(begin.state.velocity))

    checkpoint(tmp_path / 'run', config, 20, 0.5)
    begin = steps.start(config, mesh, examples, run, (other, None))
    assert (begin.step, begin.divisor) == (20, 1)
    with pytest.raises(UserError, match='has no checkpoint of step 7'):
        steps.start(config, mesh, examples, Workdir(tmp_path / 'new'), (other, 7))


@pytest.mark.slow
def test_a_range_test_is_training_at_growing_rates(tmp_path, data_dir):
    """The same losses each time; too high a rate ends it; a signal ends it; nothing is written."""
    config, mesh = nets.small(dataset__data_dir=data_dir), nets.mesh_of(1)
    splits, run = sources.open_splits(config.dataset), Workdir(tmp_path / 'run')

    def test(rates, stop=None):
        begin = steps.start(config, mesh, len(splits.train), run, None)
        return steps.run(config, mesh, splits, run, begin, rates, stop or StopSignal())

    low = test(Range(1e-12, 1e-11, 5))  # the parameters do not change: so the losses of each batch
    first = test(Range(1e-4, 1e4, 60))
    again = test(Range(1e-4, 1e4, 60))
    np.testing.assert_array_equal(first.losses, again.losses)
    assert low.losses[0] == first.losses[0]
    assert len(low.losses) == 5
    assert low.losses[4] != first.losses[4]
    assert len(first.losses) < 60
    assert first.rates[-1] < 1e3
    assert first.unstable_step() is not None
    assert first.chance == pytest.approx(np.log(10), abs=0.1)
    stopped = StopSignal()
    stopped.signal = 'SIGINT'
    assert len(test(Range(1e-4, 1.0, 20), stopped).losses) == 0
    assert not (tmp_path / 'run').exists()
