"""CaffeNet, Caffe's variant of AlexNet (BVLC/caffe, models/bvlc_reference_caffenet).

    python -m alexnet_jax.main --config=bvlc_reference_caffenet

Its published weights have 42.6 % top-1 and 19.6 % top-5 validation error for the centre crop
(accuracies of 57.4 % and 80.4 % in its readme.md), after 310,000 of 450,000 steps. We have not
trained it yet.

It differs from bvlc_alexnet.py in two points, by its train_val.prototxt: the first two layers are
pooled before they are normalized, and the biases that are 0.1 there are 1, as in the paper.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import bvlc_alexnet


def get_config() -> ConfigDict:
    """Returns the settings of bvlc_alexnet.py with the changes below."""
    c = bvlc_alexnet.get_config()
    c.model.conv1.then = ('relu', 'max_pooling', 'response_normalization')
    c.model.conv2.then = ('relu', 'max_pooling', 'response_normalization')
    c.model.conv2.bias = 1.0
    c.model.conv4.bias = 1.0
    c.model.conv5.bias = 1.0
    c.model.fc6.bias = 1.0
    c.model.fc7.bias = 1.0
    return c
