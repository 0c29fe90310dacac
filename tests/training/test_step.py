import jax
import numpy as np
import pytest

import nets
from alexnet_jax.model import towers
from alexnet_jax.training.state import place_initial_state


@pytest.mark.slow
def test_a_step_is_the_same_where_jax_computes_with_64_bits():
    """JAX_ENABLE_X64 changes no number: parameters, velocity and metrics are bit-equal."""
    config, mesh = nets.small(augmentation__colour__noise='root'), nets.mesh_of(1)

    def one_step():
        step = nets.compiled_step.__wrapped__(config, mesh)
        data = towers.put_batch(mesh, nets.batch(config))
        state = place_initial_state(config, mesh)
        return jax.device_get(step(state, data, nets.constants(), nets.hyperparameters(0.01, 0.1)))

    expected = one_step()
    with jax.enable_x64(True):
        results = one_step()
    nets.assert_equal_leaves(results, expected)


def test_frozen_layers_keep_every_bit_and_need_no_gradient():
    """With all layers but fc8 frozen, nothing crosses between the devices in the backward pass."""
    frozen = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7')
    config = nets.small(**{f'model__{name}__rate_factor': 0.0 for name in frozen})
    mesh = nets.mesh_of(2)
    step = nets.compiled_step(config, mesh)
    assert nets.collectives(step) == {'all-gather': 3, 'all-reduce': 1}
    state = place_initial_state(config, mesh)
    # Numbers that an addition of 0 may change: -0.0, and one that is flushed to 0.
    odd = jax.tree.map(lambda x: x.at[0].set(-0.0).at[1].set(1e-40), state.params['conv2'])
    state = state._replace(params=state.params | {'conv2': odd})
    before = jax.device_get(state.params)
    for i in range(3):
        data = towers.put_batch(mesh, nets.batch(config, seed=i))
        state, _ = step(state, data, nets.constants(), nets.hyperparameters(0.1))
    after = jax.device_get(state.params)
    for name in before:
        for array, x in before[name].items():
            unchanged = np.array_equal(after[name][array].view(np.int32), x.view(np.int32))
            assert unchanged == (name in frozen), (name, array)
