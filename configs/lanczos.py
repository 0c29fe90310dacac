"""Images scaled by another filter: Lanczos in place of bicubic.

    python -m alexnet_jax.prepare --tars=DIR --filter=lanczos
    python -m alexnet_jax.main --config=configs/lanczos.py

The paper does not say how it scaled its images; results of AlexNet differ by points between filters
and tools. --filter=area, bilinear and nearest make other sets (imagenet2012_256_area ...), to be
named by --config.dataset.name. All else is configs/ilsvrc2012.py. We have not trained it yet.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings: those of ilsvrc2012.py but for what stands here."""
    c = runpy.run_path(str(Path(__file__).with_name('ilsvrc2012.py')))['get_config']()
    c.dataset.name = 'imagenet2012_256_lanczos'
    c.dataset.resize = 'lanczos'
    return c
