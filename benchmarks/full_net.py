"""The settings of the net that the benchmarks time: configs/ilsvrc2012.py."""

import runpy
from pathlib import Path

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve

CONFIG = Path(__file__).resolve().parent.parent / 'configs' / 'ilsvrc2012.py'


def make_config(
    devices: int,
    batch: int,
    dtype: str = 'float32',
    width: float = 1.0,
    precision: str = 'default',
    deterministic: bool = False,
) -> schema.Config:
    """Returns the settings of the full net.

    Args:
      devices: the number of devices that the towers are spread over.
      batch: images in a batch.
      dtype: of activations and products, one of schema.DTYPES.
      width: multiplies the number of maps and units.
      precision: of convolutions and products of float32, one of schema.PRECISIONS.
      deterministic: whether a GPU uses deterministic algorithms alone.
    """
    raw = runpy.run_path(str(CONFIG))['get_config']()
    raw.mesh.tower, raw.mesh.data = devices, 1
    raw.model.dtype, raw.model.width, raw.model.precision = dtype, width, precision
    raw.deterministic = deterministic
    raw.optimizer.batch_size = raw.evaluation.batch_size = batch
    return resolve(raw.to_dict())
