"""Response normalization (§3.3) of a segment of maps, in float32, within a kernel for NVIDIA GPUs.

Pallas gives Triton no fused multiply-add, no maximum that keeps a NaN, and a reciprocal root that
first scales denormal arguments, of which there are none here. Each of these is one instruction of
PTX, so the kernels contain it as assembly. In the machine code for an H100, each S^-0.75 and its
argument then take 5 instructions in place of 13.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.pallas import triton as plgpu

from alexnet_jax.ops.formula import Formula

# Loads the maps of a range of offsets from a segment's first map, rectified where the formula says
# so; 0 where the pixel has no such map.
Load = Callable[[range], Mapping[int, Array]]


class Arithmetic(NamedTuple):
    """The formula, and the instructions that compute it.

    Attributes:
      formula: the constants.
      interpret: whether the CPU interprets the kernel: it has no assembly of a GPU.
    """

    formula: Formula
    interpret: bool

    def normalize(self, load: Load, length: int) -> list[Array]:
        """Computes the float32 results of a segment of `length` maps."""
        before, after = self.formula.before, self.formula.after
        r, squares = self._activations(load(range(-before, length + after)))
        return [r(i) * self._powers(squares(i - before))[0] for i in range(length)]

    def reach(self, length: int) -> range:
        """Returns the maps, relative to a segment's first one, whose S depends on the segment."""
        return range(-self.formula.after, length + self.formula.before)

    def pull_back(
        self, load: Load, g: Callable[[int], Array | float], length: int
    ) -> Iterator[Array]:
        """Yields each map's float32 derivative.

        Args:
          load: loads maps of x.
          g: returns the cotangent of a map in the segment's reach.
          length: maps per segment.
        """
        _, _, alpha, beta, rectify = self.formula
        before, after = self.formula.before, self.formula.after
        near = self.reach(length)
        r, squares = self._activations(load(range(near.start - before, near.stop + after)))

        @functools.cache
        def scaled_and_inner(j: int) -> tuple[Array, Array]:
            power, inverse = self._powers(squares(j - before))
            scaled = g(j) * power
            return scaled, scaled * (r(j) * inverse)  # 0 where the pixel has no map j, as r is

        mirrored = _sums(lambda j: scaled_and_inner(j)[1], self.formula.size)
        for i in range(length):
            total = mirrored(i - after)
            d_r = self._multiply_add(-2 * alpha * beta * r(i), total, scaled_and_inner(i)[0])
            yield jnp.where(r(i) > 0, d_r, 0.0) if rectify else d_r

    def _activations(
        self, x: Mapping[int, Array]
    ) -> tuple[Callable[[int], Array], Callable[[int], Array]]:
        """Returns r, and the sum of its squares from a map on, as functions of the map.

        They compute each value where it is first used, because the compiler keeps about this order:
        fewer registers are in use at a time.
        """
        r = functools.cache(lambda j: self.rectify(x[j]))
        return r, _sums(lambda j: r(j) * r(j), self.formula.size)

    def rectify(self, x: Array) -> Array:
        """Computes max(x, 0) in float32 where the formula says so; a NaN stays."""
        x = x.astype(jnp.float32)
        if not self.formula.rectify:
            return x
        return self.maximum(x, jnp.zeros_like(x))

    def maximum(self, a: Array, b: Array) -> Array:
        """Returns the larger of two float32; NaN if either is NaN."""
        return jnp.maximum(a, b) if self.interpret else instruction('max.NaN.f32', a, b)

    def _powers(self, squares: Array) -> tuple[Array, Array]:
        """Computes S^-beta and 1 / S from the sum of the squares in a window."""
        _, k, alpha, beta, _ = self.formula
        full = functools.partial(jnp.full_like, squares)
        denominator = self._multiply_add(squares, full(alpha), full(k))
        if beta == 0.75:
            root = self._reciprocal_root(denominator)
            # The square root of `root` by a second reciprocal root, one instruction.
            return root * (root * self._reciprocal_root(root)), root * root
        return jnp.exp(-beta * jnp.log(denominator)), 1 / denominator

    def _multiply_add(self, a: Array, b: Array, c: Array) -> Array:
        return a * b + c if self.interpret else instruction('fma.rn.f32', a, b, c)

    def _reciprocal_root(self, x: Array) -> Array:
        if self.interpret:
            return jax.lax.rsqrt(x)
        return instruction('rsqrt.approx.ftz.f32', x)


def to_float32(x: Array) -> Array:
    """Converts what a kernel has loaded."""
    return x.astype(jnp.float32)


def instruction(name: str, *arguments: Array) -> Array:
    """Computes one instruction of PTX on float32 arrays of one shape."""
    operands = ', '.join(f'${i}' for i in range(1 + len(arguments)))
    (result,) = plgpu.elementwise_inline_asm(
        f'{name} {operands};',
        args=arguments,
        constraints='=f' + ',f' * len(arguments),
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(arguments[0].shape, np.float32)],
    )
    return result


def _sums(values: Callable[[int], Array], size: int) -> Callable[[int], Array]:
    """Returns a function that sums `size` adjacent values from an index on.

    Windows overlap, so sums of 2, 4, 8 ... adjacent values are computed once.
    """

    @functools.cache
    def total(first: int, count: int) -> Array:
        if count == 1:
            return values(first)
        part = 1 << (count - 1).bit_length() - 1  # the largest power of two below the count
        return total(first, part) + total(first + part, count - part)

    return functools.partial(total, count=size)
