"""The net of "One weird trick for parallelizing convolutional neural networks" (Krizhevsky, 2014).

    python -m alexnet_jax.main --config=one_weird_trick

It is cuda-convnet2's net for four GPUs, layers-imagenet-4gpu-data-model.cfg with
layer-params-imagenet-4gpu-data-model.cfg, by the command line in its wiki (MultiGPU.md). The
convolutions share the images of each batch of 512; each GPU has a fourth of the units of the dense
layers (`mesh.dense='all'`). These pass over four sub-batches of 128 and are updated after each
(updatePeriod=1), with the learning rate of a batch of 128; that of the convolutions is four times
as large. We know of no published error of this run. The same net on one GPU, with batches of 128
and an initial bias of -7 in fc8, has 40.4 % top-1 and 18.2 % top-5 validation error, ten views
averaged, and 42.5 and 19.8 with the centre patch (TrainingExample.md). We have not trained it yet.

It has one tower with 64, 192, 384, 256 and 256 maps. Layer 1 normalizes and pools before its ReLU,
and layer 5 pools before it; unlike in 2012, no layer normalizes over pixels. Each image has its own
crop and flip (jpeg.cpp:114), and the colour noise stays to the end.

One difference remains: in cuda-convnet2 a sub-batch has the images of one GPU; here it has every
fourth image of the batch, so that the result does not depend on the number of GPUs.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import ilsvrc2012_fixed_schedule


def get_config() -> ConfigDict:
    """Returns the settings of ilsvrc2012_fixed_schedule.py with the changes below."""
    c = ilsvrc2012_fixed_schedule.get_config()
    c.augmentation.images_per_draw = 1
    c.augmentation.colour.until_epoch = 90.0
    c.model.towers = 1
    c.model.conv1.update(maps=64, rate_factor=4.0)
    c.model.conv2.update(maps=192, rate_factor=4.0)
    c.model.conv2.then = ('relu', 'response_normalization', 'max_pooling')
    c.model.conv3.update(maps=384, rate_factor=4.0)
    c.model.conv4.update(maps=256, rate_factor=4.0)
    c.model.conv5.update(maps=256, rate_factor=4.0)
    c.model.fc6.units = 4096
    c.model.fc7.units = 4096
    c.optimizer.batch_size = 512
    c.optimizer.dense_updates = 4
    c.optimizer.epochs = 90.0
    c.learning_rate.conv1.freeze_at = -1.0  # never
    c.mesh.dense = 'all'
    return c
