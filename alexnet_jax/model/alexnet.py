"""The eight layers, from one GPU's point of view (§3.5, Figure 2).

Letters in names: B images, H rows, W columns, I maps (or units) in, O maps (or units) out, T towers
(inside the step, the towers that live on this device), K classes.

A layer takes and returns a list with one array per tower on this device. Where its settings say
reads='all' it reads `exchange(...)`, the maps of all towers; else its own tower's alone. In the
paper's net those are conv3, fc6 and fc7; in fc8 the towers' products are summed.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from alexnet_jax.config import schema
from alexnet_jax.model import batch_normalization
from alexnet_jax.model.towers import combine, exchange, own_part, shown_to_all
from alexnet_jax.ops.convolution import convolution, convolved_size, unshared_convolution
from alexnet_jax.ops.max_pooling import max_pooling, pooled_size
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.ops.response_normalization import response_normalization
from alexnet_jax.ops.spatial_normalization import spatial_normalization
from alexnet_jax.runtime.user_errors import UserError

CHANNELS = 3
FIRST = 'conv1'

# Where initial weights come from. Drawn on the host, which needs no compilation (with JAX's own
# generator it took 16 s on two cores); None leaves them zero, where shapes alone matter.
Rng = np.random.Generator | None

# What a net holds: what is learned, and what batch normalization remembers for test time.
HELD = nnx.Any(nnx.Param, nnx.BatchStat)

NONLINEARITIES = {'relu': jax.nn.relu, 'tanh': jnp.tanh}


class Convolution(nnx.Module):
    """A convolution per tower and what follows it: ReLU, response normalization, max-pooling."""

    def __init__(self, row: 'Row', model: schema.Model, *, rng: Rng) -> None:
        layer = model.convolutions()[row.name]
        towers, maps = model.towers, row.maps
        self.layer, self.model = layer, model
        self.exchanges = row.crossing > 0
        place = () if layer.shared else (row.size, row.size)
        shape = (towers, *place, layer.kernel, layer.kernel, row.reads, maps)
        kernel = nnx.Param(_gaussian(rng, shape, model.initial_std(layer)))
        if layer.shared:
            self.kernel_THWIO = kernel
        else:
            self.kernel_TYXHWIO = kernel  # Y rows and X columns of places
        self.bias_TO = nnx.Param(np.full((towers, *place, maps), layer.bias, np.float32))
        if 'batch_normalization' in layer.then:
            self.scale_TO = nnx.Param(np.ones((towers, maps), np.float32))
            self.average_mean_TO = nnx.BatchStat(np.zeros((towers, maps), np.float32))
            self.average_variance_TO = nnx.BatchStat(np.ones((towers, maps), np.float32))

    def __call__(self, maps: list[Array], training: bool = False) -> list[Array]:
        """(B, H, W, I) to (B, H, W, O) for each tower here."""
        if self.exchanges:
            maps = exchange(maps)
        sums = self._sums(maps)
        if 'batch_normalization' in self.layer.then:
            sums = self._normalized(sums, training)
        (bias_T,) = like(maps[0], self.bias_TO)
        bias = bias_T[:, None] if not self.layer.shared else bias_T[:, None, None, None]
        return [self._then(x_BHWO + b) for x_BHWO, b in zip(sums, bias, strict=True)]

    def _sums(self, maps: list[Array]) -> list[Array]:
        stride, padding = self.layer.stride, self.layer.padding
        if self.layer.shared:
            (kernel_THWIO,) = like(maps[0], self.kernel_THWIO)
            return [convolution(x, kernel_THWIO[t], stride, padding) for t, x in enumerate(maps)]
        (kernel,) = like(maps[0], self.kernel_TYXHWIO)
        return [unshared_convolution(x, kernel[t], stride, padding) for t, x in enumerate(maps)]

    def _normalized(self, sums: list[Array], training: bool) -> list[Array]:
        """By batch normalization; in training the averages become what this batch has."""
        mean_TO, variance_TO = self.average_mean_TO[...], self.average_variance_TO[...]
        if training:
            seen = [batch_normalization.moments(x_BHWO) for x_BHWO in sums]
            mean_TO, variance_TO = (jnp.stack(x) for x in zip(*seen, strict=True))
            self.average_mean_TO[...], self.average_variance_TO[...] = mean_TO, variance_TO
        scale_TO, epsilon = self.scale_TO[...], self.model.batch_normalization.epsilon
        return [
            batch_normalization.normalize(x, mean_TO[t], variance_TO[t], scale_TO[t], epsilon)
            for t, x in enumerate(sums)
        ]

    def _then(self, x: Array) -> Array:
        then, model = self.layer.then, self.model
        norm = dataclasses.astuple(model.response_normalization)
        pool = dataclasses.astuple(model.max_pooling)
        for before, operation, after in zip((None, *then), then, (*then[1:], None), strict=False):
            rectify = before == 'relu'  # which takes no pass of its own there
            match before, operation, after:
                case _, 'relu', 'response_normalization':
                    pass
                case _, 'relu' | 'tanh', _:
                    x = NONLINEARITIES[operation](x)
                case _, 'response_normalization', 'max_pooling':
                    x = normalized_pooling(x, *norm, *pool, rectify=rectify)
                case _, 'response_normalization', _:
                    x = response_normalization(x, *norm, rectify=rectify)
                case _, 'spatial_normalization', _:
                    x = spatial_normalization(x, *dataclasses.astuple(model.spatial_normalization))
                case 'response_normalization', 'max_pooling', _:
                    pass
                case _, 'max_pooling', _:
                    x = max_pooling(x, *pool)
                case _, 'global_average_pooling', _:
                    x = x.mean((1, 2), keepdims=True)
        return x


class Hidden(nnx.Module):
    """A fully-connected layer per tower, ReLU and dropout (§4.2)."""

    def __init__(self, row: 'Row', model: schema.Model, *, rng: Rng) -> None:
        layer = model.hidden()[row.name]
        self.layer, self.number = layer, int(row.name.removeprefix('fc'))
        self.towers, self.exchanges = model.towers, row.crossing > 0
        shape = (model.towers, row.reads, row.maps)
        self.kernel_TIO = nnx.Param(_gaussian(rng, shape, model.initial_std(layer)))
        self.bias_TO = nnx.Param(np.full((model.towers, row.maps), layer.bias, np.float32))

    def __call__(self, units: list[Array], masks: 'Masks | None') -> list[Array]:
        """(B, I) to (B, O) for each tower here."""
        kernel_TIO, bias_TO = like(units[0], self.kernel_TIO, self.bias_TO)
        units = exchange(units) if self.exchanges else units
        nonlinear = NONLINEARITIES[self.layer.nonlinearity]
        out = [nonlinear(x_BI @ kernel_TIO[t] + bias_TO[t][None]) for t, x_BI in enumerate(units)]
        return dropout(out, self.layer.dropout, self.number, self.towers, masks)


class Output(nnx.Module):
    """The layer before the softmax: the towers' partial products, summed."""

    def __init__(self, model: schema.Model, units_in: int, classes: int, *, rng: Rng) -> None:
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

    def __init__(self, config: schema.Config, *, rng: Rng) -> None:
        model = config.model
        self.dtype, self.convolutions = model.dtype, tuple(model.convolutions())
        self.hiddens = tuple(model.hidden())
        for row in layer_table(config):
            if row.name in self.convolutions:
                setattr(self, row.name, Convolution(row, model, rng=rng))
            elif row.name in self.hiddens:
                setattr(self, row.name, Hidden(row, model, rng=rng))
            else:
                self.fc8 = Output(model, row.reads, config.dataset.classes, rng=rng)

    def __call__(self, images_BHWC: Array, masks: 'Masks | None' = None) -> Array:
        """Class scores.

        Args:
          images_BHWC: float32 images, mean subtracted, on the scale of 0 to 255.
          masks: where training draws its dropout masks from; None at test time.

        Returns:
          (B, K) float32 logits, the same for all towers.
        """
        return self.fc8(self.hidden(images_BHWC, masks))

    def hidden(self, images_BHWC: Array, masks: 'Masks | None' = None) -> list[Array]:
        """What fc8 reads: for each tower here (B, units), as `__call__` has them."""
        towers_here = len(self.fc8.kernel_TIK[...])
        maps = shown_to_all(images_BHWC.astype(self.dtype), towers_here)
        for name in self.convolutions:
            maps = getattr(self, name)(maps, training=masks is not None)
        units = [x.reshape(len(x), -1) for x in maps]
        for name in self.hiddens:
            units = getattr(self, name)(units, masks)
        return units


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
    reads: int  # maps (or units) that one tower's layer is connected to
    maps: int  # or units, of one tower; of fc8, the classes
    parameters: int  # of all towers
    crossing: int  # values per image that a tower's device sends to each other one, forward


