"""Runs an ONNX file in ONNX Runtime, to check it against the net that it was written from."""

from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.interchange.extras import import_extra
from alexnet_jax.runtime import cpu_devices

BATCH = 64  # images that are computed at once


def logits(file: Path, images: np.ndarray) -> np.ndarray:
    """Computes the logits of images with ONNX Runtime on the CPU.

    Args:
      file: an ONNX file that onnx_file.py wrote.
      images: what its graph takes: (B, size, size, 3) uint8 images, or (B, 3, crop, crop) float32
        crops.

    Returns:
      (B, K) float32.

    Raises:
      UserError: ONNX Runtime is not installed.
    """
    session = open_session(file)
    (pixels,) = session.get_inputs()
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([session.run(['logits'], {pixels.name: batch})[0] for batch in batches])


def open_session(file: Path, threads: int | None = None) -> Any:
    """Opens an ONNX file in ONNX Runtime, on the CPU.

    Args:
      file: the file.
      threads: the number of threads; None for one per core that this process may use.

    Returns:
      An `onnxruntime.InferenceSession`.

    Raises:
      UserError: ONNX Runtime is not installed.
    """
    runtime = import_extra('onnxruntime', 'running an ONNX file')
    options = runtime.SessionOptions()
    # Where the number is not given, ONNX Runtime binds its threads to cores, which containers
    # refuse with a warning for each thread.
    options.intra_op_num_threads = threads or cpu_devices.processor_count()
    return runtime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
