"""The operations that follow a convolution: ReLU, normalization, pooling (§3.1, §3.3, §3.4)."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config import model_schema
from alexnet_jax.model.towers import extend
from alexnet_jax.ops.convolution import relu_with_convolution
from alexnet_jax.ops.formula import add_bias
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.max_pooling import RECOMPUTED
from alexnet_jax.ops.normalized_pooling import normalized_pooling, pooling
from alexnet_jax.ops.response_normalization import response_normalization
from alexnet_jax.ops.spatial_normalization import spatial_normalization

NONLINEARITIES = {'relu': jax.nn.relu, 'tanh': jnp.tanh}
POOLED = ('relu', 'response_normalization', 'max_pooling')  # one kernel on GPUs and TPUs


@dataclasses.dataclass(frozen=True)
class Operations:
    """The operations that follow a convolution, in order.

    Attributes:
      names: the operations, as in the setting `then`.
      constants: the name and the constants of each operation that has constants.
      crosses: whether response normalization also reads maps of the neighbouring towers.
      platform: the platform that the program is compiled for; None for JAX's default.
      implementation: None, 'jax', 'pallas' or 'mosaic_gpu': see ops/implementations.py.
      follow_convolution: whether nothing but a bias lies between a convolution and them.
      follow_normalization: whether batch normalization comes before them.
    """

    names: tuple[str, ...]
    constants: tuple[tuple[str, tuple], ...]
    crosses: bool = False
    platform: Platform | None = None
    implementation: str | None = None
    follow_convolution: bool = False
    follow_normalization: bool = False

    @classmethod
    def of_layer(
        cls,
        names: tuple[str, ...],
        model: model_schema.Model,
        platform: Platform | None = None,
        follow_convolution: bool = False,
        follow_normalization: bool = False,
    ) -> 'Operations':
        """Returns the operations of a layer with the constants that they need."""
        norm = model.response_normalization
        constants = {
            'response_normalization': (norm.size, norm.k, norm.alpha, norm.beta),
            'spatial_normalization': dataclasses.astuple(model.spatial_normalization),
            'max_pooling': dataclasses.astuple(model.max_pooling),
        }
        used = tuple((name, constants[name]) for name in constants if name in names)
        crosses = model.towers > 1 and norm.reads == 'all'
        return cls(
            names,
            used,
            crosses,
            platform,
            follow_convolution=follow_convolution,
            follow_normalization=follow_normalization,
        )

    def __call__(self, maps: Iterable[Array], biases: Iterable[Array] | None = None) -> list[Array]:
        """Applies the operations to the maps of each tower on this device.

        Args:
          maps: (B, H, W, O) for each tower.
          biases: for each tower, a float32 array of four axes that is rounded to the dtype of the
            maps and added before the first operation; None for no bias.

        Raises:
          ValueError: an operation is unknown.
        """
        pairs = zip(maps, itertools.repeat(None) if biases is None else biases, strict=False)
        if not self.crosses:
            return [self._apply(self.names, x, bias) for x, bias in pairs]
        maps = [add_bias(x, bias) for x, bias in pairs]
        for name in self.names:
            if name == 'response_normalization':
                maps = self._normalize_across_towers(maps)
            else:
                maps = [self._apply((name,), x) for x in maps]
        return maps

    def _normalize_across_towers(self, maps: list[Array]) -> list[Array]:
        """Normalizes as one tower that holds the maps of all, in order."""
        size, *constants = dict(self.constants)['response_normalization']
        before, own = size // 2, maps[0].shape[-1]
        options = dict(platform=self.platform, implementation=self.implementation)
        extended = extend(maps, before, size - 1 - before)
        normalized = (response_normalization(x, size, *constants, **options) for x in extended)
        return [x[..., before : before + own] for x in normalized]

    def _joins_convolution(self) -> bool:
        """Returns whether cuDNN can compute the first operation, a ReLU, with the convolution."""
        return self.follow_convolution and Platform.or_default(self.platform).name == 'gpu'

    def _apply(self, names: tuple[str, ...], x_BHWO: Array, bias: Array | None = None) -> Array:
        """Adds a bias to the maps of one tower, and applies the operations in order.

        A ReLU before response normalization is computed in the same pass, and so is pooling after
        it where the platform has a kernel for both. `normalized_pooling` also sums the gradient of
        a bias that is the same for all pixels; any other bias is added here.
        """
        x, constants = x_BHWO, dict(self.constants)
        options: dict[str, Any] = dict(platform=self.platform, implementation=self.implementation)
        pooling_options = options | {'tolerance': RECOMPUTED if self.follow_normalization else 0.0}
        takes_bias = names[:3] == POOLED or names[:2] == POOLED[1:]
        if bias is not None and not (takes_bias and bias.size == x.shape[-1]):
            x, bias = add_bias(x, bias), None
        while names:
            match names:
                case 'relu', 'response_normalization', 'max_pooling', *rest:
                    norm, pool = constants['response_normalization'], constants['max_pooling']
                    x = normalized_pooling(
                        x, *norm, *pool, bias_111C=bias, rectify=True, **pooling_options
                    )
                case 'relu', 'response_normalization', *rest:
                    norm = constants['response_normalization']
                    x = response_normalization(x, *norm, rectify=True, **options)
                case 'response_normalization', 'max_pooling', *rest:
                    norm, pool = constants['response_normalization'], constants['max_pooling']
                    x = normalized_pooling(x, *norm, *pool, bias_111C=bias, **pooling_options)
                case 'response_normalization', *rest:
                    x = response_normalization(x, *constants['response_normalization'], **options)
                case 'spatial_normalization', *rest:
                    x = spatial_normalization(x, *constants['spatial_normalization'])
                case 'max_pooling', *rest:
                    x = pooling(x, *constants['max_pooling'], **pooling_options)
                case 'global_average_pooling', *rest:
                    x = x.mean((1, 2), keepdims=True)
                case 'relu', *rest if names == self.names and self._joins_convolution():
                    x = relu_with_convolution(x)
                case ('relu' | 'tanh') as name, *rest:
                    x = NONLINEARITIES[name](x)
                case _:
                    raise ValueError(f'{names[0]!r} after a convolution is not implemented')
            names, bias = tuple(rest), None
        return x
