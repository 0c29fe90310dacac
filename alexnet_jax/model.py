"""The eight layers, from one GPU's point of view (§3.5, Figure 2).

Letters in names: B images, H rows, W columns, I maps (or units) in, O maps (or units) out, T towers
(inside the step, the towers that live on this device), K classes.

A layer takes and returns a list with one array per tower on this device. Where its input is
`exchange(...)`, it reads the maps of all towers; else its own tower's alone. Count the exchanges:
conv3, fc6, fc7, and the sum in fc8.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from alexnet_jax import config as settings
from alexnet_jax.convolution import convolution, convolved_size
from alexnet_jax.errors import UserError
from alexnet_jax.normalization import response_normalization
from alexnet_jax.normalized_pooling import normalized_pooling
from alexnet_jax.pooling import max_pooling, pooled_size
from alexnet_jax.towers import combine, exchange, own_part, shown_to_all

CHANNELS = 3

# Where initial weights come from. Drawn on the host, which needs no compilation (with JAX's own
# generator it took 16 s on two cores); None leaves them zero, where shapes alone matter.
Rng = np.random.Generator | None


class Convolution(nnx.Module):
    """A convolution per tower and what follows it: ReLU, response normalization, max-pooling."""

    def __init__(self, name: str, model: settings.Model, maps_in: int, *, rng: Rng) -> None:
        layer = model.convolutions()[name]
        towers, maps = model.towers, model.widened(layer.maps)
        self.layer, self.norm, self.pool = layer, model.response_normalization, model.max_pooling
        shape = (towers, layer.kernel, layer.kernel, maps_in, maps)
        self.kernel_THWIO = nnx.Param(_gaussian(rng, shape, model.initial_std(layer)))
        self.bias_TO = nnx.Param(np.full((towers, maps), layer.bias, np.float32))

    def __call__(self, maps: list[Array]) -> list[Array]:
        """(B, H, W, I) to (B, H, W, O) for each tower here."""
        kernel_THWIO, bias_TO = like(maps[0], self.kernel_THWIO, self.bias_TO)
        return [
            self._then(
                convolution(x_BHWI, kernel_THWIO[t], self.layer.stride, self.layer.padding)
                + bias_TO[t][None, None, None, :]
            )
            for t, x_BHWI in enumerate(maps)
        ]

    def _then(self, x: Array) -> Array:
        then, n = self.layer.then, self.norm
        norm, pool = (n.size, n.k, n.alpha, n.beta), (self.pool.window, self.pool.stride)
        for before, operation, after in zip((None, *then), then, (*then[1:], None), strict=False):
            rectify = before == 'relu'  # which takes no pass of its own there
            match before, operation, after:
                case _, 'relu', 'response_normalization':
                    pass
                case _, 'relu', _:
                    x = jax.nn.relu(x)
                case _, 'response_normalization', 'max_pooling':
                    x = normalized_pooling(x, *norm, *pool, rectify=rectify)
                case _, 'response_normalization', _:
                    x = response_normalization(x, *norm, rectify=rectify)
                case 'response_normalization', 'max_pooling', _:
                    pass
                case _, 'max_pooling', _:
                    x = max_pooling(x, *pool)
        return x


class Hidden(nnx.Module):
    """A fully-connected layer per tower, ReLU and dropout (§4.2)."""

    def __init__(self, name: str, model: settings.Model, units_in: int, *, rng: Rng) -> None:
        layer = model.hidden()[name]
        towers, units = model.towers, model.widened(layer.units)
        self.layer, self.number, self.towers = layer, int(name.removeprefix('fc')), towers
        std = model.initial_std(layer)
        self.kernel_TIO = nnx.Param(_gaussian(rng, (towers, units_in, units), std))
        self.bias_TO = nnx.Param(np.full((towers, units), layer.bias, np.float32))

    def __call__(self, units: list[Array], masks: 'Masks | None') -> list[Array]:
        """(B, I) to (B, O) for each tower here."""
        kernel_TIO, bias_TO = like(units[0], self.kernel_TIO, self.bias_TO)
        out = [jax.nn.relu(x_BI @ kernel_TIO[t] + bias_TO[t][None]) for t, x_BI in enumerate(units)]
        return dropout(out, self.layer.dropout, self.number, self.towers, masks)


class Output(nnx.Module):
    """The layer before the softmax: the towers' partial products, summed."""

    def __init__(self, model: settings.Model, units_in: int, classes: int, *, rng: Rng) -> None:
        shape = (model.towers, units_in, classes)
        self.kernel_TIK = nnx.Param(_gaussian(rng, shape, model.initial_std(model.fc8)))
        self.bias = nnx.Param(np.full((classes,), model.fc8.bias, np.float32))

    def __call__(self, units: list[Array]) -> Array:
        """(B, I) for each tower here to (B, K), the same on every device."""
        (kernel_TIK,) = like(units[0], self.kernel_TIK)
        partial = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        logits_BK = combine([partial(x_BI, kernel_TIK[t]) for t, x_BI in enumerate(units)])
        return logits_BK + self.bias[...][None]


