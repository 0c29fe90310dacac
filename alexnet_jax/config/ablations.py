"""The ablations: each claim of the paper about a part of the recipe as one change of a config (§7).

An ablation is a function that changes a config, and only the settings that make up that part. The
published differences are those of top-1 and top-5 error, in percentage points; `log` is the
difference that the notes of the 2012 code have for the runs behind a claim (docs/decisions.md).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config.schema import flatten
from alexnet_jax.runtime.user_errors import UserError


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One part of the recipe, and the published effect of leaving it out.

    Attributes:
      change: removes that part from a config, in place.
      claim: what the paper says about it, and where.
      paper: the published difference; '' if there is no number.
      log: the difference in the notes of the 2012 code, with the nets compared; '' for none.
    """

    change: Callable[[ConfigDict], None]
    claim: str
    paper: str = ''
    log: str = ''


def ablate(raw: ConfigDict, names: Iterable[str]) -> ConfigDict:
    """Returns a copy of a config without some parts.

    Args:
      raw: nested settings, as a file in `configs/` states them.
      names: keys of ABLATIONS, in any order.

    Raises:
      UserError: there is no ablation of such a name, the config does not have that part, or no
        longer has it after the other ablations.
    """
    names = list(names)
    check_names(names)
    for name in names:
        _without(raw, name)  # each must be possible alone
    result = raw.copy_and_resolve_references()
    for name in sorted(names, key=list(ABLATIONS).index):
        try:
            result = _without(result, name)
        except UserError as error:
            others = ', '.join(other for other in names if other != name)
            raise UserError(f'the ablation {name} clashes with {others}: {error}') from error
    return result


def check_names(names: Sequence[str]) -> None:
    """Checks that there are ablations of these names, each given once.

    Raises:
      UserError: there is no ablation of such a name, or one is given twice.
    """
    for name in names:
        if name not in ABLATIONS:
            raise UserError(f'there is no ablation {name!r}; there are {", ".join(ABLATIONS)}')
        if names.count(name) > 1:
            raise UserError(f'the ablation {name} is given twice')


def changes(raw: ConfigDict, name: str) -> dict[str, Any]:
    """Returns the settings that one ablation changes, by dotted name, and their new values.

    Raises:
      UserError: the config does not have that part.
    """
    before, after = flatten(raw), flatten(_without(raw, name))
    return {key: x for key, x in after.items() if x != before[key]}


def _without(raw: ConfigDict, name: str) -> ConfigDict:
    config = raw.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        ABLATIONS[name].change(config)
    return config


def _require(condition: bool, name: str, reason: str) -> None:
    """Refuses an ablation of what the config does not have."""
    if not condition:
        raise UserError(f'the config has nothing to ablate as {name}: {reason}')


def _convolutions(c: ConfigDict) -> list[ConfigDict]:
    layers = [c.model[f'conv{i}'] for i in range(1, 7)]
    return [layer for layer in layers if layer.maps]


def _hiddens(c: ConfigDict) -> list[ConfigDict]:
    return [layer for layer in (c.model.fc6, c.model.fc7) if layer.units]


def _replace(layer: ConfigDict, operations: tuple[str, ...], by: tuple[str, ...] = ()) -> bool:
    """Replaces operations after a layer; returns whether it had any of them."""
    then = tuple(layer.then)
    layer.then = tuple(x for op in then for x in (by if op in operations else (op,)))
    return layer.then != then


def _relu(c: ConfigDict) -> None:
    changed = [_replace(layer, ('relu',), ('tanh',)) for layer in _convolutions(c)]
    for layer in _hiddens(c):
        changed.append(layer.nonlinearity == 'relu')
        layer.nonlinearity = 'tanh'
    _require(any(changed), 'relu', 'no layer has one')


def _two_towers(c: ConfigDict) -> None:
    """Leaves one tower, twice as wide in conv5, fc6 and fc7 (footnote 2; layers-145-half.cfg)."""
    _require(c.model.towers > 1, 'two_towers', 'it has one tower')
    for layer in (c.model.conv5, c.model.conv6):
        layer.maps *= c.model.towers
    for layer in (c.model.fc6, c.model.fc7, c.model.bottleneck):
        layer.units *= c.model.towers
    c.model.towers = 1


def _cross_talk(c: ConfigDict) -> None:
    """Separates the towers up to fc8; conv2 is a quarter wider, fc6 twice (layers-150.cfg)."""
    layers = _convolutions(c)[1:] + _hiddens(c)
    exchanges = c.model.towers > 1 and any(layer.reads == 'all' for layer in layers)
    _require(exchanges, 'cross_talk', 'no layer reads another tower')
    for layer in layers + [c.model.bottleneck] * bool(c.model.bottleneck.units):
        layer.reads = 'own'
    c.model.response_normalization.reads = 'own'
    c.model.conv2.maps = c.model.conv2.maps * 5 // 4
    c.model.fc6.units *= 2


def _lrn(c: ConfigDict) -> None:
    """Removes the normalization over pixels too, where there is one, as net #148 did."""
    kinds = ('response_normalization', 'spatial_normalization')
    changed = [_replace(layer, kinds) for layer in _convolutions(c)]
    _require(any(changed), 'lrn', 'no layer is normalized')


