"""The trained net at test time, compiled for one view of the images (§4.1)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.data import augmentation
from alexnet_jax.model import alexnet, towers


def test_views(config: Config) -> list[augmentation.View]:
    """The test views of a run's images, the centre first (§4.1)."""
    size, views = config.dataset.image_size, config.augmentation
    return augmentation.test_views(size, views.crop, views.mirror)[: config.views]


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
