"""Batch normalization (Ioffe and Szegedy, 2015) in the two places of response normalization.

    python -m alexnet_jax.main --config=configs/batch_normalization.py

It comes before the ReLU, as its authors have it, and in place of a bias of 1 conv2 begins with 0.
All else is configs/ilsvrc2012.py. We have not trained it on ImageNet yet.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings: those of ilsvrc2012.py but for what stands here."""
    c = runpy.run_path(str(Path(__file__).with_name('ilsvrc2012.py')))['get_config']()
    c.model.conv1.then = ('batch_normalization', 'relu', 'max_pooling')
    c.model.conv2.then = ('batch_normalization', 'relu', 'max_pooling')
    c.model.conv2.bias = 0.0
    return c
