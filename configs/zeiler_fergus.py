"""The changes of Zeiler and Fergus (Visualizing and Understanding Convolutional Networks, 2013).

    python -m alexnet_jax.main --config=zeiler_fergus

Filters of 7x7 with stride 2 in layer 1 instead of 11x11 with stride 4, stride 2 in layer 2 (maps of
110, 55, 26 and 13 pixels), and 512, 1024 and 512 maps in layers 3 to 5, for which they report 37.5
% top-1 and 16.0 % top-5 validation error. They also joined the two towers, normalized contrast, and
bounded the norm of the filters, which this recipe does not. We have not trained it yet.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.model.conv1.kernel = 7
    c.model.conv1.stride = 2
    c.model.conv2.stride = 2
    c.model.conv2.padding = 0
    c.model.conv3.maps = 256
    c.model.conv4.maps = 512
    c.model.conv5.maps = 256
    return c
