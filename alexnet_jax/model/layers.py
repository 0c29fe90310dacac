"""The layers, from one GPU's point of view (§3.5, Figure 2)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from alexnet_jax.config import schema
from alexnet_jax.model import batch_normalization
from alexnet_jax.model.dropout import Masks, dropout
from alexnet_jax.model.layer_table import Row
from alexnet_jax.model.towers import combine, exchange
from alexnet_jax.ops.convolution import convolution, unshared_convolution
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.ops.response_normalization import response_normalization
from alexnet_jax.ops.spatial_normalization import spatial_normalization

# Where initial weights come from. Drawn on the host, which needs no compilation (with JAX's own
# generator it took 16 s on two cores); None leaves them zero, where shapes alone matter.
Rng = np.random.Generator | None


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
        if layer.batch_normalization:
            self.scale_TO = nnx.Param(np.ones((towers, maps), np.float32))
            self.average_mean_TO = nnx.BatchStat(np.zeros((towers, maps), np.float32))
            self.average_variance_TO = nnx.BatchStat(np.ones((towers, maps), np.float32))

    def __call__(self, maps: list[Array], training: bool = False) -> list[Array]:
        """(B, H, W, I) to (B, H, W, O) for each tower here."""
        if self.exchanges:
            maps = exchange(maps)
        sums = self._sums(maps)
        if self.layer.batch_normalization:
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


def _gaussian(rng: Rng, shape: tuple[int, ...], std: float) -> Array | np.ndarray:
    if rng is None:
        return jnp.zeros(shape, jnp.float32)
    return np.float32(std) * rng.standard_normal(shape, np.float32)
