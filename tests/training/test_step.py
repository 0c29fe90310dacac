import jax
import jax.numpy as jnp
import pytest

import nets
from alexnet_jax.model import towers
from alexnet_jax.training.optimizer import Rates
from alexnet_jax.training.state import place_initial_state


@pytest.mark.slow
def test_a_step_is_the_same_where_jax_computes_with_64_bits():
    """JAX_ENABLE_X64 changes no number: parameters, velocity and metrics are bit-equal."""
    config, mesh = nets.small(augmentation__colour__noise='root'), nets.mesh_of(1)

    def one_step():
        step = nets.compiled_step.__wrapped__(config, mesh)
        data = towers.put_batch(mesh, nets.batch(config))
        state = place_initial_state(config, mesh)
        return jax.device_get(
            step(state, data, nets.constants(), Rates.equal(0.01), jnp.float32(0.1))
        )

    expected = one_step()
    with jax.enable_x64(True):
        results = one_step()
    nets.assert_equal_leaves(results, expected)
