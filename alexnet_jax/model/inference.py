"""The net at test time, compiled for one view of the images at a time (§4.1)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, towers

# From parameters, mean image, images (B, size, size, 3) uint8, and a view of them, to an array with
# one row for each image.
ViewFunction = Callable[[Any, Array, Array, augmentation.View], Array]


def test_views(config: Config) -> list[augmentation.View]:
    """Returns the views that a run is evaluated with, the centre crop first (§4.1)."""
    return first_views(config, config.views)


def first_views(config: Config, number: int) -> list[augmentation.View]:
    """Returns 1, 5 or 10 views: the centre crop, the corners, the horizontal flips (§4.1)."""
    size, crop = config.dataset.image_size, config.augmentation.crop
    return augmentation.test_views(size, crop, number > 5)[:number]


@functools.cache
def make_log_probabilities(
    config: Config, mesh: jax.sharding.Mesh, at_test_time: bool = True
) -> ViewFunction:
    """Compiles the net up to the logarithm of the softmax, (B, K) float32.

    Args:
      config: the settings of the run.
      mesh: the devices.
      at_test_time: whether convolutions have the fastest form; if not, that of training.
    """
    graph = alexnet.graph(config, mesh, at_test_time)

    def log_probabilities(params: Any, views_BHWC: Array) -> Array:
        return jax.nn.log_softmax(alexnet.apply(graph, params, views_BHWC))

    return _compile(config, mesh, log_probabilities, towers.spec(mesh, 'images'))


@jax.jit
def mean_of_views(log_p_VBK: Sequence[Array]) -> Array:
    """Computes the logarithm of the mean softmax over the views (§4.1).

    Probabilities that float32 would round to 0 keep their order, unlike in a mean of probabilities.

    Args:
      log_p_VBK: (B, K) float32 for each view, the logarithm of the softmax.

    Returns:
      (B, K) float32; with one view, its values.
    """
    if len(log_p_VBK) == 1:
        return log_p_VBK[0]
    total_BK = functools.reduce(jnp.logaddexp, log_p_VBK)
    return jnp.minimum(total_BK - math.log(len(log_p_VBK)), 0.0)  # above 0 by rounding alone


@functools.cache
def make_hidden(config: Config, mesh: jax.sharding.Mesh, layer: str | None = None) -> ViewFunction:
    """Compiles the net up to a layer, by default the last hidden one (§6.1).

    Returns:
      A function to (B, units of all towers) or (B, H, W, maps of all towers) float32.
    """
    graph = alexnet.graph(config, mesh, at_test_time=True)

    def hidden(params: Any, views_BHWC: Array) -> Array:
        outputs = alexnet.apply_hidden(graph, params, views_BHWC, layer)
        return jnp.concatenate(outputs, axis=-1).astype(jnp.float32)

    space = (None, None) if layer in config.model.convolutions() else ()
    return _compile(config, mesh, hidden, towers.partition(mesh, towers.DATA, *space, towers.TOWER))


def _compile(
    config: Config,
    mesh: jax.sharding.Mesh,
    net: Callable[[Any, Array], Array],
    out_spec: jax.sharding.PartitionSpec,
) -> ViewFunction:
    images, replicated = towers.spec(mesh, 'images'), towers.spec(mesh, 'constants')
    crop, deviations = config.augmentation.crop, config.augmentation.deviations

    in_specs = (alexnet.partitions(config, mesh), replicated, images, *[replicated] * 3)

    def view_function(
        params: Any, mean: Array, images_BHWC: Array, top: Array, left: Array, mirrored: Array
    ) -> Array:
        views = augmentation.take_view(images_BHWC, mean, crop, top, left, mirrored, deviations)
        return net(params, views)

    compute = towers.compile_program(view_function, config, mesh, in_specs, out_spec)

    def of_view(params: Any, mean: Array, images_BHWC: Array, view: augmentation.View) -> Array:
        top, left = jnp.int32(view.top), jnp.int32(view.left)
        return compute(params, mean, images_BHWC, top, left, view.mirrored)

    return of_view
