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

EvaluationFunction = Callable[[Any, Array, Iterable[Batch], int, int], dict[str, float]]


def make_evaluate(config: Config, mesh: jax.sharding.Mesh) -> EvaluationFunction:
    """Compiles the evaluation of a test set.

    Returns:
      `evaluate(params, mean_image, batches, number_of_views, images)`. With one view it evaluates
      the centre crop; otherwise it also averages the softmax over the first `number_of_views` test
      views. It returns fractions and means by name: 'loss' (nats), 'top1_error' and 'top5_error' of
      the centre crop; the two errors with the prefix 'views/' if there are several views; and
      'images'. It raises an AssertionError unless it counts each of `images` images once.
    """
    views = test_views(config)
    log_probabilities = make_log_probabilities(config, mesh)

    def evaluate(
        params: Any, mean: Array, batches: Iterable[Batch], number_of_views: int, expected: int
    ) -> dict[str, float]:
        totals: dict[str, float] = {}
        for batch in batches:
            on_device = towers.put_batch(mesh, batch)
            log_p = [
                log_probabilities(params, mean, on_device['image'], view)
                for view in views[:number_of_views]
            ]
            p = sum(jnp.exp(x) for x in log_p)
            sums = _sums(log_p[0], p, on_device['label'], on_device['weight'])
            for name, x in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0.0) + float(x)
        images = totals.pop('images')
        if images != expected:
            raise AssertionError(f'{images:g} of {expected} images were evaluated')
        means = {name: x / images for name, x in totals.items()}
        if number_of_views == 1:
            means = {name: x for name, x in means.items() if not name.startswith('views/')}
        return means | {'images': images}

    return evaluate


@jax.jit
def _sums(log_p_BK: Array, p_BK: Array, labels_B: Array, weight_B: Array) -> dict[str, Array]:
    """Sums losses and errors over the images of a batch whose weight is not 0."""
    own = jnp.take_along_axis(log_p_BK, labels_B[:, None], axis=1)[:, 0]
    values = {'loss': -own, 'images': jnp.ones_like(own)}
    for top in (1, 5):
        values[f'top{top}_error'] = 1 - credit(log_p_BK, labels_B, top)
        values[f'views/top{top}_error'] = 1 - credit(p_BK, labels_B, top)
    return {name: jnp.where(weight_B > 0, x, 0.0).sum() for name, x in values.items()}
