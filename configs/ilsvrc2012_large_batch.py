"""Batches of 32,768 images with LARS: You, Zhang, Hsieh, Demmel and Keutzer, arXiv 1709.05011.

    python -m alexnet_jax.main --config=ilsvrc2012_large_batch

They trained AlexNet for 100 epochs in 11 minutes on 1,024 CPUs. We have not trained this yet. On
eight GPUs a step needs 14.7 GiB of each, by the memory plan of the program compiled for H100.

The values are those of their files in Intel's Caffe (models/intel_optimized_models/multinode/
alexnet_bn_64nodes, solver.prototxt and train_val2.prototxt), except where it is said below. LARS
scales the learning rate of each array of weights or biases by its norm, divided by the norm of its
gradient and decay (You, Gitman and Ginsburg, arXiv 1708.03888); the two groups of a layer are one
array. The learning rate rises from 1 to 32 in the first 10 epochs, and is then 32 (1 - epoch /
100)^2. Batch normalization is in place of response normalization: they have it after the ReLU and
the pooling of conv1 to conv4, we have it before the ReLU of these layers.

Two more differences remain. They subtract the mean image at the position of the crop, and divide by
256, which the normalization after conv1 undoes. And LARS divides by the norm of the sum of gradient
and decay here, as in optax, and by the sum of their norms there.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.augmentation.crop = 227
    c.augmentation.positions = 0  # all of them, 30 along each axis
    c.augmentation.colour.noise = 'none'
    c.model.dtype = 'bfloat16'  # ours: theirs was float32
    c.model.conv1.update(extra_padding=False, batch_normalization=True, bias=0.01)
    c.model.conv2.update(extra_padding=False, batch_normalization=True, bias=0.01)
    c.model.conv3.update(extra_padding=False, batch_normalization=True, bias=0.01)
    c.model.conv4.update(extra_padding=False, batch_normalization=True, bias=0.01)
    c.model.conv5.update(extra_padding=False, bias=0.01)
    c.model.conv1.then = ('relu', 'max_pooling')
    c.model.conv2.then = ('relu', 'max_pooling')
    c.model.fc6.update(std=0.005, bias=0.1)
    c.model.fc7.update(std=0.005, bias=0.1)
    c.model.fc8.update(bias=0.01)
    c.model.batch_normalization.epsilon = 1e-4
    c.optimizer.batch_size = 32_768
    c.optimizer.epochs = 100.0
    c.optimizer.rule = 'lars'
    c.optimizer.trust_coefficient = 0.001
    c.learning_rate.initial = 32.0
    c.learning_rate.schedule = 'polynomial'
    c.learning_rate.polynomial.power = 2.0
    c.learning_rate.warm_up.update(epochs=10.0, divide_by=32.0)
    c.evaluation.batch_size = 1024
    c.evaluation.average_views = False  # as in the published result
    return c
