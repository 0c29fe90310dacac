"""The net at test time as an ONNX graph: one view of an image, from pixels to logits (§3, §4.1).

Activations have the axes images, maps, rows, columns. The towers are groups of convolutions, and
the maps of all towers lie one after the other, as in grouped_layout.py. A node and its output have
the name of the layer ('conv1', 'fc7') or of the operation after it ('conv1.relu').
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.config import model_schema
from alexnet_jax.data import augmentation
from alexnet_jax.interchange import grouped_layout
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model.layer_table import CHANNELS
from alexnet_jax.model.layers import steps
from alexnet_jax.ops.convolution import convolved_size, padding_after
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
        # With this padding, ONNX, which rounds the size down, has the same number of windows.
        after = padding_after(self.size, layer.kernel, *steps(layer))
        sizes: dict[str, Any] = dict(
            group=self.groups[name],
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 2 + [after] * 2,
        )
        self.size = convolved_size(self.size, layer.kernel, *steps(layer))
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
                self._spatial_normalization(name, model.spatial_normalization, maps)
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
        """Adds response normalization over the maps of each tower, or over all (§3.3).

        The sums are a convolution of the squares, whose kernel is alpha for the maps of a window
        and 0 for the others. ONNX Runtime 1.32 spends 262 ms of one core on 16 images of the
        paper's net in this form, and 427 ms with the operator LRN. The windows of that
        operator also differ from ours if their size is even (ops/formula.py), and ONNX Runtime
        refuses such sizes.
        """
        towers = self.config.model.towers if settings.reads == 'own' else 1
        own = np.arange(maps // towers)
        first = own[:, None] - settings.size // 2
        is_inside = (own >= first) & (own < first + settings.size)
        weight_OI11 = np.tile(settings.alpha * is_inside, (towers, 1))[:, :, None, None]
        self._normalize(name, weight_OI11, [0] * 4, settings.k, settings.beta)

    def _spatial_normalization(
        self, name: str, settings: model_schema.SpatialNormalization, maps: int
    ) -> None:
        """Adds the normalization over pixels, whose sums are a convolution of each map."""
        weight_OIHW = np.full((maps, 1, settings.size, settings.size), settings.alpha)
        pads = [settings.size // 2] * 2 + [settings.size - 1 - settings.size // 2] * 2
        self._normalize(name, weight_OIHW, pads, settings.k, settings.beta)

    def _normalize(
        self, name: str, weight_OIHW: np.ndarray, pads: list[int], k: float, beta: float
    ) -> None:
        """Adds x / (k + convolution of x^2)^beta."""
        x, (maps, maps_in, *kernel) = self.last, weight_OIHW.shape
        self._add(f'{name}.squares', 'Mul', x)
        weight = self._constant(f'{name}.weight', weight_OIHW)
        bias = self._constant(f'{name}.bias', np.full(maps, k))
        sizes: dict[str, Any] = dict(group=maps // maps_in, kernel_shape=kernel, pads=pads)
        self._add(f'{name}.sums', 'Conv', weight, bias, **sizes)
        if beta == 0.75:  # two roots take a seventh of the time of Pow
            self._add(f'{name}.root', 'Sqrt')
            self._add(f'{name}.fourth_root', 'Sqrt')
            self._add(f'{name}.power', 'Mul', f'{name}.root')
        else:
            self._add(f'{name}.power', 'Pow', self._constant(f'{name}.beta', beta))
        self.nodes.append(helper.make_node('Div', [x, self.last], [name], name))
        self.last = name

    def _dense_layers(self) -> None:
        """Adds the fully-connected layers.

        The scale of dropout at test time (§4.2) is alpha of the layer that reads the units.
        """
        model, factors = self.config.model, grouped_layout.dropout_factors(self.config)
        self._add('flat', 'Flatten', axis=1)
        for name in [*model.dense(), 'fc8']:
            constants = [f'{name}.weight', f'{name}.bias']
            for key in constants:
                self._constant(key, self.arrays[key])
            output = LOGITS if name == 'fc8' else name
            self._add(output, 'Gemm', *constants, alpha=factors.get(name, 1.0), transB=1)
            if hidden := model.hidden().get(name):
                self._add(f'{name}.{hidden.nonlinearity}', hidden.nonlinearity.capitalize())
