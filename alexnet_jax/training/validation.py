"""The test error during training (§4.1, §6)."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data.loader import Batch
from alexnet_jax.model import towers
from alexnet_jax.model.inference import make_log_probabilities, test_views
from alexnet_jax.ops.top_k_credit import credit


def make_evaluate(
    config: Config, mesh: jax.sharding.Mesh
) -> Callable[[Any, Array, Iterable[Batch], int, int], dict[str, float]]:
    """Compiles the evaluation.

    Returns:
      `evaluate(params, mean_image, batches, views, images)`, with `views` the number of test views
      to average the softmax over, the centre alone (1) or all of them, and `images` how many there
      are: unless each is counted once, an AssertionError. Gives fractions and means under 'loss'
      (nats, centre), 'top1_error', 'top5_error' (centre), the same two with the prefix 'views/' if
      there are several, and 'images'.
    """
    views = test_views(config)
    log_probabilities = make_log_probabilities(config, mesh)

    @jax.jit
    def score(log_p_BK: Array, p_BK: Array, labels_B: Array, weight_B: Array) -> dict[str, Array]:
        own = jnp.take_along_axis(log_p_BK, labels_B[:, None], axis=1)[:, 0]
        sums = {'loss': -own, 'images': jnp.ones_like(own)}
        for top in (1, 5):
            sums[f'top{top}_error'] = 1 - credit(log_p_BK, labels_B, top)
            sums[f'views/top{top}_error'] = 1 - credit(p_BK, labels_B, top)
        return {name: jnp.where(weight_B > 0, x, 0.0).sum() for name, x in sums.items()}

    def evaluate(
        params: Any, mean: Array, batches: Iterable[Batch], number: int, expected: int
    ) -> dict[str, float]:
        totals: dict[str, float] = {}
        for batch in batches:
            on_device = towers.put_batch(mesh, batch)
            log_p = [
                log_probabilities(params, mean, on_device['image'], view) for view in views[:number]
            ]
            p = sum(jnp.exp(x) for x in log_p)
            sums = score(log_p[0], p, on_device['label'], on_device['weight'])
            for name, x in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0.0) + float(x)
        images = totals.pop('images')
        if images != expected:
            raise AssertionError(f'{images:g} of {expected} images were evaluated')
        means = {name: x / images for name, x in totals.items()}
        if number == 1:
            means = {name: x for name, x in means.items() if not name.startswith('views/')}
        return means | {'images': images}

    return evaluate
