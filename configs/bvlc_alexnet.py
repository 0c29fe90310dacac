"""Caffe's AlexNet, the net of its model zoo, with its recipe (BVLC/caffe, models/bvlc_alexnet).

    python -m alexnet_jax.main --config=bvlc_alexnet

Its published weights have 42.9 % top-1 and 19.8 % top-5 validation error for the centre crop
(accuracies of 57.1 % and 80.2 % in its readme.md), after 360,000 of 450,000 steps. We have not
trained it yet.

Caffe's two groups are the two towers. Differences from ilsvrc2012.py, by train_val.prototxt and
solver.prototxt: crops of 227 pixels; k = 1 in response normalization, alpha divided by its size,
and a sum that continues from one group into the other; biases of 0.1 in place of 1, and weights of
0.005 in fc6 and fc7; no colour noise; batches of 256; a learning rate that falls every 100,000
steps; and biases with twice the learning rate and no decay.

Two differences from Caffe remain. Caffe subtracts the mean image at the position of the crop, this
program always its centre. Caffe's images were squashed to 256 x 256 pixels, ours are scaled and
then cropped to the central square.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.augmentation.crop = 227
    c.augmentation.positions = 0  # all of them, 30 along each axis
    c.augmentation.colour.noise = 'none'
    c.model.conv1.update(extra_padding=False)
    c.model.conv2.update(extra_padding=False, bias=0.1)
    c.model.conv3.update(extra_padding=False)
    c.model.conv4.update(extra_padding=False, bias=0.1)
    c.model.conv5.update(extra_padding=False, bias=0.1)
    c.model.fc6.update(std=0.005, bias=0.1)
    c.model.fc7.update(std=0.005, bias=0.1)
    c.model.response_normalization.k = 1.0  # the default in caffe.proto
    c.model.response_normalization.alpha = 2e-5  # lrn_layer.cpp divides 1e-4 by the size
    c.model.response_normalization.reads = 'all'
    c.optimizer.batch_size = 256
    c.optimizer.epochs = 89.92  # 450,000 steps of 256 out of 1,281,167 images
    c.optimizer.bias_weight_decay = 0.0
    c.optimizer.bias_rate_factor = 2.0
    c.learning_rate.schedule = 'steps'
    c.learning_rate.steps.epochs = (19.98, 39.96, 59.94, 79.93)  # every 100,000 steps
    c.evaluation.average_views = False  # as in the published result
    return c
