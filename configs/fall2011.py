"""Pre-training on all of ImageNet, for "1 CNN*" of Table 2: a sixth convolutional layer.

    python -m alexnet_jax.prepare --tars=fall2011          # one tar per synset, in this folder
    python -m alexnet_jax.main --config=fall2011
    python -m alexnet_jax.main --config=ilsvrc2012_fine_tuned

The sixth layer lies over the last pooling layer: 128 maps of 3x3 per tower, connected to both
towers (layers-146-2011.cfg). Between fc7 and the classes, each tower has 1,024 linear units that
read both towers (fc1a, fc1b), so that 21,841 classes take 45 million weights there and not 89. The
log's net has 21,843 outputs; the Fall 2011 release has 21,841 synsets. For another number of tars
set --config.dataset.classes. The paper fine-tuned such a net to 39.0 / 16.6 on ILSVRC-2012; it
gives no error for the pre-training itself. We have not trained it yet.

The log trained 8 epochs and lowered the learning rate at epoch 6 (layer-params-146-2011.cfg). It
began with the convolutions of a net for the Fall 2009 release, which itself began with those of net
#145, at a tenth of the learning rate. Here all layers begin with random weights or, with
--config.pretrained.workdir=DIR and --config.pretrained.layers, with the layers of another run.
The biases of conv6 had a learning rate of 0.002 in the log, those of all other layers 0.02, which
conv6 has here too: a layer's rate_factor multiplies the learning rate of its weights as well, and
the fine-tuned net has 0.022 there, which must be a slip for one or the other.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012_as_run


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012_as_run.py with the changes below."""
    c = ilsvrc2012_as_run.get_config()
    c.dataset.name = 'synsets_fall2011_256'
    c.dataset.classes = 21_841
    c.augmentation.colour.until_epoch = 8.0
    c.model.conv6.maps = 128
    c.model.bottleneck.units = 1024
    c.optimizer.epochs = 8.0
    c.learning_rate.steps.epochs = (6.0,)
    c.learning_rate.conv1.lower_at = -1.0  # never
    c.learning_rate.conv1.freeze_at = -1.0
    return c
