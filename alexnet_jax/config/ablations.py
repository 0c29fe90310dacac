"""The paper's claims about its own parts, each as one change of a config: the ablations.

An ablation is a function that changes a config, and nothing in it but what it names. The published
differences are of top-1 and top-5 error, in points; 'log' is what the notes of the 2012 code have
for the runs behind a claim (docs/decisions.md).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.config.schema import flatten
from alexnet_jax.runtime.user_errors import UserError


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One part of the recipe, and what is known of doing without it.

    Attributes:
      change: makes the config one without that part.
      claim: what the paper says of it, and where.
      paper: the published difference; '' where there is no number.
      log: the difference in the notes of the 2012 code, with the nets compared; '' for none.
    """

    change: Callable[[ConfigDict], None]
    claim: str
    paper: str = ''
    log: str = ''


def ablate(raw: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A config without these parts.

    Args:
      raw: nested settings, as a file in `configs/` states them.
      names: of ABLATIONS, in any order.

    Raises:
      UserError: there is no ablation of such a name, the config does not have that part, or not
        after the others.
    """
    names = list(names)
    for name in names:
        if name not in ABLATIONS:
            raise UserError(f'there is no ablation {name!r}; there are {", ".join(ABLATIONS)}')
        if names.count(name) > 1:
            raise UserError(f'the ablation {name} is given twice')
    left = dict(raw)
    for name in sorted(names, key=list(ABLATIONS).index):
        alone = _without(raw, name)
        try:
            left = alone if left == raw else _without(left, name)
        except UserError as error:
            others = ', '.join(other for other in names if other != name)
            raise UserError(f'the ablation {name} clashes with {others}: {error}') from error
    return left


def changes(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings that one ablation changes, by dotted name, and their new values.

    Raises:
      UserError: the config does not have that part.
    """
    before, after = flatten(raw), flatten(_without(raw, name))
    return {key: x for key, x in after.items() if x != before[key]}


def _without(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    config = ConfigDict(raw, convert_dict=True)
    ABLATIONS[name].change(config)
    return config.to_dict()


def _needs(there: bool, name: str, what: str) -> None:
    if not there:
        raise UserError(f'the config has nothing to ablate as {name}: {what}')


def _convolutions(c: ConfigDict) -> list[ConfigDict]:
    layers = [c.model[f'conv{i}'] for i in range(1, 7)]
    return [layer for layer in layers if layer.maps]


def _hiddens(c: ConfigDict) -> list[ConfigDict]:
    return [layer for layer in (c.model.fc6, c.model.fc7) if layer.units]


def _replace(layer: ConfigDict, operations: tuple[str, ...], by: tuple[str, ...] = ()) -> bool:
    """Replaces operations after a layer; says whether there were any."""
    then = tuple(layer.then)
    layer.then = tuple(x for op in then for x in (by if op in operations else (op,)))
    return layer.then != then


def _relu(c: ConfigDict) -> None:
    found = [_replace(layer, ('relu',), ('tanh',)) for layer in _convolutions(c)]
    for layer in _hiddens(c):
        found.append(layer.nonlinearity == 'relu')
        layer.nonlinearity = 'tanh'
    _needs(any(found), 'relu', 'no layer has one')


def _two_towers(c: ConfigDict) -> None:
    """layers-145-half.cfg: one tower as wide as before but in conv5, fc6 and fc7 (footnote 2)."""
    _needs(c.model.towers > 1, 'two_towers', 'it has one tower')
    for layer in (c.model.conv5, c.model.conv6):
        layer.maps *= c.model.towers
    for layer in (c.model.fc6, c.model.fc7):
        layer.units *= c.model.towers
    c.model.towers = 1


def _cross_talk(c: ConfigDict) -> None:
    """layers-150.cfg: towers that meet in fc8 alone, conv2 a quarter wider and fc6 twice."""
    layers = _convolutions(c)[1:] + _hiddens(c)
    found = c.model.towers > 1 and any(layer.reads == 'all' for layer in layers)
    _needs(found, 'cross_talk', 'no layer reads another tower')
    for layer in layers:
        layer.reads = 'own'
    c.model.conv2.maps = c.model.conv2.maps * 5 // 4
    c.model.fc6.units *= 2


def _lrn(c: ConfigDict) -> None:
    """#148: without the spatial normalization too, where there is one."""
    gone = ('response_normalization', 'spatial_normalization')
    _needs(any([_replace(x, gone) for x in _convolutions(c)]), 'lrn', 'no layer is normalized')


def _overlapping_pooling(c: ConfigDict) -> None:
    """#147: 2x2 pools, and the paddings that keep the sizes of the maps (28, 26, 13, 11, 6)."""
    pools = c.model.max_pooling
    pooled = any('max_pooling' in layer.then for layer in _convolutions(c))
    _needs(pooled and pools.window > pools.stride, 'overlapping_pooling', 'no pools overlap')
    size = before = c.augmentation.crop
    for layer in _convolutions(c):
        before = _pooled(layer, before, layer.padding, pools.window, pools.stride)
        if before < _pooled(layer, size, layer.padding, pools.stride, pools.stride):
            layer.padding = max(0, layer.padding - 1)
        size = _pooled(layer, size, layer.padding, pools.stride, pools.stride)
    pools.window = pools.stride


def _pooled(layer: ConfigDict, size: int, padding: int, window: int, stride: int) -> int:
    """Pixels across what a layer of `size` pixels gives."""
    from alexnet_jax.ops.convolution import convolved_size  # JAX is slow to import
    from alexnet_jax.ops.max_pooling import pooled_size

    size = convolved_size(size, layer.kernel, layer.stride, padding)
    return pooled_size(size, window, stride) if 'max_pooling' in layer.then else size


def _dropout(c: ConfigDict) -> None:
    layers = [layer for layer in _hiddens(c) if layer.dropout]
    _needs(bool(layers), 'dropout', 'no layer has any')
    for layer in layers:
        layer.dropout = 0.0


def _crops(c: ConfigDict) -> None:
    places = c.dataset.image_size - c.augmentation.crop + 1
    _needs(places > 1 and c.augmentation.positions != 1, 'crops', 'it trains on whole images')
    c.augmentation.positions = 1


def _mirror(c: ConfigDict) -> None:
    _needs(c.augmentation.mirror, 'mirror', 'it mirrors no image')
    c.augmentation.mirror = False


def _colour(c: ConfigDict) -> None:
    _needs(c.augmentation.colour.noise != 'none', 'colour', 'it has no colour noise')
    c.augmentation.colour.noise = 'none'


def _weight_decay(c: ConfigDict) -> None:
    ours = c.optimizer
    _needs(bool(ours.weight_decay or ours.bias_weight_decay), 'weight_decay', 'it has none')
    ours.weight_decay = ours.bias_weight_decay = 0.0


def _momentum(c: ConfigDict) -> None:
    _needs(bool(c.optimizer.momentum), 'momentum', 'it has none')
    c.optimizer.momentum = 0.0


def _layer(name: str) -> Callable[[ConfigDict], None]:
    """Without a middle layer; the next one reads what it read, and what pools after it stays."""

    def change(c: ConfigDict) -> None:
        number = int(name.removeprefix('conv'))
        gone, following = c.model[name], c.model[f'conv{number + 1}']
        _needs(gone.maps > 0, name, 'it has no such layer')
        gone.maps = 0
        if gone.reads == 'all' and following.maps:
            following.reads = 'all'
        earlier = [c.model[f'conv{i}'] for i in range(1, number)]
        before = [layer for layer in earlier if layer.maps][-1]
        before.then = (*before.then, *(op for op in gone.then if op.endswith('_pooling')))

    return change


def _ten_views(c: ConfigDict) -> None:
    _needs(c.evaluation.average_views, 'ten_views', 'it tests the centre crop alone')
    c.evaluation.average_views = False


_MIDDLE = (
    '"removing any of the middle layers results in a loss of about 2% for the top-1 performance '
    'of the network" (§7)'
)

# In the order in which several are done.
ABLATIONS = {
    'relu': Ablation(
        _relu, 'tanh instead: ReLUs learn "several times faster" (§3.1)', 'six times the epochs'
    ),
    'two_towers': Ablation(
        _two_towers,
        'one GPU, half the maps: the two-GPU net errs less (§3.2)',
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
        'pools that overlap err less (§3.4)',
        '0.4 / 0.3',
        '0.394 / 0.300 (147)',
    ),
    'dropout': Ablation(
        _dropout, '"without dropout, our network exhibits substantial overfitting" (§4.2)'
    ),
    'crops': Ablation(
        _crops, 'without crops "our network suffers from substantial overfitting" (§4.1)'
    ),
    'mirror': Ablation(_mirror, 'horizontal reflections, as the crops (§4.1)'),
    'colour': Ablation(
        _colour, 'colour noise "reduces the top-1 error rate by over 1%" (§4.1)', 'over 1 / -'
    ),
    'weight_decay': Ablation(_weight_decay, 'decay "reduces the model\'s training error" (§5)'),
    'momentum': Ablation(_momentum, 'momentum of 0.9; no claim is made (§5)'),
    'conv3': Ablation(_layer('conv3'), _MIDDLE, 'about 2 / -'),
    'conv4': Ablation(_layer('conv4'), _MIDDLE, 'about 2 / -'),
    'conv5': Ablation(_layer('conv5'), _MIDDLE, 'about 2 / -'),
    'ten_views': Ablation(
        _ten_views,
        'the mean of ten views errs less than the centre (§4.1, footnote 4)',
        '1.5 / 1.3',
        '1.552 / 1.297 (145, test of 2010)',
    ),
}
