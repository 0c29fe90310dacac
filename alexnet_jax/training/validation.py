"""The test error during training (§4.1, §6)."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data.loading.loader import Batch
from alexnet_jax.model import towers
from alexnet_jax.model.inference import make_log_probabilities, mean_of_views, test_views
from alexnet_jax.ops.top_k_credit import image_results

Batches = Iterable[Batch] | Iterable[dict[str, Array]]  # on the host, or on the devices
EvaluationFunction = Callable[[Any, Array, Batches, int, int], dict[str, float]]


def make_evaluate(config: Config, mesh: jax.sharding.Mesh) -> EvaluationFunction:
    """Compiles the evaluation of a test set.

    Returns:
      `evaluate(params, mean_image, batches, number_of_views, expected)`. With one view it evaluates
      the centre crop; otherwise it also averages the softmax over the first `number_of_views` test
      views. It returns fractions and means by name: 'loss' (nats), 'top1_error' and 'top5_error' of
      the centre crop; the two errors with the prefix 'views/' if there are several views; and
      'images'. Where the outputs for an image are NaN, 'loss' is NaN and the image counts as wrong.
      It raises an AssertionError unless the batches have `expected` images.
    """
    views = test_views(config)
    # The test error decides when the learning rate falls, so a run keeps the same arithmetic in all
    # versions.
    log_probabilities = make_log_probabilities(config, mesh, at_test_time=False)
    # Each process holds the results of all images.
    measure = jax.jit(_results, out_shardings=towers.shardings(mesh, towers.spec(mesh, 'metrics')))

    def evaluate(
        params: Any, mean: Array, batches: Batches, number_of_views: int, expected: int
    ) -> dict[str, float]:
        if not 1 <= number_of_views <= len(views):
            raise ValueError(f'{number_of_views} views of {len(views)}')
        totals: dict[str, float] = {}
        for batch in batches:
            on_device = _place(mesh, batch)
            log_p = [
                log_probabilities(params, mean, on_device['image'], view)
                for view in views[:number_of_views]
            ]
            scores = {'': log_p[0]}
            if number_of_views > 1:
                scores['views/'] = mean_of_views(log_p)
            results = jax.device_get(measure(scores, on_device['label'], on_device['weight']))
            counts = results.pop('weight') > 0
            results['images'] = np.ones(len(counts), np.float32)
            for name, x in results.items():
                totals[name] = totals.get(name, 0.0) + float(x[counts].sum(dtype=np.float64))
        images = totals.pop('images', 0.0)
        if not images or images != expected:
            raise AssertionError(f'{images:g} of {expected} images were evaluated')
        return {name: x / images for name, x in totals.items()} | {'images': images}

    return evaluate


def _place(mesh: jax.sharding.Mesh, batch: Any) -> dict[str, Array]:
    """Returns a batch on the devices, where it may be already."""
    return batch if isinstance(batch['image'], Array) else towers.put_batch(mesh, batch)


def _results(scores: dict[str, Array], labels_B: Array, weight_B: Array) -> dict[str, Array]:
    """Computes the results of each image and its weight, (B,) each, by prefix and name."""
    results = {'weight': weight_B}
    for prefix, log_p_BK in scores.items():
        results |= {f'{prefix}{name}': x for name, x in image_results(log_p_BK, labels_B).items()}
    results.pop('views/loss', None)
    return results