def layer_table(config: schema.Config) -> list[Row]:
    """Sizes of all layers, from the settings alone.

    Raises:
      UserError: the crop is too small for the layers.
    """
    model, towers = config.model, config.model.towers
    rows, size, maps_in = [], config.augmentation.crop, CHANNELS
    for name, layer in model.convolutions().items():
        crosses = towers > 1 and layer.reads == 'all' and name != FIRST
        crossing = size**2 * maps_in if crosses else 0
        reads, maps = maps_in * (towers if crosses else 1), model.widened(layer.maps)
        size, pooled = _sizes(config, name, size)
        weights = layer.kernel**2 * reads * maps + maps
        scales = maps if 'batch_normalization' in layer.then else 0
        parameters = towers * (weights * (1 if layer.shared else size**2) + scales)
        rows.append(Row(name, size, pooled, reads, maps, parameters, crossing))
        size, maps_in = pooled, maps
    units_in = size**2 * maps_in
    for name, dense in model.hidden().items():
        crosses, units = towers > 1 and dense.reads == 'all', model.widened(dense.units)
        reads = units_in * (towers if crosses else 1)
        parameters = towers * (reads * units + units)
        rows.append(Row(name, 1, 1, reads, units, parameters, units_in if crosses else 0))
        units_in = units
    classes = config.dataset.classes
    parameters = towers * units_in * classes + classes
    rows.append(Row('fc8', 1, 1, units_in, classes, parameters, classes if towers > 1 else 0))
    return rows


