"""Our net as a function of images, and the path from JPEG files to any such function."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.data import images
from alexnet_jax.model import alexnet, inference, towers

# From images (B, size, size, 3) uint8 to probabilities (B, K) float32.
Classifier = Callable[[np.ndarray], np.ndarray]


def make_ours(config: schema.Config, params: dict[str, Any], mean_HWC: np.ndarray) -> Classifier:
    """Returns our net on the devices that the settings name."""
    mesh = towers.choose_mesh(config)
    compute = inference.make_log_probabilities(config, mesh)
    on_mesh = jax.device_put(params, towers.shardings(mesh, alexnet.partitions(config, mesh)))
    mean = jax.device_put(mean_HWC, towers.shardings(mesh, towers.spec(mesh, 'constants')))
    (centre,) = inference.first_views(config, 1)

    def classify(images_BHWC: np.ndarray) -> np.ndarray:
        on_devices = towers.put_batch(mesh, {'image': images_BHWC})['image']
        return np.exp(np.asarray(compute(on_mesh, mean, on_devices, centre)))

    return classify


def classify_files(
    classify: Classifier, files: Sequence[bytes], config: schema.Config, pool: ThreadPoolExecutor
) -> None:
    """Decodes and classifies JPEGs batch by batch; the pool decodes the next batch meanwhile.

    Args:
      classify: the net.
      files: the contents of the files.
      config: the settings; the last batch is filled up to their batch size.
      pool: decodes.
    """
    data_set, batch = config.dataset, config.optimizer.batch_size

    def start(first: int) -> list[Future[np.ndarray]]:
        some = files[first : first + batch]
        return [
            pool.submit(images.square, data, data_set.image_size, data_set.resize) for data in some
        ]

    decoding = start(0)
    for first in range(0, len(files), batch):
        squares = np.stack([future.result() for future in decoding])
        decoding = start(first + batch)
        missing = batch - len(squares)
        classify(np.pad(squares, ((0, missing), (0, 0), (0, 0), (0, 0))))
