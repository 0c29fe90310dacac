"""A bounded reader of the wire format of protocol buffers.

Source: https://protobuf.dev/programming-guides/encoding. A message is a sequence of fields; each
has a number, a wire type and a value. The reader executes nothing, copies no long value, never
descends on its own, and compares every length with what is left of the message. Apart from unpacked
numbers, which it collects in arrays, the memory that it needs does not depend on the message.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED_64, BYTES, START_GROUP, END_GROUP, FIXED_32 = range(6)
_SIZES = {FIXED_64: 8, FIXED_32: 4}
# Numbers of a run of unpacked numbers that are compared at a time: few at first, because a run may
# have one number alone.
_FIRST_WINDOW, _LARGEST_WINDOW = 1 << 6, 1 << 16


class DamagedError(Exception):
    """The bytes are not a message; the text says why."""


class Field(NamedTuple):
    """A field of a message.

    Attributes:
      number: the field's number in the .proto file.
      wire_type: VARINT, FIXED_64, BYTES or FIXED_32.
      value: an unsigned int for VARINT; the bytes, not copied, for BYTES; for the fixed types
        (N, 4) or (N, 8) uint8, the N numbers of consecutive fields of the same number.
    """

    number: int
    wire_type: int
    value: int | memoryview | np.ndarray


class Reader:
    """Reads messages of one file.

    Args:
      limit: the number of fields that may be read in all, so that a hostile file ends soon.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self._left = limit

    def fields(self, message: memoryview) -> Iterator[Field]:
        """Yields the fields of a message in order.

        Raises:
          DamagedError: the bytes are not a message, contain a group, or have too many fields.
        """
        position, end = 0, len(message)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise DamagedError('it has too many fields')
            start = position
            tag, position = _varint(message, position)
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise DamagedError(f'a field has the number {number}')
            if wire_type == VARINT:
                value, position = _varint(message, position)
            elif wire_type == BYTES:
                length, position = _varint(message, position)
                if length > end - position:
                    raise DamagedError(
                        f'a value of {length:,} bytes is longer than the {end - position:,} bytes '
                        'that are left'
                    )
                value = message[position : position + length]
                position += length
            elif wire_type in _SIZES:
                value, position = _run(message, start, position, _SIZES[wire_type])
            elif wire_type in (START_GROUP, END_GROUP):
                raise DamagedError('it has a group, which no file of this kind has')
            else:
                raise DamagedError(f'a field has the unknown wire type {wire_type}')
            yield Field(number, wire_type, value)


def varints(packed: memoryview, most: int) -> list[int]:
    """Returns the unsigned integers of a packed field.

    Raises:
      DamagedError: there are more than `most`, or the last one is cut off.
    """
    values, position = [], 0
    while position < len(packed):
        if len(values) == most:
            raise DamagedError(f'a list has more than {most} numbers')
        value, position = _varint(packed, position)
        values.append(value)
    return values


def text(field: Field) -> str:
    """Returns the text of a BYTES field of at most 1,000 bytes; undecodable bytes are escaped.

    Raises:
      DamagedError: the field has another wire type, or the text is longer.
    """
    if not isinstance(field.value, memoryview) or len(field.value) > 1000:
        raise DamagedError('a name is no text, or too long')
    return bytes(field.value).decode('utf-8', 'backslashreplace')


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Reads an integer of up to 64 bits, seven in each byte; returns it and the next position."""
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (1 << 64) - 1, position + index + 1
    raise DamagedError('an integer is cut off, or longer than 64 bits')


def _run(message: memoryview, start: int, position: int, size: int) -> tuple[np.ndarray, int]:
    """Reads numbers of a fixed size as long as the same tag precedes them.

    Args:
      message: the message.
      start: where the first tag begins.
      position: where the first number begins.
      size: bytes of a number.

    Returns:
      (N, size) uint8, and the position after the last number.
    """
    tag = np.frombuffer(message[start:position], np.uint8)
    period, parts, window = len(tag) + size, [], _FIRST_WINDOW
    while True:
        count = min(window, (len(message) - start) // period)
        block = np.frombuffer(message, np.uint8, count * period, start).reshape(count, period)
        differs = (block[:, : len(tag)] != tag[None]).any(axis=1)
        equal = int(differs.argmax()) if differs.any() else count
        parts.append(block[:equal, len(tag) :].copy())
        start += equal * period
        if equal < window:
            break
        window = min(4 * window, _LARGEST_WINDOW)
    numbers = np.concatenate(parts)
    if not len(numbers):
        raise DamagedError(f'a number of {size} bytes is cut off')
    return numbers, start
