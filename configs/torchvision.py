"""The net that torchvision has as AlexNet, that of "One weird trick" (Krizhevsky, 2014).

    python -m alexnet_jax.prepare --imagenet=DIR --filter=bilinear
    python -m alexnet_jax.main --config=torchvision

Its published weights (AlexNet_Weights.IMAGENET1K_V1) have 43.5 % top-1 and 20.9 % top-5 validation
error for the centre crop (accuracies of 56.522 % and 79.066 %). We have not trained it yet.

It has one tower with 64, 192, 384, 256 and 256 maps, no response normalization, dropout of the
inputs of fc6 and fc7 in place of their outputs, and the sizes of the maps are rounded down. The
colours are divided by their standard deviations. The recipe is that of torchvision's
references/classification: 90 epochs, 8 x 32 images per batch, a learning rate of 0.01 that falls
every 30 epochs, and a decay of 0.0001 for weights and biases. The initial weights have the standard
deviations of PyTorch's, whose distribution is uniform, 1 / sqrt(3 inputs). torchvision scales
images with a bilinear filter, and so does this recipe; the paper's recipes have a bicubic one.

Two differences from torchvision remain: its training crops have random sizes and shapes before they
are scaled to 224 pixels, and its learning rate is outside of the velocity.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012.py with the changes below."""
    c = ilsvrc2012.get_config()
    c.dataset.name = 'imagenet2012_256_bilinear'
    c.dataset.resize = 'bilinear'
    c.augmentation.positions = 0  # all of them
    c.augmentation.mean = 'colour'
    c.augmentation.constants = 'torchvision'
    c.augmentation.deviations = (58.395, 57.12, 57.375)  # 255 x 0.229, 0.224, 0.225
    c.augmentation.colour.noise = 'none'
    c.model.towers = 1
    c.model.conv1.update(maps=64, padding=2, extra_padding=False, std=0.0303, bias=0.0)
    c.model.conv2.update(maps=192, extra_padding=False, std=0.0144, bias=0.0)
    c.model.conv3.update(maps=384, extra_padding=False, std=0.0139, bias=0.0)
    c.model.conv4.update(maps=256, extra_padding=False, std=0.00982, bias=0.0)
    c.model.conv5.update(maps=256, extra_padding=False, std=0.0120, bias=0.0)
    c.model.fc6.update(units=4096, input_dropout=0.5, dropout=0.0, std=0.00601, bias=0.0)
    c.model.fc7.update(units=4096, input_dropout=0.5, dropout=0.0, std=0.00902, bias=0.0)
    c.model.fc8.update(std=0.00902)
    c.model.conv1.then = ('relu', 'max_pooling')
    c.model.conv2.then = ('relu', 'max_pooling')
    c.optimizer.batch_size = 256
    c.optimizer.weight_decay = 0.0001
    c.optimizer.bias_weight_decay = 0.0001
    c.learning_rate.schedule = 'steps'
    c.learning_rate.steps.epochs = (30.0, 60.0)
    c.evaluation.average_views = False  # as in the published result
    return c