def like(x: Array, *params: nnx.Param) -> list[Array]:
    """The parameters in the dtype of the activations that they meet."""
    return [param[...].astype(x.dtype) for param in params]


class AlexNet(nnx.Module):
    """The towers that live on one device, in step with those that do not."""

    def __init__(self, config: settings.Config, *, rng: Rng) -> None:
        model = config.model
        self.dtype = model.dtype
        towers, rows = model.towers, {row.name: row for row in layer_table(config)}

        def conv(name: str, maps_in: int) -> Convolution:
            return Convolution(name, model, maps_in, rng=rng)

        self.conv1 = conv('conv1', CHANNELS)
        self.conv2 = conv('conv2', rows['conv1'].maps)
        self.conv3 = conv('conv3', rows['conv2'].maps * towers)
        self.conv4 = conv('conv4', rows['conv3'].maps)
        self.conv5 = conv('conv5', rows['conv4'].maps)
        flat = rows['conv5'].maps * rows['conv5'].pooled ** 2
        self.fc6 = Hidden('fc6', model, flat * towers, rng=rng)
        self.fc7 = Hidden('fc7', model, rows['fc6'].maps * towers, rng=rng)
        self.fc8 = Output(model, rows['fc7'].maps, config.dataset.classes, rng=rng)

    def __call__(self, images_BHWC: Array, masks: 'Masks | None' = None) -> Array:
        """Class scores.

        Args:
          images_BHWC: float32 images, mean subtracted, on the scale of 0 to 255.
          masks: where training draws its dropout masks from; None at test time.

        Returns:
          (B, K) float32 logits, the same for all towers.
        """
        images_BHWC = images_BHWC.astype(self.dtype)
        maps = self.conv1(shown_to_all(images_BHWC, len(self.conv1.kernel_THWIO[...])))
        maps = self.conv2(maps)
        maps = self.conv3(exchange(maps))
        maps = self.conv4(maps)
        maps = self.conv5(maps)
        units = [x.reshape(len(x), -1) for x in maps]
        units = self.fc6(exchange(units), masks)
        units = self.fc7(exchange(units), masks)
        return self.fc8(units)


@dataclasses.dataclass(frozen=True)
class Masks:
    """Draws dropout masks that depend on the key, layer, tower and image; not on where they are.

    Attributes:
      key: of this training step.
      images: in the whole batch.
    """

    key: Array
    images: int

    def draw(self, layer: int, towers: int, units: int, keep: float) -> Array:
        """(towers here, images here, units) bool, True with probability `keep`.

        Every device draws for the whole net and batch and takes its part; each number follows from
        its place alone, so what is not taken is not computed.
        """
        key = jax.random.fold_in(self.key, layer)
        everywhere = jax.random.bernoulli(key, keep, (towers, self.images, units))
        return own_part(everywhere)


