"""What a step must at least take on a device: counted operations and bytes over its measured peaks.

Counted once each: reading and writing of every layer's maps as the layers stand in the paper (a
convolution with its bias and ReLU is one pass, response normalization and pooling one each;
backward likewise, and a convolution reads its input and its cotangent twice), reading the weights
forward and backward, and the update, which reads gradient, velocity and weights and writes the last
two. Arithmetic and memory are taken not to overlap, so a device that overlaps them can be faster.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from measuring import measure

from alexnet_jax.config import schema
from alexnet_jax.model.layer_table import CHANNELS, layer_table, parameter_count

# Floating-point operations per image: two for each multiply-add of a convolution or matrix product.
# Training does three times the forward pass's, less the gradient by the image.
GFLOP = {'forward': 1.449, 'gradient': 4.136, 'step': 4.136}


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Of one device, as measured here.

    Attributes:
      flops: per second, of a large matrix product in the dtype.
      bandwidth: bytes per second read and written, of y = x + 1.
    """

    flops: float
    bandwidth: float


def measure_peaks(dtype: str) -> Peaks:
    """The best of several repetitions."""
    on_cpu = jax.default_backend() == 'cpu'
    size, elements = (2048, 2**25) if on_cpu else (8192, 2**29)
    a = jnp.ones((size, size), dtype)
    x = jnp.ones((elements,), dtype)
    product, increment = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + jnp.ones((), x.dtype))
    return Peaks(
        flops=2 * size**3 / _fastest(lambda: product(a)),
        bandwidth=2 * x.nbytes / _fastest(lambda: increment(x)),
    )


def _fastest(run: Callable[[], jax.Array]) -> float:
    return min(measure({'': lambda: jax.block_until_ready(run())}, repeats=9)[''])


def counted_bytes(config: schema.Config, what: str) -> tuple[int, int]:
    """Bytes for each image, and for each step whatever the batch."""
    size = jnp.dtype(config.model.dtype).itemsize
    towers, forward, backward = config.model.towers, 0, 0
    came = config.augmentation.crop**2 * CHANNELS
    for row in layer_table(config):
        layer = config.model.convolutions().get(row.name)
        maps, pooled = (n**2 * row.maps * towers for n in (row.size, row.pooled))
        forward += came + maps
        backward += 2 * maps + came + (came if row.name != 'conv1' else 0)
        if layer and 'response_normalization' in layer.then:
            forward, backward = forward + 2 * maps, backward + 3 * maps
        if layer and 'max_pooling' in layer.then:
            forward, backward = forward + maps + pooled, backward + 2 * maps + 2 * pooled
        came = pooled
    weights = parameter_count(config)
    read = weights * size
    if what == 'forward':
        return forward * size, read
    update = 5 * 4 * weights if what == 'step' else 0
    return (forward + backward) * size, 2 * read + 4 * weights + update


def bound(config: schema.Config, what: str, batch: int, peaks: Peaks) -> float:
    """Seconds for a batch."""
    each, whole = counted_bytes(config, what)
    memory = (each * batch + whole) / peaks.bandwidth
    return GFLOP[what] * 1e9 * batch / peaks.flops + memory
