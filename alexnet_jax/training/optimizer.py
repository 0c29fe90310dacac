"""The printed update rule and how the learning rate falls (§5)."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.config import schema


class Rates(NamedTuple):
    """eps of the update rule now, for each kind of parameter; float or () float32."""

    weights: Any
    biases: Any
    conv1_weights: Any
    conv1_biases: Any

    @classmethod
    def equal(cls, rate: Any) -> 'Rates':
        """The same for all, as in the paper."""
        return cls(*[jnp.float32(rate)] * 4)

    def of(self, path: Any) -> Any:
        """That of the parameter at this path."""
        biases = is_bias(path)
        if path[0].key == 'conv1':
            return self.conv1_biases if biases else self.conv1_weights
        return self.biases if biases else self.weights


def paper_momentum(config: schema.Config) -> optax.GradientTransformationExtraArgs:
    """v <- momentum v - decay eps w - eps g;  w <- w + v.

    eps multiplies both terms inside the velocity: after eps has changed, this is not
    `optax.sgd(momentum=...)` with decoupled decay, whose velocity knows no rate. Biases may have a
    rate and a decay of their own, and layers their share of the decay. Where conv1's eps is 0 it
    stays as it is, velocity or not (2012: weights.cu:148).

    Returns:
      A transformation whose `update` needs `params` and `learning_rate`, Rates. Its state is the
      velocity.
    """
    return optax.chain(
        _add_decay(config),
        _scale_by_rate(),
        optax.trace(decay=config.optimizer.momentum),
        _leave_frozen(),
    )


def _stateless(of_leaf: Any) -> optax.GradientTransformationExtraArgs:
    """`of_leaf(path, update, parameter, rates)` for every parameter."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        def of(path: Any, g: jax.Array, w: jax.Array) -> jax.Array:
            return of_leaf(path, g, w, extra_args['learning_rate'])

        return jax.tree_util.tree_map_with_path(of, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _add_decay(config: schema.Config) -> optax.GradientTransformationExtraArgs:
    ours, layers = config.optimizer, config.model.layers()

    def of(path: Any, g: jax.Array, w: jax.Array, _: Rates) -> jax.Array:
        if is_average(path):
            return g
        weights = ours.weight_decay * layers[path[0].key].decay_factor
        decay = ours.bias_weight_decay if is_bias(path) else weights
        return g + decay * w if decay else g

    return _stateless(of)


def _scale_by_rate() -> optax.GradientTransformationExtraArgs:
    return _stateless(lambda path, g, _, rates: -rates.of(path) * g)


def _leave_frozen() -> optax.GradientTransformationExtraArgs:
    def of(path: Any, v: jax.Array, _: jax.Array, rates: Rates) -> jax.Array:
        if path[0].key != 'conv1':
            return v
        return jnp.where(rates.of(path) == 0, jnp.zeros((), v.dtype), v)

    return _stateless(of)


def is_bias(path: Any) -> bool:
    """Whether the parameter at this path is a bias, or a scale of batch normalization."""
    return path[-1].key.startswith(('bias', 'scale'))


def is_average(path: Any) -> bool:
    """Whether this is no parameter but what batch normalization keeps for test time."""
    return path[-1].key.startswith('average')


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

    def after_evaluation(self, plateau: schema.Plateau, error: float) -> 'Progress':
        """Divides the rate once the error has stopped improving, as the paper did by hand."""
        if error < self.best:
            return Progress(error, 0, self.drops)
        waited = self.waited + 1
        if waited >= plateau.patience and self.drops < plateau.drops:
            return Progress(self.best, 0, self.drops + 1)
        return Progress(self.best, waited, self.drops)


def rates(config: schema.Config, epoch: float, progress: Progress) -> Rates:
    """eps of all parameters, after `epoch` passes over the training set, as floats."""
    rate, ours = config.learning_rate, config.optimizer
    weights = learning_rate(rate, epoch, ours.epochs, progress)
    biases = ours.bias_rate_factor * (weights if ours.bias_rate_falls else rate.initial)
    conv1 = rate.conv1
    if 0 <= conv1.freeze_at <= epoch:
        return Rates(weights, biases, 0.0, 0.0)
    lowered = 0 <= conv1.lower_at <= epoch
    return Rates(weights, biases, weights / conv1.divide_by if lowered else weights, biases)


def learning_rate(
    rate: schema.LearningRate, epoch: float, epochs: float, progress: Progress
) -> float:
    """eps of the weights, after `epoch` of `epochs` passes over the training set.

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