def _overlapping_pooling(c: ConfigDict) -> None:
    """Makes pools 2x2, with paddings that keep the sizes of the maps, as net #147 (28 ... 6)."""
    pools = c.model.max_pooling
    pooled = any('max_pooling' in layer.then for layer in _convolutions(c))
    _require(pooled and pools.window > pools.stride, 'overlapping_pooling', 'no pools overlap')
    size = before = c.augmentation.crop
    for layer in _convolutions(c):
        before = _pooled(layer, before, layer.padding, pools.window, pools.stride)
        if before < _pooled(layer, size, layer.padding, pools.stride, pools.stride):
            layer.padding = max(0, layer.padding - 1)
        size = _pooled(layer, size, layer.padding, pools.stride, pools.stride)
    pools.window = pools.stride


def _pooled(layer: ConfigDict, size: int, padding: int, window: int, stride: int) -> int:
    """Returns the pixels across a layer's output, for an input of `size` pixels."""
    from alexnet_jax.ops.convolution import convolved_size  # JAX is slow to import
    from alexnet_jax.ops.max_pooling import pooled_size

    size = convolved_size(size, layer.kernel, layer.stride, padding, layer.extra_padding)
    return pooled_size(size, window, stride) if 'max_pooling' in layer.then else size


def _dropout(c: ConfigDict) -> None:
    layers = [layer for layer in _hiddens(c) if layer.dropout or layer.input_dropout]
    _require(bool(layers), 'dropout', 'no layer has any')
    for layer in layers:
        layer.dropout = layer.input_dropout = 0.0


def _crops(c: ConfigDict) -> None:
    places = c.dataset.image_size - c.augmentation.crop + 1
    _require(places > 1 and c.augmentation.positions != 1, 'crops', 'it trains on whole images')
    c.augmentation.positions = 1


def _mirror(c: ConfigDict) -> None:
    _require(c.augmentation.mirror, 'mirror', 'it mirrors no image')
    c.augmentation.mirror = False


def _colour(c: ConfigDict) -> None:
    _require(c.augmentation.colour.noise != 'none', 'colour', 'it has no colour noise')
    c.augmentation.colour.noise = 'none'


def _weight_decay(c: ConfigDict) -> None:
    decays = bool(c.optimizer.weight_decay or c.optimizer.bias_weight_decay)
    _require(decays, 'weight_decay', 'it has none')
    c.optimizer.weight_decay = c.optimizer.bias_weight_decay = 0.0


def _momentum(c: ConfigDict) -> None:
    _require(bool(c.optimizer.momentum), 'momentum', 'it has none')
    c.optimizer.momentum = 0.0


def _layer(name: str) -> Callable[[ConfigDict], None]:
    """Returns a change that removes a middle layer.

    The next layer takes over its inputs, and the layer before it takes over its pools.
    """

    def change(c: ConfigDict) -> None:
        number = int(name.removeprefix('conv'))
        removed, following = c.model[name], c.model[f'conv{number + 1}']
        _require(removed.maps > 0, name, 'it has no such layer')
        removed.maps = 0
        if removed.reads == 'all' and following.maps:
            following.reads = 'all'
        earlier = [c.model[f'conv{i}'] for i in range(1, number)]
        before = [layer for layer in earlier if layer.maps][-1]
        pools = tuple(op for op in removed.then if op.endswith('_pooling'))
        before.then = (*before.then, *pools)

    return change


def _ten_views(c: ConfigDict) -> None:
    _require(c.evaluation.average_views, 'ten_views', 'it tests the centre crop alone')
    c.evaluation.average_views = False


_MIDDLE = (
    '"removing any of the middle layers results in a loss of about 2% for the top-1 performance '
    'of the network" (§7)'
)

# In the order in which several are applied.
ABLATIONS = {
    'relu': Ablation(
        _relu, 'tanh instead: ReLUs learn "several times faster" (§3.1)', 'six times the epochs'
    ),
    'two_towers': Ablation(
        _two_towers,
        'one GPU, half the maps: the two-GPU net has a lower error (§3.2)',
        '1.7 / 1.2',
        '1.695 / 1.230 (145-half, test of 2010)',
    ),
    'cross_talk': Ablation(
        _cross_talk,
        'GPUs "communicate only in certain layers" (§3.2)',
        '',
        '1.164 / 1.120 (150)',
    ),
    'lrn': Ablation(
        _lrn, 'response normalization lowers the error (§3.3)', '1.4 / 1.2', '1.370 / 1.152 (148)'
    ),
    'overlapping_pooling': Ablation(
        _overlapping_pooling,
        'overlapping pools lower the error (§3.4)',
        '0.4 / 0.3',
        '0.394 / 0.300 (147)',
    ),
    'dropout': Ablation(
        _dropout, '"without dropout, our network exhibits substantial overfitting" (§4.2)'
    ),
    'crops': Ablation(
        _crops, 'without crops "our network suffers from substantial overfitting" (§4.1)'
    ),
    'mirror': Ablation(_mirror, 'horizontal reflections, with the same claim as crops (§4.1)'),
    'colour': Ablation(
        _colour, 'colour noise "reduces the top-1 error rate by over 1%" (§4.1)', 'over 1 / -'
    ),
    'weight_decay': Ablation(_weight_decay, 'decay "reduces the model\'s training error" (§5)'),
    'momentum': Ablation(_momentum, 'momentum of 0.9; the paper makes no claim (§5)'),
    'conv3': Ablation(_layer('conv3'), _MIDDLE, 'about 2 / -'),
    'conv4': Ablation(_layer('conv4'), _MIDDLE, 'about 2 / -'),
    'conv5': Ablation(_layer('conv5'), _MIDDLE, 'about 2 / -'),
    'ten_views': Ablation(
        _ten_views,
        'the mean of ten views has a lower error than the centre (§4.1, footnote 4)',
        '1.5 / 1.3',
        '1.552 / 1.297 (145, test of 2010)',
    ),
}
