"""Files of Caffe's formats, written field by field, and Caffe's forward pass in NumPy.

Neither uses the package: field numbers and conventions are those of BVLC/caffe (caffe.proto,
lrn_layer.cpp, pooling_layer.cpp).
"""

import struct
from typing import Any, NamedTuple

import numpy as np

# The shapes of the published weights, (maps out, maps in, rows, columns) or (units out, units in).
SHAPES = {
    'conv1': (96, 3, 11, 11),
    'conv2': (256, 48, 5, 5),
    'conv3': (384, 256, 3, 3),
    'conv4': (384, 192, 3, 3),
    'conv5': (256, 192, 3, 3),
    'fc6': (4096, 9216),
    'fc7': (4096, 4096),
    'fc8': (1000, 4096),
}

V1_TYPES = {
    'Convolution': 4,
    'Data': 5,
    'Dropout': 6,
    'InnerProduct': 14,
    'LRN': 15,
    'Pooling': 17,
    'ReLU': 18,
}
V0_TYPES = {
    'Convolution': 'conv',
    'Data': 'data',
    'Dropout': 'dropout',
    'InnerProduct': 'innerproduct',
    'LRN': 'lrn',
    'Pooling': 'pool',
    'ReLU': 'relu',
}
# The fields of a layer's settings: number in LayerParameter, in V1LayerParameter, and those inside.
SECTIONS = {
    'Convolution': (
        106,
        10,
        {'num_output': 1, 'pad': 3, 'kernel_size': 4, 'group': 5, 'stride': 6},
    ),
    'Dropout': (108, 12, {'dropout_ratio': 1}),
    'InnerProduct': (117, 17, {'num_output': 1}),
    'LRN': (118, 18, {'local_size': 1, 'alpha': 2, 'beta': 3, 'norm_region': 4, 'k': 5}),
    'Pooling': (121, 19, {'pool': 1, 'kernel_size': 2, 'stride': 3, 'pad': 4}),
}


class Layer(NamedTuple):
    """A layer of a Caffe net, as a .prototxt states it."""

    name: str
    type: str
    settings: dict[str, Any]
    blobs: tuple[np.ndarray, ...] = ()


class Form(NamedTuple):
    """How a file is written."""

    version: str = 'v2'
    packed: bool = True
    legacy: bool = False  # four sizes in place of a shape
    double: bool = False


def varint(number):
    number &= (1 << 64) - 1
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def tag(number, wire_type):
    return varint(number << 3 | wire_type)


def integer(number, value):
    return tag(number, 0) + varint(value)


def message(number, data):
    data = data.encode() if isinstance(data, str) else data
    return tag(number, 2) + varint(len(data)) + data


def real(number, value):
    return tag(number, 5) + struct.pack('<f', value)


def blob(array, form=Form()):  # noqa: B008 - a tuple
    sizes = array.shape
    if form.legacy:
        sizes = (1,) * (4 - len(sizes)) + sizes
        shape = b''.join(integer(number, size) for number, size in enumerate(sizes, 1))
    elif form.packed:
        shape = message(7, message(1, b''.join(map(varint, sizes))))
    else:
        shape = message(7, b''.join(integer(1, size) for size in sizes))
    number, dtype, wire_type = (8, '<f8', 1) if form.double else (5, '<f4', 5)
    numbers = np.ascontiguousarray(array, dtype)
    if form.packed:
        return shape + message(number, numbers.tobytes())
    rows = np.empty((numbers.size, 1 + numbers.itemsize), np.uint8)
    rows[:, :1] = np.frombuffer(tag(number, wire_type), np.uint8)
    rows[:, 1:] = numbers.reshape(-1, 1).view(np.uint8)
    return shape + rows.tobytes()


def _settings(layer, index):
    if layer.type not in SECTIONS or not layer.settings:
        return b''
    numbers = SECTIONS[layer.type][2]
    data = b''.join(
        (real if isinstance(value, float) else integer)(numbers[name], value)
        for name, value in layer.settings.items()
    )
    return message(SECTIONS[layer.type][index], data)


def layer(layer, form):
    blobs = [blob(array, form) for array in layer.blobs]
    if form.version == 'v2':
        head = message(1, layer.name) + message(2, layer.type) + message(3, 'bottom')
        return message(100, head + b''.join(message(7, x) for x in blobs) + _settings(layer, 0))
    if form.version == 'v1':
        head = message(2, 'bottom') + message(4, layer.name) + integer(5, V1_TYPES[layer.type])
        return message(2, head + b''.join(message(6, x) for x in blobs) + _settings(layer, 1))
    old = message(1, layer.name) + message(2, V0_TYPES[layer.type])
    return message(2, message(1, old + b''.join(message(50, x) for x in blobs)) + message(2, 'x'))


