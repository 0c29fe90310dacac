"""Images scaled by another filter: Lanczos instead of bicubic.

    python -m alexnet_jax.prepare --imagenet=DIR --filter=lanczos
    python -m alexnet_jax.main --config=lanczos

The paper does not say how it scaled its images; results of AlexNet differ by points between filters
and tools. --filter=area, bilinear and nearest prepare other data sets (imagenet2012_256_area ...),
which --config.dataset.name selects. Everything else is as in ilsvrc2012.py. We have not trained it
yet.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.dataset.name = 'imagenet2012_256_lanczos'
    c.dataset.resize = 'lanczos'
    return c
