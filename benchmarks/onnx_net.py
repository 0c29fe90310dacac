"""The same net in ONNX Runtime, to compare with ours. Imports onnx only when a net is made."""

import importlib
from typing import Any

import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.training.run_files.inputs_file import Inputs

VARIANTS = ('exported', 'products')


class OnnxRuntime:
    """The same net in ONNX Runtime on the CPU, with all its optimizations.

    Args:
      config: the settings.
      params: nested dict of float32 arrays, as `alexnet.initialize` returns it.
      mean_HWC: (size, size, 3) float32, the mean image.
      variant: 'exported' for the graph that `python -m alexnet_jax.export` writes; 'products' for
        one whose response normalization is faster (`normalize_by_products`).
      threads: the number of cores to use.
    """

    def __init__(
        self,
        config: schema.Config,
        params: dict[str, Any],
        mean_HWC: np.ndarray,
        variant: str,
        threads: int,
    ) -> None:
        graphs: Any = importlib.import_module('alexnet_jax.interchange.onnx_graph')
        runtime: Any = importlib.import_module('onnxruntime')
        names = tuple(f'class {k}' for k in range(config.dataset.classes))
        net = PortableNet(config, params, Inputs(mean_HWC, COLOURS_2012, names))
        model = graphs.build(net, preprocessing=True)
        if variant == 'products':
            normalize_by_products(model, config.model.towers)
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # the products leave the shapes of the reshapes unused
        self._input, self._output = graphs.IMAGES, graphs.PROBABILITIES
        self._session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=['CPUExecutionProvider']
        )

    def probabilities(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Computes the softmax for the centre crop: (B, size, size, 3) uint8 to (B, K) float32."""
        return self._session.run([self._output], {self._input: images_BHWC})[0]


def normalize_by_products(model: Any, towers: int) -> None:
    """Replaces the operator LRN by others that ONNX Runtime computes about three times as fast.

    A convolution with kernels of one pixel sums the squares of neighbouring maps, and two square
    roots compute the power of 3/4.

    Args:
      model: an ONNX model with float32 constants, in which each LRN is between two reshapes if
        there are several towers.
      towers: the number of towers, which are normalized separately.

    Raises:
      ValueError: a power is not 3/4.
    """
    onnx: Any = importlib.import_module('onnx')
    graph = model.graph
    constants = {
        constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer
    }
    nodes = list(graph.node)
    while any(node.op_type == 'LRN' for node in nodes):
        place = next(i for i, node in enumerate(nodes) if node.op_type == 'LRN')
        around = 1 if towers > 1 else 0
        first, last = nodes[place - around], nodes[place + around]
        x, y, lrn = first.input[0], last.output[0], _attributes(onnx, nodes[place])
        if lrn['beta'] != 0.75:
            raise ValueError(f'the power is {lrn["beta"]}, not 0.75')
        before = next(node for node in nodes[:place][::-1] if node.op_type == 'Conv')
        maps = len(constants[before.input[1]])
        distance = np.subtract.outer(*[np.arange(maps // towers)] * 2)
        inside = (distance <= lrn['size'] // 2) & (-distance < (lrn['size'] + 1) // 2)
        band = np.tile(inside * lrn['alpha'] / lrn['size'], (towers, 1)).astype(np.float32)
        for name, array in (
            ('weight', band[:, :, None, None]),
            ('bias', np.full(maps, lrn['bias'])),
        ):
            tensor = onnx.numpy_helper.from_array(array.astype(np.float32), f'{y}.{name}')
            graph.initializer.append(tensor)
        make = onnx.helper.make_node
        nodes[place - around : place + around + 1] = [
            make('Mul', [x, x], [f'{y}.squares']),
            make(
                'Conv',
                [f'{y}.squares', f'{y}.weight', f'{y}.bias'],
                [f'{y}.sums'],
                group=towers,
                kernel_shape=[1, 1],
            ),
            make('Sqrt', [f'{y}.sums'], [f'{y}.roots']),
            make('Sqrt', [f'{y}.roots'], [f'{y}.fourth_roots']),
            make('Mul', [f'{y}.roots', f'{y}.fourth_roots'], [f'{y}.powers']),
            make('Div', [x, f'{y}.powers'], [y]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)


def _attributes(onnx: Any, node: Any) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
