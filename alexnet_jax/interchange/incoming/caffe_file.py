"""Files of Caffe's weights (.caffemodel) and of its mean images (.binaryproto).

Source of the field numbers: BVLC/caffe, src/caffe/proto/caffe.proto. A file of weights is a
NetParameter; three generations of it exist, and all are read: `layer` (field 100, LayerParameter),
`layers` (field 2, V1LayerParameter), and `layers` with a V0LayerParameter inside. A mean image is a
BlobProto alone. Nothing in a file is executed.
"""

import dataclasses
import math
import mmap
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from alexnet_jax.interchange.incoming import wire_format
from alexnet_jax.interchange.incoming.wire_format import DamagedError, Field, Reader
from alexnet_jax.runtime.paths import check_input_file
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

T = TypeVar('T')

_MOST_AXES = 32  # of a blob, as in Caffe (kMaxBlobAxes)
_MOST_LAYERS = 10_000
_HDF5 = b'\x89HDF\r\n\x1a\n'
_TEXT = frozenset(string.printable.encode())
# The names of V1's enum of layer types, and those of V0, for the layers that a net here can have.
_TYPES_V1 = {
    4: 'Convolution',
    6: 'Dropout',
    14: 'InnerProduct',
    15: 'LRN',
    17: 'Pooling',
    18: 'ReLU',
    23: 'TanH',
}
_TYPES_V0 = {
    'conv': 'Convolution',
    'dropout': 'Dropout',
    'innerproduct': 'InnerProduct',
    'lrn': 'LRN',
    'pool': 'Pooling',
    'relu': 'ReLU',
    'tanh': 'TanH',
}
# Settings of a layer: name, default, and field numbers in the section that belongs to its type. The
# second number is that of the rows, where they have a value of their own.
_SECTIONS: dict[str, dict[str, tuple[float, tuple[int, ...]]]] = {
    'Convolution': {
        'pad': (0, (3, 9)),
        'group': (1, (5,)),
        'stride': (1, (6, 13)),
        'dilation': (1, (18,)),
    },
    'LRN': {
        'local_size': (5, (1,)),
        'alpha': (1.0, (2,)),
        'beta': (0.75, (3,)),
        'norm_region': (0, (4,)),
        'k': (1.0, (5,)),
    },
    'Pooling': {
        'pool': (0, (1,)),
        'kernel_size': (0, (2, 5)),
        'stride': (1, (3, 7)),
        'pad': (0, (4, 9)),
    },
}


class _Form(NamedTuple):
    """The form of a layer in one generation of the format.

    Attributes:
      name: the number of the field with the layer's name.
      type: that of the field with its type.
      blobs: that of the fields with its arrays.
      sections: by type, that of the field with the layer's settings.
      read_type: reads the type; '' for those that no net here can have.
    """

    name: int
    type: int
    blobs: int
    sections: Mapping[str, int]
    read_type: Callable[[Field], str]


def _type_v1(field: Field) -> str:
    return _TYPES_V1.get(field.value, '') if isinstance(field.value, int) else ''


def _type_v0(field: Field) -> str:
    return _TYPES_V0.get(wire_format.text(field), '')


