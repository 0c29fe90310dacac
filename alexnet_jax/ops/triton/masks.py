"""The mask of the pixels that have a pool's largest value, as the kernels for GPUs compute it."""

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax.ops.triton.arithmetic import Arithmetic
from alexnet_jax.ops.triton.segments import segment_length


def maps_per_word(window: int, maps: int) -> int:
    """Returns the number of maps whose bits share an int32 of the mask: 2 where they fit, or 1."""
    return 2 if segment_length(maps) % 2 == 0 and window**2 <= 15 else 1


class Largest(NamedTuple):
    """The largest of several values of each map, and a bit for each pixel that has it.

    Attributes:
      values: float32, by map.
      words: int32, the bits of one map, or of two maps in 16 bits each.
    """

    values: list[Array]
    words: list[Array]

    @property
    def per_word(self) -> int:
        """The number of maps in a word."""
        return len(self.values) // len(self.words)

    @classmethod
    def of_pixels(
        cls, pixels: Sequence[Sequence[Array]], arithmetic: Arithmetic, per_word: int
    ) -> 'Largest':
        """Returns the largest values of some pixels; where one is NaN, NaN and no bits."""
        values = [
            functools.reduce(arithmetic.maximum, of_map) for of_map in zip(*pixels, strict=True)
        ]
        bits = [
            [
                _if_equal(pixel[m], largest, 1 << i + position(m, per_word))
                for i, pixel in enumerate(pixels)
            ]
            for m, largest in enumerate(values)
        ]
        return cls(
            values, _words([functools.reduce(operator.or_, of_map) for of_map in bits], per_word)
        )

    def shift(self, places: int) -> 'Largest':
        """Shifts the bits left."""
        return self._replace(words=[word << np.int32(places) for word in self.words])

    def merge(self, other: 'Largest', arithmetic: Arithmetic) -> 'Largest':
        """Returns the larger of two; NaN if either is NaN, and the bits of both where they tie."""
        values = [arithmetic.maximum(a, b) for a, b in zip(self.values, other.values, strict=True)]
        parts = zip(self._words_of(values), other._words_of(values), strict=True)
        return Largest(values, [a | b for a, b in parts])

    def _words_of(self, values: Sequence[Array]) -> list[Array]:
        """Returns the words without the bits of the maps whose value is not the given one."""
        per_word = len(self.values) // len(self.words)
        bits = (1 << 32 // per_word) - 1
        kept = [
            _if_equal(own, value, bits << position(m, per_word))
            for m, (own, value) in enumerate(zip(self.values, values, strict=True))
        ]
        return [a & b for a, b in zip(self.words, _words(kept, per_word), strict=True)]


def position(map_index: int, per_word: int) -> int:
    """Returns the place of a map's first bit in its word."""
    return map_index % per_word * (32 // per_word)


def _words(bits: Sequence[Array], per_word: int) -> list[Array]:
    """Returns the words of maps, of which `per_word` adjacent ones share a word."""
    return [
        functools.reduce(operator.or_, bits[k : k + per_word])
        for k in range(0, len(bits), per_word)
    ]


def _if_equal(a: Array, b: Array, bits: int) -> Array:
    """Returns the bits, an int32, where a is b, and 0 elsewhere."""
    return jnp.where(a == b, np.uint32(bits).astype(np.int32), np.int32(0))
