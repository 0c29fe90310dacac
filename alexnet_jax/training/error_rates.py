"""Top-1 and top-5 error, on the centre crop and averaged over views (§4.1, §6)."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.data.loader import Batch
from alexnet_jax.model import alexnet, towers

TOP = (1, 5)


def credit(scores_BK: Array, labels_B: Array, top: int) -> Array:
    """Which images have their label among the `top` highest scores; (B,) float32 of 0 to 1.

    Labels that tie for the last places share them (2012: layer_kernels.cu:96), so constant scores
    earn what guessing would. Scores that are no numbers earn nothing.
    """
    own = jnp.take_along_axis(scores_BK, labels_B[:, None], axis=1)
    above = (scores_BK > own).sum(axis=1)
    equal = (scores_BK == own).sum(axis=1)
    places = jnp.clip(top - above, 0, equal)
    return places.astype(jnp.float32) / jnp.maximum(equal, 1).astype(jnp.float32)


class Errors(NamedTuple):
    """What is wrong of a number of images, as fractions; `loss` in nats."""

    images: int
    top1: float
    top5: float
    loss: float


def credits_of(p_NK: np.ndarray, labels_N: np.ndarray) -> dict[int, np.ndarray]:
    """For each of TOP, (N,) float32: see `credit`."""
    return {top: np.asarray(_credit(p_NK, labels_N, top)) for top in TOP}


def errors(p_NK: np.ndarray, labels_N: np.ndarray) -> Errors:
    """Of probabilities, (N, K) float32. One that is 0 counts as the least there is."""
    right = credits_of(p_NK, labels_N)
    own = np.take_along_axis(p_NK, labels_N[:, None], axis=1)
    loss = -np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean(dtype=np.float64)
    top1, top5 = (1 - float(right[top].mean(dtype=np.float64)) for top in TOP)
    return Errors(len(labels_N), top1, top5, float(loss))


def interval(error: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an error that was measured on so many images."""
    z = 1.959964
    shrink = 1 + z * z / images
    middle = (error + z * z / (2 * images)) / shrink
    spread = error * (1 - error) / images + (z / (2 * images)) ** 2
    half = z / shrink * math.sqrt(max(0.0, spread))
    return max(0.0, middle - half), min(1.0, middle + half)


def test_views(config: Config) -> list[augmentation.View]:
    """The test views of a run's images, the centre first (§4.1)."""
    size, views = config.dataset.image_size, config.augmentation
    return augmentation.test_views(size, views.crop, views.mirror)[: config.views]


_credit = jax.jit(credit, static_argnums=2)

# (parameters, mean image, images (B, size, size, 3) uint8, view) to an array with a row per image.
Look = Callable[[Any, Array, Array, augmentation.View], Array]


def make_log_probabilities(config: Config, mesh: jax.sharding.Mesh) -> Look:
    """Compiles the net at test time: the log of the softmax for one view, (B, K) float32."""
    graph = alexnet.graph(config)

    def log_probabilities(params: Any, views_BHWC: Array) -> Array:
        return jax.nn.log_softmax(alexnet.apply(graph, params, views_BHWC))

    return _make_look(config, mesh, log_probabilities, towers.spec(mesh, 'images'))


def make_last_hidden(config: Config, mesh: jax.sharding.Mesh) -> Look:
    """Compiles the net up to its last hidden layer, (B, units of all towers) float32 (§6.1)."""
    graph = alexnet.graph(config)

    def last_hidden(params: Any, views_BHWC: Array) -> Array:
        units = alexnet.apply_hidden(graph, params, views_BHWC)
        return jnp.concatenate(units, axis=1).astype(jnp.float32)

    return _make_look(config, mesh, last_hidden, towers.spec_of_units(mesh))


def _make_look(
    config: Config,
    mesh: jax.sharding.Mesh,
    net: Callable[[Any, Array], Array],
    out_spec: jax.sharding.PartitionSpec,
) -> Look:
    params_specs = towers.specs(mesh, alexnet.shapes(config))
    images, everywhere = towers.spec(mesh, 'images'), towers.spec(mesh, 'step')
    crop = config.augmentation.crop

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(params_specs, everywhere, images, everywhere, everywhere, everywhere),
        out_specs=out_spec,
    )
    def of_place(
        params: Any, mean: Array, images_BHWC: Array, top: Array, left: Array, mirrored: Array
    ) -> Array:
        return net(params, augmentation.take_view(images_BHWC, mean, crop, top, left, mirrored))

    def look(params: Any, mean: Array, images_BHWC: Array, view: augmentation.View) -> Array:
        return of_place(
            params, mean, images_BHWC, jnp.int32(view.top), jnp.int32(view.left), view.mirrored
        )

    return look


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
        for top in TOP:
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
