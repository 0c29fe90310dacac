"""The average over all pixels in place of the dense layers, as in GoogLeNet (Szegedy et al., 2014).

    python -m alexnet_jax.main --config=average_pooling

The last pooling layer becomes a mean over the 13x13 pixels, and fc6 and fc7 are removed: 2.6
million parameters instead of 61. Everything else is as in ilsvrc2012.py. We have not trained it on
ImageNet yet.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.model.conv5.then = ('relu', 'global_average_pooling')
    c.model.fc6.units = 0
    c.model.fc7.units = 0
    return c
