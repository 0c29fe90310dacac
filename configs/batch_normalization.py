"""Batch normalization (Ioffe and Szegedy, 2015) instead of response normalization.

    python -m alexnet_jax.main --config=batch_normalization

It comes before the ReLU, as its authors propose, and the biases of conv2 begin with 0 instead of 1.
Everything else is as in ilsvrc2012.py. We have not trained it on ImageNet yet.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.model.conv1.batch_normalization = True
    c.model.conv1.then = ('relu', 'max_pooling')
    c.model.conv2.batch_normalization = True
    c.model.conv2.then = ('relu', 'max_pooling')
    c.model.conv2.bias = 0.0
    return c
