"""Imagenette: ten classes of ImageNet that TFDS downloads by itself, for those without ImageNet.

    python -m alexnet_jax.main --config=imagenette

The full net on 9,469 training and 3,925 validation images whose short side has 320 pixels
(fast.ai's imagenette2-320), scaled to 256 when they are decoded. With so few images, the net needs
larger initial weights than the paper's to begin to learn: those of the 2012 code. We have not
trained it yet.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.dataset.name = 'imagenette/320px-v2'
    c.dataset.classes = 10
    c.model.conv3.std = 0.03
    c.model.conv4.std = 0.03
    c.model.conv5.std = 0.03
    c.checkpoint.every_epochs = 5.0
    c.log.every_steps = 10
    return c
