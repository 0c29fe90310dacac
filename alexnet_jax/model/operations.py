"""The operations that follow a convolution: ReLU, normalization, pooling (§3.1, §3.3, §3.4)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax.config import model_schema
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.max_pooling import max_pooling
from alexnet_jax.ops.normalized_pooling import normalized_pooling
from alexnet_jax.ops.response_normalization import response_normalization
from alexnet_jax.ops.spatial_normalization import spatial_normalization

NONLINEARITIES = {'relu': jax.nn.relu, 'tanh': jnp.tanh}


@dataclasses.dataclass(frozen=True)
class Operations:
    """The operations that follow a convolution, in order.

    Attributes:
      names: the operations, as in the setting `then`.
      constants: the name and the constants of each operation that has constants.
      platform: the platform that the program is compiled for; None for JAX's default.
      implementation: None, 'jax' or 'pallas': see ops/implementations.py.
    """

    names: tuple[str, ...]
    constants: tuple[tuple[str, tuple], ...]
    platform: Platform | None = None
    implementation: str | None = None

    @classmethod
    def of_layer(
        cls, names: tuple[str, ...], model: model_schema.Model, platform: Platform | None = None
    ) -> 'Operations':
        """Returns the operations of a layer with the constants that they need."""
        sections = ('response_normalization', 'spatial_normalization', 'max_pooling')
        constants = tuple(
            (name, dataclasses.astuple(getattr(model, name))) for name in sections if name in names
        )
        return cls(names, constants, platform)

    def __call__(self, x_BHWO: Array) -> Array:
        """Applies the operations to the maps of one tower.

        A ReLU before response normalization is computed in the same pass, and so is pooling after
        it where one kernel can do both.

        Raises:
          ValueError: an operation is unknown.
        """
        x, names, constants = x_BHWO, self.names, dict(self.constants)
        options = dict(platform=self.platform, implementation=self.implementation)
        while names:
            match names:
                case 'relu', 'response_normalization', 'max_pooling', *rest:
                    norm, pool = constants['response_normalization'], constants['max_pooling']
                    x = normalized_pooling(x, *norm, *pool, rectify=True, **options)
                case 'relu', 'response_normalization', *rest:
                    norm = constants['response_normalization']
                    x = response_normalization(x, *norm, rectify=True, **options)
                case 'response_normalization', 'max_pooling', *rest:
                    norm, pool = constants['response_normalization'], constants['max_pooling']
                    x = normalized_pooling(x, *norm, *pool, **options)
                case 'response_normalization', *rest:
                    x = response_normalization(x, *constants['response_normalization'], **options)
                case 'spatial_normalization', *rest:
                    x = spatial_normalization(x, *constants['spatial_normalization'])
                case 'max_pooling', *rest:
                    x = max_pooling(x, *constants['max_pooling'])
                case 'global_average_pooling', *rest:
                    x = x.mean((1, 2), keepdims=True)
                case ('relu' | 'tanh') as name, *rest:
                    x = NONLINEARITIES[name](x)
                case _:
                    raise ValueError(f'{names[0]!r} after a convolution is not implemented')
            names = tuple(rest)
        return x
