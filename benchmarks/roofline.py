"""The least time that a step needs: counted operations and bytes over the device's measured peaks.

Each of these is counted once: reading and writing of every layer's maps as the layers stand in the
paper (a convolution with its bias and ReLU is one pass, response normalization and pooling one
each; backward likewise, and a convolution reads its input and its cotangent twice); reading the
weights forward and backward; and the update, which reads gradient, velocity and weights and writes
velocity and weights. Arithmetic and memory accesses are assumed not to overlap, so a device that
overlaps them can be faster.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from measuring import measure

from alexnet_jax.config import schema
from alexnet_jax.model.layer_table import CHANNELS, layer_table, parameter_count


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The rates that one device reaches, as measured here.

    Attributes:
      flops: operations per second of a large matrix product in the dtype.
      bandwidth: bytes per second, read and written, of y = x + 1.
    """

    flops: float
    bandwidth: float


def measure_peaks(dtype: str) -> Peaks:
    """Measures the rates of the first device, each as the best of several repetitions."""
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


def operations_per_image(config: schema.Config, what: str) -> int:
    """Counts floating-point operations: two for each multiply-add of a convolution or product.

    Training needs three times the forward pass, less the gradient with respect to the image.

    Args:
      config: the settings of the net.
      what: 'forward', 'gradient' or 'step'.
    """
    kernels = {name: layer.kernel for name, layer in config.model.convolutions().items()}
    forward = {
        row.name: 2 * row.size**2 * kernels.get(row.name, 1) ** 2 * row.reads * row.maps
        for row in layer_table(config)
    }
    total = sum(forward.values())
    return config.model.towers * (total if what == 'forward' else 3 * total - forward['conv1'])


def counted_bytes(config: schema.Config, what: str) -> tuple[int, int]:
    """Counts the bytes that are read and written for each image, and for each step beside them.

    Args:
      config: the settings of the net.
      what: 'forward', 'gradient' or 'step'.

    Returns:
      Bytes for each image; bytes for each step, whatever the batch size.
    """
    size = jnp.dtype(config.model.dtype).itemsize
    towers, forward, backward = config.model.towers, 0, 0
    inputs = config.augmentation.crop**2 * CHANNELS
    for row in layer_table(config):
        layer = config.model.convolutions().get(row.name)
        maps, pooled = (n**2 * row.maps * towers for n in (row.size, row.pooled))
        forward += inputs + maps
        backward += 2 * maps + inputs + (inputs if row.name != 'conv1' else 0)
        if layer and 'response_normalization' in layer.then:
            forward, backward = forward + 2 * maps, backward + 3 * maps
        if layer and 'max_pooling' in layer.then:
            forward, backward = forward + maps + pooled, backward + 2 * maps + 2 * pooled
        inputs = pooled
    weights = parameter_count(config)
    read = weights * size
    if what == 'forward':
        return forward * size, read
    update = 5 * 4 * weights if what == 'step' else 0
    return (forward + backward) * size, 2 * read + 4 * weights + update


def bound(config: schema.Config, what: str, batch: int, peaks: Peaks) -> float:
    """Returns the least time for a batch, in seconds."""
    per_image, per_step = counted_bytes(config, what)
    memory = (per_image * batch + per_step) / peaks.bandwidth
    return operations_per_image(config, what) * batch / peaks.flops + memory