def _sizes(config: schema.Config, name: str, size_in: int) -> tuple[int, int]:
    """Pixels across a convolutional layer's maps, before and after pooling."""
    crop, layer = config.augmentation.crop, config.model.convolutions()[name]
    size = convolved_size(size_in, layer.kernel, layer.stride, layer.padding)
    if size_in + 2 * layer.padding < 1 or size < 1:
        raise UserError(f'augmentation.crop={crop} is too small: nothing is left of it at {name}')
    pooled, pools = size, config.model.max_pooling
    for operation in layer.then:
        if operation == 'max_pooling':
            pooled = pooled_size(pooled, pools.window, pools.stride)
        elif operation == 'global_average_pooling':
            pooled = 1
    return size, pooled


def parameter_count(config: schema.Config) -> int:
    """All weights and biases of the net."""
    return sum(row.parameters for row in layer_table(config))


def initialize(config: schema.Config) -> dict[str, Any]:
    """The initial parameters: nested dict of float32 arrays on the host, a function of the seed.

    Weights are Gaussian with mean 0, biases constant (§5). Every array but fc8's bias begins with
    the axis of towers.
    """
    net = AlexNet(config, rng=np.random.default_rng(config.seed))
    return nnx.to_pure_dict(nnx.state(net, HELD))


def shapes(config: schema.Config) -> dict[str, Any]:
    """The shapes and dtypes of the parameters."""
    return nnx.to_pure_dict(nnx.state(_abstract(config), HELD))


def graph(config: schema.Config) -> nnx.GraphDef[AlexNet]:
    """The net without its parameters, for `apply`."""
    return nnx.split(_abstract(config))[0]


def _abstract(config: schema.Config) -> AlexNet:
    return nnx.eval_shape(lambda: AlexNet(config, rng=None))


def apply(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, masks: Masks | None = None
) -> Array:
    """`AlexNet.__call__` as a pure function of the parameters on this device."""
    return nnx.merge(graph, params)(images_BHWC, masks)


def apply_training(
    graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array, masks: Masks
) -> tuple[Array, dict[str, Any]]:
    """`apply` in training, and what batch normalization has seen of this batch.

    Returns:
      The logits, and like `params` the moments of the layers that have batch normalization.
    """
    net = nnx.merge(graph, params)
    logits_BK = net(images_BHWC, masks)
    return logits_BK, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))


def apply_hidden(graph: nnx.GraphDef[AlexNet], params: Any, images_BHWC: Array) -> list[Array]:
    """`AlexNet.hidden` at test time, as a pure function of the parameters on this device."""
    return nnx.merge(graph, params).hidden(images_BHWC)
