"""Digests of what a checkpoint holds: of each array and of the position, in one JSON object.

SHA-256, because it is in Python, and is computed by the processor itself: for 480 MB (AlexNet's
parameters and velocity) 0.27 s on one core of an EPYC, against 0.68 s for BLAKE2b, 0.59 s for
SHA-512 and 0.14 s for CRC-32, which is no protection against damage that is not by chance.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime.cpu_devices import processor_count

FORMAT = 1


class Damage(Exception):
    """A checkpoint does not hold what was saved; the text says what differs, in a few words."""


class OtherVersion(Exception):
    """A checkpoint is intact, and was written by a version with another format."""


@dataclasses.dataclass(frozen=True)
class ArrayDigest:
    """The shape, the dtype and the digest of the bytes of an array."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str

    @classmethod
    def of(cls, array: Any) -> 'ArrayDigest':
        """Computes the digest of an array of any memory layout, on the host or on devices."""
        # A sharded array is gathered: the digest is that of the global array, on any mesh.
        array = np.ascontiguousarray(jax.device_get(array)).reshape(np.shape(array))
        if array.dtype.byteorder == '>':
            array = array.astype(array.dtype.newbyteorder('<'))
        data = array.reshape(-1).view(np.uint8)
        return cls(array.shape, array.dtype.name, hashlib.sha256(data.data).hexdigest())


def of_arrays(arrays: Iterable[tuple[str, Any]]) -> dict[str, ArrayDigest]:
    """Computes the digests of arrays on several threads.

    Args:
      arrays: names and arrays.

    Returns:
      The digests by name, in the same order.
    """
    with concurrent.futures.ThreadPoolExecutor(min(4, processor_count())) as executor:
        futures = {name: executor.submit(ArrayDigest.of, array) for name, array in arrays}
        return {name: future.result() for name, future in futures.items()}


def of_json(values: Any) -> str:
    """Computes the digest of plain values, whatever the order and the blanks in their file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Digests:
    """The digests of a checkpoint.

    Attributes:
      arrays: by dotted names.
      positions: the digest of the position; two of them while a position is replaced.
      error: the top-1 error of an evaluation at exactly this step, a fraction; None for none.
    """

    arrays: dict[str, ArrayDigest]
    positions: tuple[str, ...]
    error: float | None = None

    @classmethod
    def of(
        cls, arrays: dict[str, ArrayDigest], position: dict[str, Any], error: float | None
    ) -> 'Digests':
        """Adds the digest of a position, in plain values, to those of arrays."""
        error = None if error is None or math.isnan(error) else float(error)
        return cls(arrays, (of_json(position),), error)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values that include a digest of themselves."""
        values = {'format': FORMAT, **json.loads(json.dumps(dataclasses.asdict(self)))}
        return values | {'sha256': of_json(values)}

    @classmethod
    def from_json(cls, values: Any) -> 'Digests':
        """Converts the result of `as_json` back.

        Raises:
          Damage: the values are not what was written.
          OtherVersion: they have another format.
        """
        if not isinstance(values, dict):
            raise Damage('its digests are not a JSON object')
        values = dict(values)
        if values.pop('sha256', None) != of_json(values):
            raise Damage('its digests differ from what was saved')
        if values.pop('format') != FORMAT:
            raise OtherVersion('its digests have another format')
        arrays = {
            name: ArrayDigest(tuple(x['shape']), x['dtype'], x['sha256'])
            for name, x in values['arrays'].items()
        }
        return cls(arrays, tuple(values['positions']), values['error'])

    def check_arrays(self, tree: Any) -> None:
        """Compares arrays with those that were saved.

        Args:
          tree: arrays on the host; all of the state or a part of it.

        Raises:
          Damage: an array differs; the text names it.
        """
        for name, digest in of_arrays(leaves_by_name(tree).items()).items():
            expected = self.arrays.get(name)
            if expected is None:
                raise Damage(f'{name} was not saved')
            if (digest.shape, digest.dtype) != (expected.shape, expected.dtype):
                raise Damage(
                    f'{name} is {digest.dtype} of the shape {digest.shape}, and was saved as '
                    f'{expected.dtype} of the shape {expected.shape}'
                )
            if digest != expected:
                raise Damage(f'{name} differs from what was saved')

    def allow_position(self, position: Any) -> bool:
        """Returns whether a position, in plain values, is the one that was saved."""
        return of_json(position) in self.positions
