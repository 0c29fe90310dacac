"""Other ways to run the towers that live on one device, to time them beside ours.

The net runs them one after the other ('unrolled'). Here a convolutional layer does them at once: as
a grouped convolution, or mapped over by `jax.vmap` (of which JAX makes a grouped one). The layers'
results are the same; parameters keep their shapes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax.model import layers
from alexnet_jax.ops import convolution

FORMS = ('unrolled', 'vmapped', 'grouped')


@contextlib.contextmanager
def form(name: str) -> Iterator[None]:
    """Within, nets that are traced run their convolutional layers so."""
    ours = layers.Convolution.__call__
    forms: dict[str, Any] = {'vmapped': _vmapped, 'grouped': _grouped}
    layers.Convolution.__call__ = forms.get(name, ours)
    try:
        yield
    finally:
        layers.Convolution.__call__ = ours


def _vmapped(layer: layers.Convolution, maps: list[Array]) -> list[Array]:
    kernel_THWIO, bias_TO = layers.like(maps[0], layer.kernel_THWIO, layer.bias_TO)

    def tower(x_BHWI: Array, kernel_HWIO: Array, bias_O: Array) -> Array:
        spec = layer.layer
        y = convolution.convolution(x_BHWI, kernel_HWIO, spec.stride, spec.padding)
        return layer._then(y + bias_O[None, None, None, :])

    same = all(x is maps[0] for x in maps)
    x = maps[0] if same else jnp.stack(maps)
    return [*jax.vmap(tower, in_axes=(None if same else 0, 0, 0))(x, kernel_THWIO, bias_TO)]


def _grouped(layer: layers.Convolution, maps: list[Array]) -> list[Array]:
    kernel_THWIO, bias_TO = layers.like(maps[0], layer.kernel_THWIO, layer.bias_TO)
    same = all(x is maps[0] for x in maps)
    x = maps[0] if same else jnp.concatenate(maps, axis=-1)
    spec, kernel = layer.layer, jnp.concatenate([*kernel_THWIO], axis=-1)
    y = lax.conv_general_dilated(
        x,
        kernel,
        (spec.stride, spec.stride),
        convolution._pads(x, kernel, spec.stride, spec.padding),
        dimension_numbers=convolution.LAYOUT,
        feature_group_count=1 if same else len(maps),
    )
    y = y + bias_TO.reshape(-1)[None, None, None, :]
    return [layer._then(part) for part in jnp.split(y, len(maps), axis=-1)]
