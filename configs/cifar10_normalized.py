"""The four-layer CIFAR-10 net with response normalization: 11 % test error in §3.3.

    python -m alexnet_jax.main --config=cifar10_normalized
    python -m alexnet_jax.main --config=cifar10_normalized --ablate=lrn
        the same net without it, which tests the claim alone

As in layers-conv-local-11pct.cfg of the 2012 code, which differs from the 13 % net in more than the
normalization: conv3 has twice the maps, and fc8 decays two and a half times as fast. The first
normalization comes after pooling. The 11 % took some 500 epochs, and its test views were crops;
this recipe has the epochs of cifar10.py, so compare it with that recipe and not with the 11 %.
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