# LayerParameter, V1LayerParameter, V0LayerParameter. In V0, padding is a layer of its own, so the
# settings of the layers are left out.
_V2 = _Form(1, 2, 7, {'Convolution': 106, 'LRN': 118, 'Pooling': 121}, wire_format.text)
_V1 = _Form(4, 5, 6, {'Convolution': 10, 'LRN': 18, 'Pooling': 19}, _type_v1)
_V0 = _Form(1, 2, 50, {}, _type_v0)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a Caffe net.

    Attributes:
      name: its name, such as 'conv1'.
      type: its type by Caffe's newest names, such as 'Convolution'; '' for a type of old files that
        no AlexNet has.
      settings: the settings of `_SECTIONS` with their defaults; empty where the file has none.
      blobs: the weights and the biases, float32 or float64, little-endian, read-only.
    """

    name: str
    type: str
    settings: Mapping[str, float]
    blobs: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """A Caffe net: its name and its layers in order."""

    name: str
    layers: tuple[Layer, ...]


def read_net(path: Path) -> Net:
    """Reads a file of weights. Its arrays are views of the file, which is mapped into memory.

    Raises:
      UserError: the file cannot be read, is damaged, or is no such file.
    """
    return _read(path, _net, "a file of Caffe's weights (.caffemodel)")


def read_blob(path: Path) -> np.ndarray:
    """Reads a file with one array, such as a mean image.

    Raises:
      UserError: the file cannot be read, is damaged, or is no such file.
    """
    return _read(path, _blob, 'a mean image of Caffe (.binaryproto)')


def _read(path: Path, parse: Callable[[Reader, memoryview], T], kind: str) -> T:
    check_input_file(path, kind)
    with explain_os_errors(f'read {path}'):
        if not path.stat().st_size:
            raise UserError(f'{printable(str(path))} is empty: download it again')
        with path.open('rb') as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if data[: len(_HDF5)] == _HDF5:
        raise UserError(
            f'{printable(str(path))} is an HDF5 file, which is not read here: save the weights as '
            "a .caffemodel with Caffe (snapshot_format: BINARYPROTO, or pycaffe's net.save)"
        )
    if len(data) > 16 and all(byte in _TEXT for byte in data[:256]):
        raise UserError(
            f'{printable(str(path))} is a text, such as a .prototxt or a web page, and not {kind}: '
            'give another file'
        )
    try:
        return parse(Reader(), data)
    except DamagedError as error:
        raise UserError(
            f'{printable(str(path))} is damaged, or is not {kind}: {error}; download it again, or '
            'give another file'
        ) from error


def _net(reader: Reader, message: memoryview) -> Net:
    name, layers = '', []
    for field in reader.fields(message):
        if field.number == 1:
            name = wire_format.text(field)
        elif field.number == 100:
            layers.append(_layer(reader, _submessage(field), _V2))
        elif field.number == 2:
            layers.append(_layer(reader, _submessage(field), _V1))
        if len(layers) > _MOST_LAYERS:
            raise DamagedError(f'it has more than {_MOST_LAYERS:,} layers')
    if not any(layer.blobs for layer in layers):
        raise DamagedError('it has no layer with weights')
    return Net(name, tuple(layers))


def _layer(reader: Reader, message: memoryview, form: _Form) -> Layer:
    """Reads a layer; one of V1 may contain one of V0 in place of its fields."""
    name, kind, blobs, sections = '', '', [], {}
    for field in reader.fields(message):
        if form is _V1 and field.number == 1:
            return _layer(reader, _submessage(field), _V0)
        if field.number == form.name:
            name = wire_format.text(field)
        elif field.number == form.type:
            kind = form.read_type(field)
        elif field.number == form.blobs:
            blobs.append(_blob(reader, _submessage(field)))
        elif field.number in form.sections.values():
            sections[field.number] = _submessage(field)
    settings = _settings(reader, kind, sections.get(form.sections.get(kind)))
    return Layer(name, kind, settings, tuple(blobs))


def _settings(reader: Reader, kind: str, section: memoryview | None) -> dict[str, float]:
    """Reads the settings of a layer of this type; none where the file does not state them."""
    if section is None:
        return {}
    names = {number: name for name, (_, numbers) in _SECTIONS[kind].items() for number in numbers}
    settings = {name: float(default) for name, (default, _) in _SECTIONS[kind].items()}
    stated = set()
    for field in reader.fields(section):
        if (name := names.get(field.number)) is None or name in stated:
            continue
        stated.add(name)
        settings[name] = _number(field)
    return settings


def _number(field: Field) -> float:
    """Returns an integer or a float of 32 bits; of several, the first."""
    value = field.value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, memoryview):
        return float((wire_format.varints(value, _MOST_AXES) or [0])[0])
    if field.wire_type == wire_format.FIXED_32:
        return float(value[0].view('<f4')[0])
    raise DamagedError(f'field {field.number} of a layer has the wrong type')


def _blob(reader: Reader, message: memoryview) -> np.ndarray:
    """Reads a BlobProto: an array with a `shape`, or with the four sizes of old files."""
    legacy, shape, parts, types = [0, 0, 0, 0], None, [], set()
    for field in reader.fields(message):
        if 1 <= field.number <= 4 and isinstance(field.value, int):
            legacy[field.number - 1] = field.value
        elif field.number == 7:
            shape = _shape(reader, _submessage(field))
        elif field.number in (5, 8):
            types.add('<f4' if field.number == 5 else '<f8')
            parts.append(_floats(field))
    if len(types) > 1:
        raise DamagedError('an array has numbers of two types')
    array = parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros(0, '<f4')])
    sizes = legacy if shape is None else shape
    if math.prod(sizes) != len(array):
        raise DamagedError(f'an array of the shape {_describe(sizes)} has {len(array):,} numbers')
    return array.reshape(sizes)


def _floats(field: Field) -> np.ndarray:
    """Returns the numbers of a `data` or `double_data` field, packed or not."""
    dtype = np.dtype('<f4' if field.number == 5 else '<f8')
    if isinstance(field.value, memoryview):
        if len(field.value) % dtype.itemsize:
            raise DamagedError('an array ends within a number')
        return np.frombuffer(field.value, dtype)
    if isinstance(field.value, np.ndarray) and field.value.shape[1] == dtype.itemsize:
        return field.value.view(dtype)[:, 0]
    raise DamagedError('the numbers of an array have the wrong type')


def _shape(reader: Reader, message: memoryview) -> list[int]:
    """Reads a BlobShape: the sizes of the axes, packed or not."""
    sizes: list[int] = []
    for field in reader.fields(message):
        if field.number == 1 and isinstance(field.value, int):
            sizes.append(field.value)
        elif field.number == 1 and isinstance(field.value, memoryview):
            sizes += wire_format.varints(field.value, _MOST_AXES)
        if len(sizes) > _MOST_AXES:
            raise DamagedError(f'an array has more than {_MOST_AXES} axes')
    return sizes


def _submessage(field: Field) -> memoryview:
    if not isinstance(field.value, memoryview):
        raise DamagedError(f'field {field.number} has the wrong type')
    return field.value


def _describe(sizes: list[int]) -> str:
    return f'({", ".join(str(size) for size in sizes[:8])}{", ..." if len(sizes) > 8 else ""})'
