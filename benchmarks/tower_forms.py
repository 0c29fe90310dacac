"""Other ways to run the towers that share a device, to time them beside ours.

The net runs them one after the other ('unrolled'). Here a convolutional layer runs all of them at
once: as a grouped convolution, or mapped over by `jax.vmap` (which JAX turns into a grouped
convolution, too). In the form 'blocks' the towers are unrolled, but a convolution with a stride
reads each block of stride x stride pixels as one pixel with more maps. The parameters, their shapes
and the logits are the same.

The convolutional layers are written out here a second time, from the public operations, so that
nothing in the package has to be replaced; the fully-connected layers are the net's own. They cover
what the paper's layers need.
tests/benchmarks/test_tower_forms.py compares its logits and gradients with the net's.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from alexnet_jax.config import model_schema, schema
from alexnet_jax.model import alexnet
from alexnet_jax.model.dropout import Masks
from alexnet_jax.model.layers import steps
from alexnet_jax.model.operations import Operations
from alexnet_jax.ops.convolution import (
    LAYOUT,
    Steps,
    convolution,
    convolved_size,
    fold,
    fold_kernel,
)

OURS = 'unrolled'

# Parameters on this device, images with the mean subtracted, and where the dropout masks come from
# (None at test time), to logits.
Apply = Callable[[Any, Array, Masks | None], Array]

# The maps of each tower, kernel (T, H, W, I, O), bias (T, O) and the layer's settings, to the maps
# of each tower. Where all towers are given the same array, they are connected to all maps.
Layer = Callable[
    [list[Array], Array, Array, model_schema.Convolution, model_schema.Model], list[Array]
]


def make_apply(form: str, config: schema.Config) -> Apply:
    """Returns the net as a pure function, with its towers run in this form.

    Args:
      form: one of FORMS.
      config: the settings; all towers are on one device, except in the form 'unrolled'.
    """
    if form == OURS:
        return functools.partial(alexnet.apply, alexnet.graph(config))
    return functools.partial(_logits, config, LAYERS[form])


def _logits(
    config: schema.Config, layer: Layer, params: Any, images_BHWC: Array, masks: Masks | None
) -> Array:
    """Computes the logits, (B, K) float32, as `AlexNet.__call__` does on one device."""
    model, net = config.model, nnx.merge(alexnet.graph(config), params)
    dtype = jnp.dtype(model.dtype)
    if model.response_normalization.reads == 'all':
        raise ValueError('the forms of the towers normalize over the maps of one tower')
    maps = [images_BHWC.astype(dtype)] * model.towers
    for number, (name, settings) in enumerate(model.convolutions().items()):
        if not settings.shared or settings.batch_normalization:
            raise ValueError(f'{name}: the forms of the towers cover plain convolutions only')
        if number and settings.reads == 'all':
            maps = _exchange(maps)
        kernel_THWIO = params[name]['kernel_THWIO'].astype(dtype)
        maps = layer(maps, kernel_THWIO, params[name]['bias_TO'].astype(dtype), settings, model)
    units = [x.reshape(len(x), -1) for x in maps]
    for name in net.dense_layers:
        units = getattr(net, name)(units, masks)
    return net.fc8(units)


def _exchange(own: list[Array]) -> list[Array]:
    """Returns for each tower the same array: the maps of all towers in order."""
    return [jnp.concatenate(own, axis=-1)] * len(own)


def _blocks(
    maps: list[Array],
    kernel_THWIO: Array,
    bias_TO: Array,
    settings: model_schema.Convolution,
    model: model_schema.Model,
) -> list[Array]:
    """Convolves conv1 in blocks of 4 x 4 pixels: 48 maps instead of 3.

    Tensor cores multiply 8 or 16 maps at a time, so cuDNN pads 3 maps with zeros. In blocks, the
    kernel of 11 x 11 pixels is padded to 12 x 12, which is 19 % more multiplications. XLA writes
    the views as blocks in the kernel that crops them, so a step has the same bytes and launches.
    """
    operations = Operations.of_layer(settings.then, model)
    sums = []
    for x_BHWI, kernel_HWIO in zip(maps, kernel_THWIO, strict=True):
        if settings.stride == 1:
            sums.append(convolution(x_BHWI, kernel_HWIO, *steps(settings)))
            continue
        rows, columns = (
            convolved_size(n, settings.kernel, *steps(settings)) for n in x_BHWI.shape[1:3]
        )
        sums.append(
            lax.conv_general_dilated(
                fold(x_BHWI, kernel_HWIO, Steps(*steps(settings)), (rows, columns)),
                fold_kernel(kernel_HWIO, settings.stride),
                (1, 1),
                'VALID',
                dimension_numbers=LAYOUT,
            )
        )
    return operations(y + bias_O[None, None, None] for y, bias_O in zip(sums, bias_TO, strict=True))


def _vmapped(
    maps: list[Array],
    kernel_THWIO: Array,
    bias_TO: Array,
    settings: model_schema.Convolution,
    model: model_schema.Model,
) -> list[Array]:
    operations = Operations.of_layer(settings.then, model)

    def tower(x_BHWI: Array, kernel_HWIO: Array, bias_O: Array) -> Array:
        y = convolution(x_BHWI, kernel_HWIO, *steps(settings))
        return operations([y + bias_O[None, None, None, :]])[0]

    same = all(x is maps[0] for x in maps)
    x = maps[0] if same else jnp.stack(maps)
    return [*jax.vmap(tower, in_axes=(None if same else 0, 0, 0))(x, kernel_THWIO, bias_TO)]


def _grouped(
    maps: list[Array],
    kernel_THWIO: Array,
    bias_TO: Array,
    settings: model_schema.Convolution,
    model: model_schema.Model,
) -> list[Array]:
    same = all(x is maps[0] for x in maps)
    x = maps[0] if same else jnp.concatenate(maps, axis=-1)
    stride, padding, _ = steps(settings)
    sizes = [(n, convolved_size(n, settings.kernel, *steps(settings))) for n in x.shape[1:3]]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate([*kernel_THWIO], axis=-1),
        (stride, stride),
        [(padding, (out - 1) * stride + settings.kernel - n - padding) for n, out in sizes],
        dimension_numbers=LAYOUT,
        feature_group_count=1 if same else len(maps),
    )
    y = y + bias_TO.reshape(-1)[None, None, None, :]
    operations = Operations.of_layer(settings.then, model)
    return operations(jnp.split(y, len(maps), axis=-1))


LAYERS: dict[str, Layer] = {'vmapped': _vmapped, 'grouped': _grouped, 'blocks': _blocks}
FORMS = (OURS, *LAYERS)
