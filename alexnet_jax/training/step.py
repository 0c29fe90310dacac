"""One training step on all devices (§5)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, batch_normalization, dropout, towers
from alexnet_jax.ops.top_k_credit import credit
from alexnet_jax.training.optimizer import Rates, paper_momentum
from alexnet_jax.training.state import State, _shapes

StepFunction = Callable[
    [State, dict[str, Array], augmentation.Constants, Rates, Array], tuple[State, dict[str, Array]]
]
ApplyTraining = Callable[[Any, Array, dropout.Masks], tuple[Array, Any]]


def make_train_step(
    config: Config, mesh: jax.sharding.Mesh, apply_training: ApplyTraining | None = None
) -> StepFunction:
    """Compiles one step of the paper's recipe.

    Args:
      apply_training: another form of the net, with the arguments and results of
        `alexnet.apply_training` without `graph`; None is the net of the settings.

    Returns:
      `step(state, batch, constants, rates, deviation)`: `batch` holds 'image', (B, size, size, 3)
      uint8, and 'label', (B,) int32; `rates` are eps and `deviation` that of the colour noise,
      float32 scalars. Gives the new state (the old one's memory is reused) and 'loss' (nats) and
      'top1_error' (fraction), means over the batch.
    """
    net = apply_training or functools.partial(alexnet.apply_training, alexnet.graph(config))
    update = paper_momentum(config)
    batch_size, views = config.optimizer.batch_size, config.augmentation
    state_specs = towers.specs(mesh, _shapes(config))
    images, everywhere = towers.spec(mesh, 'images'), towers.spec(mesh, 'metrics')

    @functools.partial(jax.jit, donate_argnums=0)
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(state_specs, images, everywhere, everywhere, everywhere),
        out_specs=(state_specs, everywhere),
    )
    def step(
        state: State, batch: Any, constants: augmentation.Constants, rates: Rates, deviation: Array
    ) -> tuple[State, Any]:
        """What one device does."""
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        view_key, mask_key = jax.random.split(key)
        draw = augmentation.draw_views(view_key, batch_size, config.dataset.image_size, views)
        draw = augmentation.Draw(*(towers.own_images(x) for x in draw))
        views_BHWC = augmentation.random_views(batch['image'], constants, draw, views, deviation)
        masks = dropout.Masks(mask_key, batch_size)

        def loss(params: Any) -> tuple[Array, tuple[Array, Any]]:
            params = towers.copy_for_each_share(params)
            logits_BK, seen = net(params, views_BHWC, masks)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits_BK, batch['label'])
            return towers.total_over_data(losses.sum()) / batch_size, (logits_BK, seen)

        (value, (logits_BK, seen)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, velocity = update.update(
            gradients, state.velocity, state.params, learning_rate=rates
        )
        right = towers.total_over_data(credit(logits_BK, batch['label'], 1).sum())
        params: Any = optax.apply_updates(state.params, updates)
        params = batch_normalization.remember(params, seen, config.model.batch_normalization.memory)
        return State(state.step + 1, params, velocity), {
            'loss': value,
            'top1_error': 1 - right / batch_size,
        }

    return step
