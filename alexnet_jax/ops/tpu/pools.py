"""The blocks into which a TPU's kernel divides the pools of an array, and the arrays it suits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from alexnet_jax.ops.formula import LARGEST_WINDOW
from alexnet_jax.ops.max_pooling import pooled_size

SUBLANES, LANES = 8, 128  # of a vector register, in float32
# With fewer images most lanes would be empty.
FEWEST_IMAGES = LANES // 2
# Elements of a block of pixels: fewer blocks copy fewer rows between them.
BLOCK_ELEMENTS = 3 * 2**18
# Elements that one iteration of the forward kernel's loop normalizes: with fewer, instructions
# wait for each other; with more, registers do not suffice.
ITERATION_ELEMENTS = 2**15
# The vector memory that is left to the compiler.
COMPILERS_BYTES = 2 * 2**20


class Pools(NamedTuple):
    """The pools of an array, and how a kernel divides the work.

    Attributes:
      window, stride: in pixels.
      height, width: pixels per image, down and across.
      rows, columns: pools per image, down and across.
      pools: rows of pools that a grid step handles.
      maps, images: the two last axes of a block.
    """

    window: int
    stride: int
    height: int
    width: int
    rows: int
    columns: int
    pools: int
    maps: int
    images: int

    @classmethod
    def of_array(cls, x_BHWC: Array | jax.ShapeDtypeStruct, window: int, stride: int) -> 'Pools':
        """Returns the pools of an array of activations."""
        images, height, width, maps = x_BHWC.shape
        rows, columns = (pooled_size(n, window, stride) for n in (height, width))
        images = min(images, LANES)
        least = max(1, pl.cdiv(max(0, window - stride), stride), (window - 1) // stride)
        pools = max(least, BLOCK_ELEMENTS // (stride * width * _padded(maps) * LANES))
        pools = max(least, min(pools, rows))
        return cls(window, stride, height, width, rows, columns, pools, maps, images)

    @property
    def pixel_rows(self) -> int:
        """Rows of pixels that a grid step handles."""
        return self.pools * self.stride

    @property
    def grid_rows(self) -> int:
        """Grid steps per image."""
        return pl.cdiv(self.height, self.pixel_rows)

    @property
    def columns_at_once(self) -> int:
        """Columns of pixels that one iteration of the loop in `forward` normalizes."""
        return max(1, min(self.width, ITERATION_ELEMENTS // (self.maps * LANES)))

    @property
    def before(self) -> int:
        """Pools, in one direction, that begin before a block of stride pixels and reach into it."""
        return (self.window - 1) // self.stride

    @property
    def covered(self) -> tuple[int, int]:
        """Rows and columns of normalized pixels that a grid step keeps in `forward`."""
        across = (self.columns - 1) * self.stride + self.window
        return self.pixel_rows + max(0, self.window - self.stride), max(self.width, across)

    @property
    def near(self) -> tuple[int, int]:
        """Rows and columns of pools that a grid step keeps in `backward`."""
        blocks = pl.cdiv(self.width, self.stride)
        return self.before + self.pools, self.before + max(self.columns, blocks)

    def vmem_bytes(self, dtype: Any) -> int:
        """Returns the vector memory that either direction needs at most."""
        tile = _padded(self.maps) * LANES
        pixels, pools = self.pixel_rows * self.width, self.pools * self.columns
        kept = self.near[0] * self.near[1]
        forward = self.covered[0] * self.covered[1]
        blocks = 2 * (2 * pixels + 2 * pools) * jnp.dtype(dtype).itemsize
        return tile * max(blocks + 2 * kept * 4, blocks // 2 + forward * 4) + COMPILERS_BYTES

    def pixels_spec(self, block: Callable[[Array], Array]) -> pl.BlockSpec:
        """Describes a grid step's pixels; `block` maps the step to the number of its block."""
        return self._spec(self.pixel_rows, self.width, block)

    def pools_spec(self, block: Callable[[Array], Array]) -> pl.BlockSpec:
        """Describes a grid step's pools; beyond the last block it is the last one."""
        last = pl.cdiv(self.rows, self.pools) - 1
        return self._spec(self.pools, self.columns, lambda step: jnp.minimum(block(step), last))

    def _spec(self, rows: int, columns: int, block: Callable[[Array], Array]) -> pl.BlockSpec:
        shape = (rows, columns, self.maps, self.images)
        return pl.BlockSpec(shape, lambda image, step: (block(step), 0, 0, image))


def _padded(maps: int) -> int:
    """Returns the maps that an array of `maps` has in memory; a tile of bfloat16 has 16."""
    return pl.cdiv(maps, 16) * 16


def is_suited(
    x_BHWC: Array | jax.ShapeDtypeStruct, window: int, stride: int, vector_memory: int
) -> bool:
    """Returns whether the kernels take such an array, and use at least half of the lanes for it.

    Args:
      x_BHWC: an array of activations.
      window, stride: in pixels.
      vector_memory: what a kernel may use, in MiB.
    """
    if not x_BHWC.size or x_BHWC.shape[0] < FEWEST_IMAGES or window > LARGEST_WINDOW:
        return False
    return Pools.of_array(x_BHWC, window, stride).vmem_bytes(x_BHWC.dtype) <= vector_memory * 2**20