def net(layers, form=Form(), name='AlexNet'):  # noqa: B008 - a tuple
    return message(1, name) + b''.join(layer(x, form) for x in layers)


def alexnet(shapes, groups, pool_first=False, seed=0):
    """Returns the layers of a small net of Caffe's kind with random weights, BGR.

    Args:
      shapes: the shape of the weights of each layer, as in Caffe.
      groups: the groups of each convolution.
      pool_first: whether it is CaffeNet.
    """
    rng, layers = np.random.default_rng(seed), [Layer('data', 'Data', {})]
    gain = {'conv1': 1.0}
    for name, shape in shapes.items():
        std = gain.get(name, 1.5) / np.sqrt(np.prod(shape[1:]))
        weights = (std * rng.standard_normal(shape)).astype(np.float32)
        blobs = (weights, rng.standard_normal(shape[0]).astype(np.float32))
        if name.startswith('conv'):
            pad, stride = {'conv1': (0, 4), 'conv2': (2, 1)}.get(name, (1, 1))
            settings = dict(
                num_output=shape[0],
                pad=pad,
                kernel_size=shape[2],
                group=groups[name],
                stride=stride,
            )
            layers.append(Layer(name, 'Convolution', settings, blobs))
        else:
            layers.append(Layer(name, 'InnerProduct', dict(num_output=shape[0]), blobs))
        if name != 'fc8':
            layers.append(Layer(f'relu{name[-1]}', 'ReLU', {}))
        if name in ('conv1', 'conv2', 'conv5'):
            number = name[-1]
            pool = Layer(f'pool{number}', 'Pooling', dict(pool=0, kernel_size=3, stride=2))
            norm = Layer(f'norm{number}', 'LRN', dict(local_size=5, alpha=1e-4, beta=0.75))
            pair = [pool, norm] if pool_first else [norm, pool]
            layers += [pool] if number == '5' else pair
        elif name in ('fc6', 'fc7'):
            layers.append(Layer(f'drop{name[-1]}', 'Dropout', dict(dropout_ratio=0.5)))
    return layers


def forward(layers, images_BCHW):
    """Computes the logits as Caffe does at test time, in float64."""
    x = images_BCHW.astype(np.float64)
    for layer in layers:
        settings, blobs = layer.settings, [array.astype(np.float64) for array in layer.blobs]
        if layer.type == 'Convolution':
            x = _convolve(x, *blobs, settings['pad'], settings['stride'], settings['group'])
        elif layer.type == 'InnerProduct':
            x = x.reshape(len(x), -1) @ blobs[0].T + blobs[1]
        elif layer.type == 'ReLU':
            x = np.maximum(x, 0)
        elif layer.type == 'LRN':
            x = _normalize(x, settings['local_size'], settings['alpha'], settings['beta'])
        elif layer.type == 'Pooling':
            x = _pool(x, settings['kernel_size'], settings['stride'])
    return x


def _convolve(x, weights, bias, pad, stride, groups):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    size, outputs = weights.shape[2], []
    for part, kernel in zip(np.split(x, groups, 1), np.split(weights, groups), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), (2, 3))
        windows = windows[:, :, ::stride, ::stride]
        outputs.append(np.einsum('bihwyx,oiyx->bohw', windows, kernel, optimize=True))
    return np.concatenate(outputs, 1) + bias[:, None, None]


def _normalize(x, size, alpha, beta):
    """LRN across all channels with k = 1; alpha is divided by the size."""
    squares = np.pad(x**2, ((0, 0), (size // 2, size // 2), (0, 0), (0, 0)))
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    return x * (1 + alpha / size * sums) ** -beta


def _pool(x, window, stride):
    """Max-pooling whose sizes are rounded up."""
    pooled = [-(-(n - window) // stride) + 1 for n in x.shape[2:]]
    result = np.empty((*x.shape[:2], *pooled))
    for i in range(pooled[0]):
        for j in range(pooled[1]):
            rows, columns = (slice(k * stride, k * stride + window) for k in (i, j))
            result[:, :, i, j] = x[:, :, rows, columns].max((2, 3))
    return result
