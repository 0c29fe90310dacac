"""The same net in ONNX Runtime, to compare with ours. onnx is imported only when a net is made."""

import importlib
from typing import Any

import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.data.pixel_statistics import COLOURS_2012
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.training.run_files.inputs_file import Inputs


class OnnxRuntime:
    """The graph that our exporter writes, in ONNX Runtime on the CPU with all its optimizations.

    Args:
      config: the settings.
      params: nested dict of float32 arrays, as `alexnet.initialize` returns it.
      mean_HWC: (size, size, 3) float32, the mean image.
      threads: the number of cores to use.
    """

    def __init__(
        self,
        config: schema.Config,
        params: dict[str, Any],
        mean_HWC: np.ndarray,
        threads: int,
    ) -> None:
        graphs: Any = importlib.import_module('alexnet_jax.interchange.exports.onnx_graph')
        runtime: Any = importlib.import_module('onnxruntime')
        names = tuple(f'class {k}' for k in range(config.dataset.classes))
        net = PortableNet(config, params, Inputs(mean_HWC, COLOURS_2012, names))
        model = graphs.build(net, preprocessing=True)
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        self._input, self._output = graphs.IMAGES, graphs.PROBABILITIES
        self._session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=['CPUExecutionProvider']
        )

    def probabilities(self, images_BHWC: np.ndarray) -> np.ndarray:
        """Computes the softmax for the centre crop: (B, size, size, 3) uint8 to (B, K) float32."""
        return self._session.run([self._output], {self._input: images_BHWC})[0]
