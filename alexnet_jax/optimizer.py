"""The printed update rule and how the learning rate falls (§5)."""

import dataclasses
import math
from typing import Any

import jax
import optax

from alexnet_jax import config as settings


def paper_momentum(optimizer: settings.Optimizer) -> optax.GradientTransformationExtraArgs:
    """v <- momentum v - decay eps w - eps g;  w <- w + v.

    eps multiplies both terms inside the velocity: after eps has changed, this is not
    `optax.sgd(momentum=...)` with decoupled decay, whose velocity knows no rate. Biases may have a
    rate (a multiple of eps) and a decay of their own.

    Returns:
      A transformation whose `update` needs `params` and `learning_rate` (eps, a float32 scalar).
      Its state is the velocity.
    """
    return optax.chain(
        optax.add_decayed_weights(optimizer.weight_decay, mask=_weights),
        optax.add_decayed_weights(optimizer.bias_weight_decay, mask=_biases),
        _scale_by_rate(optimizer.bias_rate_factor),
        optax.trace(decay=optimizer.momentum),
    )


def _scale_by_rate(bias_factor: float) -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        def scale(path: Any, g: jax.Array) -> jax.Array:
            factor = bias_factor if _is_bias(path) else 1.0
            return -extra_args['learning_rate'] * factor * g

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _is_bias(path: Any) -> bool:
    return path[-1].key.startswith('bias')


def _biases(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_bias(path), params)


def _weights(params: Any) -> Any:
    return jax.tree.map(lambda bias: not bias, _biases(params))


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the plateau schedule remembers of the evaluations so far.

    Attributes:
      best: the lowest validation top-1 error at any rate; 1 + before the first evaluation.
      waited: evaluations since then, or since the last drop.
      drops: how often the rate was divided.
    """

    best: float = 2.0
    waited: int = 0
    drops: int = 0

    def after_evaluation(self, plateau: settings.Plateau, error: float) -> 'Progress':
        """Divides the rate once the error has stopped improving, as the paper did by hand."""
        if error < self.best:
            return Progress(error, 0, self.drops)
        waited = self.waited + 1
        if waited >= plateau.patience and self.drops < plateau.drops:
            return Progress(self.best, 0, self.drops + 1)
        return Progress(self.best, waited, self.drops)


def learning_rate(
    rate: settings.LearningRate, epoch: float, epochs: float, progress: Progress
) -> float:
    """eps, after `epoch` of `epochs` passes over the training set.

    'plateau' divides when `progress` says so; 'steps' at stated epochs; 'fixed' is the later
    schedule of the 2012 code (lr.cu:132, dexp), equally long levels that fall geometrically.
    """
    match rate.schedule:
        case 'plateau':
            return rate.initial / rate.plateau.divide_by**progress.drops
        case 'steps':
            passed = sum(epoch >= at for at in rate.steps.epochs)
            return rate.initial / rate.steps.divide_by**passed
        case 'fixed':
            level = min(math.floor(epoch / epochs * rate.fixed.levels), rate.fixed.levels - 1)
            return rate.initial / rate.fixed.divide_by ** (level / max(1, rate.fixed.levels - 1))
        case _:
            raise ValueError(rate.schedule)
