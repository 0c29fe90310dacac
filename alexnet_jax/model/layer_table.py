"""The sizes of all layers, from the settings alone (§3.5, Figure 2)."""

import dataclasses

from alexnet_jax.config import schema
from alexnet_jax.config.model_schema import Model
from alexnet_jax.ops.convolution import convolved_size
from alexnet_jax.ops.max_pooling import pooled_size
from alexnet_jax.runtime.user_errors import UserError

CHANNELS = 3
FIRST = 'conv1'  # the layer that reads the images


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of the net, as the paper's Figure 2 annotates it.

    Attributes:
      name: the layer's name in the settings.
      size: pixels across, before pooling.
      pooled: pixels across, after pooling.
      reads: the number of maps (or units) that a tower's layer is connected to.
      maps: the maps (or units) of one tower; for fc8 the classes.
      parameters: the number of parameters in all towers.
      crossing: the number of values per image that a tower sends to each other tower in the forward
        pass.
    """

    name: str
    size: int
    pooled: int
    reads: int
    maps: int
    parameters: int
    crossing: int


def layer_table(config: schema.Config) -> list[Row]:
    """Returns the sizes of all layers, from the settings alone.

    Raises:
      UserError: the crop is too small for the layers, or the number of classes is not known.
    """
    if not config.dataset.classes:
        raise UserError(
            'dataset.classes=0 stands for as many as the images have, and there are no images to '
            'count: set dataset.classes'
        )
    model, towers = config.model, config.model.towers
    rows, size, maps_in = [], config.augmentation.crop, CHANNELS
    for name, layer in model.convolutions().items():
        reads_all = towers > 1 and layer.reads == 'all'
        crossing = size**2 * maps_in if reads_all else 0
        reads, maps = maps_in * (towers if reads_all else 1), model.scale_to_width(layer.maps)
        size, pooled, normalized = _sizes(config, name, size)
        if towers > 1 and model.response_normalization.reads == 'all':
            crossing += sum(n**2 for n in normalized) * _edge_maps(model, maps)
        weights = layer.kernel**2 * reads * maps + maps
        scales = maps if layer.batch_normalization else 0
        parameters = towers * (weights * (1 if layer.shared else size**2) + scales)
        rows.append(Row(name, size, pooled, reads, maps, parameters, crossing))
        size, maps_in = pooled, maps
    units_in = size**2 * maps_in
    for name, dense in model.dense().items():
        reads_all, units = towers > 1 and dense.reads == 'all', model.scale_to_width(dense.units)
        reads = units_in * (towers if reads_all else 1)
        parameters = towers * (reads * units + units)
        rows.append(Row(name, 1, 1, reads, units, parameters, units_in if reads_all else 0))
        units_in = units
    classes = config.dataset.classes
    parameters = towers * units_in * classes + classes
    rows.append(Row('fc8', 1, 1, units_in, classes, parameters, classes if towers > 1 else 0))
    return rows


def _edge_maps(model: Model, maps: int) -> int:
    """Returns the maps of a tower that response normalization sends to its neighbours."""
    size = model.response_normalization.size
    return min(maps, size // 2) + min(maps, size - 1 - size // 2)


def _sizes(config: schema.Config, name: str, size_in: int) -> tuple[int, int, list[int]]:
    """Returns the pixels across a convolutional layer's maps.

    Returns:
      The pixels before and after pooling, and at each response normalization.
    """
    crop, layer = config.augmentation.crop, config.model.convolutions()[name]
    size = convolved_size(size_in, layer.kernel, layer.stride, layer.padding, layer.extra_padding)
    if size_in + 2 * layer.padding < 1 or size < 1:
        raise UserError(f'augmentation.crop={crop} is too small: no pixels are left at {name}')
    pooled, pools, normalized = size, config.model.max_pooling, []
    for operation in layer.then:
        if operation == 'max_pooling':
            pooled = pooled_size(pooled, pools.window, pools.stride)
        elif operation == 'global_average_pooling':
            pooled = 1
        elif operation == 'response_normalization':
            normalized.append(pooled)
    return size, pooled, normalized


def parameter_count(config: schema.Config) -> int:
    """Returns the number of all weights and biases of the net."""
    return sum(row.parameters for row in layer_table(config))