def dropout(
    units: list[Array], rate: float, layer: int, towers: int, masks: Masks | None
) -> list[Array]:
    """Each output zero with probability `rate` in training, times 1 - rate at test (§4.2).

    Args:
      units: for each tower here, (images here, units).
      layer: its number, so that layers do not share masks.
      towers: in the whole net.
    """
    if rate == 0:
        return units
    if masks is None:
        return [x * (1 - rate) for x in units]
    drawn = masks.draw(layer, towers, units[0].shape[1], 1 - rate)
    return [
        jnp.where(mask, x, jnp.zeros((), x.dtype)) for mask, x in zip(drawn, units, strict=True)
    ]


def _gaussian(rng: Rng, shape: tuple[int, ...], std: float) -> Array | np.ndarray:
    if rng is None:
        return jnp.zeros(shape, jnp.float32)
    return np.float32(std) * rng.standard_normal(shape, np.float32)


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of the net, as the paper's Figure 2 annotates it."""

    name: str
    size: int  # pixels across, before pooling
    pooled: int  # pixels across, after pooling
    maps: int  # or units, of one tower; of fc8, the classes
    parameters: int  # of all towers
    crossing: int  # values per image that a tower's device sends to each other one, forward


def layer_table(config: settings.Config) -> list[Row]:
    """Sizes of all layers, from the settings alone.

    Raises:
      UserError: the crop is too small for the layers.
    """
    model, towers = config.model, config.model.towers
    rows, size, maps_in = [], config.augmentation.crop, CHANNELS
    for name, layer in model.convolutions().items():
        size_in = size
        if size + 2 * layer.padding < 1:
            raise UserError(f'augmentation.crop={config.augmentation.crop} is too small')
        size = convolved_size(size, layer.kernel, layer.stride, layer.padding)
        if size < 1:
            raise UserError(
                f'augmentation.crop={config.augmentation.crop} is too small: nothing is left of it '
                f'at {name}'
            )
        pooled = size
        if 'max_pooling' in layer.then:
            pooled = pooled_size(size, model.max_pooling.window, model.max_pooling.stride)
        maps = model.widened(layer.maps)
        crossing = size_in**2 * maps_in if name == 'conv3' else 0
        reads = maps_in * (towers if name == 'conv3' else 1)
        parameters = towers * (layer.kernel**2 * reads * maps + maps)
        rows.append(Row(name, size, pooled, maps, parameters, crossing))
        size, maps_in = pooled, maps
    units_in = size**2 * maps_in
    for name, dense in model.hidden().items():
        units = model.widened(dense.units)
        parameters = towers * (units_in * towers * units + units)
        rows.append(Row(name, 1, 1, units, parameters, units_in))
        units_in = units
    classes = config.dataset.classes
    rows.append(Row('fc8', 1, 1, classes, towers * units_in * classes + classes, classes))
    return rows


def parameter_count(config: settings.Config) -> int:
    """All weights and biases of the net."""
    return sum(row.parameters for row in layer_table(config))


def initialize(config: settings.Config) -> dict[str, Any]:
    """The initial parameters: nested dict of float32 arrays on the host, a function of the seed.

    Weights are Gaussian with mean 0, biases constant (§5). Every array but fc8's bias begins with
    the axis of towers.
    """
    net = AlexNet(config, rng=np.random.default_rng(config.seed))
    return nnx.to_pure_dict(nnx.state(net, nnx.Param))


def shapes(config: settings.Config) -> dict[str, Any]:
    """The shapes and dtypes of the parameters."""
    return nnx.to_pure_dict(nnx.state(_abstract(config), nnx.Param))


def graph(config: settings.Config) -> nnx.GraphDef[AlexNet]:
    """The net without its parameters, for `apply`."""
    return nnx.split(_abstract(config))[0]


def _abstract(config: settings.Config) -> AlexNet:
    return nnx.eval_shape(lambda: AlexNet(config, rng=None))


def apply(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, masks: Masks | None = None
) -> Array:
    """`AlexNet.__call__` as a pure function of the parameters on this device."""
    return nnx.merge(graph, params)(images_BHWC, masks)
