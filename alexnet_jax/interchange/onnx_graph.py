"""The net at test time as an ONNX graph: one view of an image, from pixels to logits (§3, §4.1).

Activations have the axes images, maps, rows, columns. The towers are groups of convolutions, and
the maps of all towers lie one after the other, as in grouped_layout.py. A node and its output have
the name of the layer ('conv1', 'fc7') or of the operation after it ('conv1.relu').
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.config import model_schema
from alexnet_jax.data import augmentation
from alexnet_jax.interchange import grouped_layout
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model.layer_table import CHANNELS
from alexnet_jax.ops.convolution import convolved_size
from alexnet_jax.ops.max_pooling import pooled_size

# ONNX 1.12 of June 2022. No later version adds an operator that the net needs, and later ones
# cannot be read by older runtimes.
OPSET, IR_VERSION = 17, 8

IMAGES, CROPS = 'images', 'crops'  # inputs: with the preprocessing inside, and without
LOGITS, PROBABILITIES = 'logits', 'probabilities'
BATCH = 'batch'  # the name of the axis whose length is free


def build(net: PortableNet, preprocessing: bool) -> onnx.ModelProto:
    """Makes the graph of a net.

    Args:
      net: the net; its layers have shared weights.
      preprocessing: whether the graph takes images, (batch, size, size, 3) uint8, and crops them
        and subtracts the mean; otherwise it takes crops, (batch, 3, crop, crop) float32, of which
        the mean is subtracted already.

    Returns:
      A model with the outputs LOGITS and PROBABILITIES, (batch, K) float32.
    """
    builder = _Builder(net)
    return builder.build(preprocessing)


class _Builder:
    """Collects the nodes of a graph and their constants; each node reads the one before."""

    def __init__(self, net: PortableNet) -> None:
        self.net, self.config = net, net.config
        self.arrays = grouped_layout.to_grouped(net.config, net.params)
        self.groups = grouped_layout.groups(net.config)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.last = ''
        self.size = net.config.augmentation.crop  # pixels across the maps of the last node

    def build(self, preprocessing: bool) -> onnx.ModelProto:
        """Returns the model, after adding all nodes."""
        config = self.config
        if preprocessing:
            size = config.dataset.image_size
            pixels = (IMAGES, TensorProto.UINT8, [BATCH, size, size, CHANNELS])
        else:
            crop = config.augmentation.crop
            pixels = (CROPS, TensorProto.FLOAT, [BATCH, CHANNELS, crop, crop])
        self.last = pixels[0]
        if preprocessing:
            self._preprocessing()
        for name, layer in config.model.convolutions().items():
            self._convolution(name, layer)
        self._dense_layers()
        self._add(PROBABILITIES, 'Softmax', axis=1)
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, config.dataset.classes])
            for name in (LOGITS, PROBABILITIES)
        ]
        inputs = [helper.make_tensor_value_info(*pixels)]
        graph = helper.make_graph(self.nodes, 'alexnet', inputs, outputs, self.constants)
        opsets = [helper.make_opsetid('', OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _add(self, name: str, operator: str, *constants: str, **attributes: Any) -> None:
        """Adds a node that reads the last one and some constants."""
        inputs = [self.last, *constants]
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        self.last = name

    def _constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Adds a constant; returns its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype, order='C'), name))
        return name

    def _preprocessing(self) -> None:
        """Takes the central crop, and subtracts the mean, as `augmentation.take_view` does."""
        crop, size = self.config.augmentation.crop, self.config.dataset.image_size
        first = (size - crop) // 2
        place = {'starts': [first] * 2, 'ends': [first + crop] * 2, 'axes': [1, 2]}
        names = [self._constant(f'crop.{key}', x, np.int64) for key, x in place.items()]
        self._add('crop', 'Slice', *names)
        self._add('crop.maps_first', 'Transpose', perm=[0, 3, 1, 2])  # a quarter of float32's bytes
        self._add('crop.float32', 'Cast', to=TensorProto.FLOAT)
        mean_HWC = augmentation.central(self.net.inputs.mean_HWC, crop)
        self._add('crop.centred', 'Sub', self._constant('mean', mean_HWC.transpose(2, 0, 1)))
        deviations = self.config.augmentation.deviations
        if any(deviation != 1 for deviation in deviations):
            numbers = np.reshape(deviations, (CHANNELS, 1, 1))
            self._add('crop.scaled', 'Div', self._constant('deviations', numbers))

    def _convolution(self, name: str, layer: model_schema.Convolution) -> None:
        weight = self._constant(f'{name}.weight', self.arrays[f'{name}.weight'])
        steps = layer.stride, layer.padding, layer.extra_padding
        size = convolved_size(self.size, layer.kernel, *steps)
        # At the right and bottom, as many zero pixels as the last window needs. Where it is left
        # out, ONNX rounds down too.
        after = (size - 1) * layer.stride + layer.kernel - self.size - layer.padding
        after = max(after, layer.padding)
        sizes: dict[str, Any] = dict(
            group=self.groups[name],
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 2 + [after] * 2,
        )
        self.size = size
        if layer.batch_normalization:
            self._add(name, 'Conv', weight, **sizes)
            norm = grouped_layout.batch_normalization_name(name)
            keys = [f'{norm}.{key}' for key in ('weight', 'bias', 'running_mean', 'running_var')]
            constants = [self._constant(key, self.arrays[key]) for key in keys]
            epsilon = self.config.model.batch_normalization.epsilon
            self._add(norm, 'BatchNormalization', *constants, epsilon=epsilon)
        else:
            bias = self._constant(f'{name}.bias', self.arrays[f'{name}.bias'])
            self._add(name, 'Conv', weight, bias, **sizes)
        maps = len(self.arrays[f'{name}.weight'])
        for number, operation in enumerate(layer.then):
            repeated = operation in layer.then[:number]
            self._operation(f'{name}.{operation}{number if repeated else ""}', operation, maps)

    def _operation(self, name: str, operation: str, maps: int) -> None:
        """Adds an operation after a convolution of so many maps in all towers."""
        model = self.config.model
        match operation:
            case 'relu' | 'tanh':
                self._add(name, operation.capitalize())
            case 'max_pooling':
                self._max_pooling(name, model.max_pooling)
            case 'global_average_pooling':
                self._add(name, 'GlobalAveragePool')
                self.size = 1
            case 'response_normalization':
                self._response_normalization(name, model.response_normalization, maps)
            case 'spatial_normalization':
                self._spatial_normalization(name, model.spatial_normalization)
            case _:
                raise ValueError(f'{operation!r} has no ONNX operator here')

    def _max_pooling(self, name: str, settings: model_schema.MaxPooling) -> None:
        """Adds pools whose last one may extend beyond the edge.

        The pixels beyond it are padding, which is never the largest. `ceil_mode` is not used: the
        runtimes disagree on a last pool that has no pixel inside.
        """
        window, stride = settings.window, settings.stride
        size = pooled_size(self.size, window, stride)
        after = max(0, (size - 1) * stride + window - self.size)
        sizes = dict(kernel_shape=[window] * 2, strides=[stride] * 2, pads=[0, 0, after, after])
        self._add(name, 'MaxPool', **sizes)
        self.size = size

    def _response_normalization(
        self, name: str, settings: model_schema.ResponseNormalization, maps: int
    ) -> None:
        """Adds response normalization over the maps of each tower, or over all.

        The towers of an image are taken for separate images, which copies nothing.
        """
        towers = self.config.model.towers if settings.reads == 'own' else 1
        if settings.size % 2 == 0:
            self._even_response_normalization(name, settings, maps, towers)
            return
        if towers > 1:
            self._reshape(f'{name}.towers', [-1, maps // towers, self.size, self.size])
        # ONNX divides alpha by the number of maps in a window.
        alpha, size = settings.alpha * settings.size, settings.size
        constants = dict(size=size, alpha=alpha, beta=settings.beta, bias=settings.k)
        self._add(f'{name}.maps' if towers > 1 else name, 'LRN', **constants)
        if towers > 1:
            self._reshape(name, [-1, maps, self.size, self.size])

    def _even_response_normalization(
        self, name: str, settings: model_schema.ResponseNormalization, maps: int, towers: int
    ) -> None:
        """Adds response normalization with a window of an even number of maps.

        ONNX puts the additional map of such a window after its own map, where we put it before
        (ops/formula.py), and ONNX Runtime refuses them. The sums are means along the axis of maps
        times the size of the window.
        """
        x, size = self.last, settings.size
        self._add(f'{name}.squares', 'Mul', x)
        self._reshape(f'{name}.towers', [-1, 1, maps // towers, self.size**2])
        around = [size // 2, 0, size - 1 - size // 2, 0]
        pool: dict[str, Any] = dict(kernel_shape=[size, 1], pads=around, count_include_pad=1)
        self._add(f'{name}.means', 'AveragePool', **pool)
        self._reshape(f'{name}.maps', [-1, maps, self.size, self.size])
        self._divide_by_power(name, x, settings.alpha * size, settings.k, settings.beta)

    def _spatial_normalization(
        self, name: str, settings: model_schema.SpatialNormalization
    ) -> None:
        """Adds the normalization over pixels, whose sums are means times the window's pixels."""
        x, size = self.last, settings.size
        self._add(f'{name}.squares', 'Mul', x)
        around = [size // 2] * 2 + [size - 1 - size // 2] * 2
        pool: dict[str, Any] = dict(kernel_shape=[size] * 2, pads=around, count_include_pad=1)
        self._add(f'{name}.means', 'AveragePool', **pool)
        self._divide_by_power(name, x, settings.alpha * size**2, settings.k, settings.beta)

    def _divide_by_power(self, name: str, x: str, alpha: float, k: float, beta: float) -> None:
        """Adds x (k + alpha * last)^-beta."""
        self._add(f'{name}.scaled', 'Mul', self._constant(f'{name}.alpha', alpha))
        self._add(f'{name}.sums', 'Add', self._constant(f'{name}.k', k))
        self._add(f'{name}.powers', 'Pow', self._constant(f'{name}.exponent', -beta))
        self._add(name, 'Mul', x)

    def _reshape(self, name: str, shape: Sequence[int]) -> None:
        self._add(name, 'Reshape', self._constant(f'{name}.shape', shape, np.int64))

    def _dense_layers(self) -> None:
        """Adds the fully-connected layers.

        At test time units are scaled by the fraction that dropout keeps in training (§4.2). That is
        alpha of the layer that reads them.
        """
        model, scale = self.config.model, 1.0
        self._add('flat', 'Flatten', axis=1)
        for name in [*model.dense(), 'fc8']:
            constants = [f'{name}.weight', f'{name}.bias']
            for key in constants:
                self._constant(key, self.arrays[key])
            hidden = model.hidden().get(name)
            scale *= 1 - hidden.input_dropout if hidden else 1
            output = LOGITS if name == 'fc8' else name
            self._add(output, 'Gemm', *constants, alpha=scale, transB=1)
            scale = 1.0
            if hidden:
                self._add(f'{name}.{hidden.nonlinearity}', hidden.nonlinearity.capitalize())
                scale = 1 - hidden.dropout
