"""The four-layer CIFAR-10 net with response normalization: 11 % test error in §3.3.

    python -m alexnet_jax.main --config=configs/cifar10_normalized.py
    python -m alexnet_jax.main --config=configs/cifar10_normalized.py --ablate=lrn
        the same net without it, for the claim alone

As in the 2012 code's layers-conv-local-11pct.cfg, which differs from the 13 % net in more than the
normalization: conv3 has twice the maps, and fc8 decays two and a half times as fast. The first
normalization comes after pooling. Its 11 % took some 500 epochs, and test views that were crops;
here it has the epochs of configs/cifar10.py, so compare the two and not with the 11 %.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import cifar10


def get_config() -> ConfigDict:
    """Returns the settings of cifar10.py with the changes below."""
    c = cifar10.get_config()
    c.model.conv1.then = ('relu', 'max_pooling', 'response_normalization')
    c.model.conv2.then = ('relu', 'response_normalization', 'max_pooling')
    c.model.conv3.maps = 64
    c.model.fc8.decay_factor = 2.5
    return c
