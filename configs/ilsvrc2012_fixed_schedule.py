"""ILSVRC-2012 with a schedule that needs no intervention: net #170 of the 2012 code.

    python -m alexnet_jax.main --config=ilsvrc2012_fixed_schedule

It is the net of ilsvrc2012_as_run.py. Its log has 40.528 % top-1 and 18.048 % top-5 validation
error, ten views averaged, and 42.341 and 19.583 with the centre patch (layer-params-170.cfg); the
schedule by hand gave 40.664 and 18.210. We have not trained it yet.

The weights' learning rate has four levels, 0.01 to 0.00004, each a quarter of 95 epochs, and that
of the biases two, 0.02 and 0.002 (lr.cu:132, 'dexp'; the 95 are in layer-params-169.cfg:204). Two
changes were still made by hand: the noise ends at epoch 68, and conv1's weights are frozen at 74.
The log does not say that its biases were frozen with them, as they are here.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012_as_run


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012_as_run.py with the changes below."""
    c = ilsvrc2012_as_run.get_config()
    c.augmentation.colour.until_epoch = 68.0
    c.optimizer.epochs = 95.0
    c.learning_rate.schedule = 'fixed'
    c.learning_rate.fixed.bias_levels = 2
    c.learning_rate.conv1.lower_at = -1.0  # never
    c.learning_rate.conv1.freeze_at = 74.0
    return c
