"""The printed update rule, and how the learning rate falls (§5)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from alexnet_jax.config import schema
from alexnet_jax.model import towers
from alexnet_jax.model.layer_table import FIRST
from alexnet_jax.model.parameters import Average, Bias, ParameterInfo


class Rates(NamedTuple):
    """The learning rate of each kind of parameter at one step; float or () float32."""

    weights: Any
    biases: Any
    conv1_weights: Any
    conv1_biases: Any

    @classmethod
    def equal(cls, rate: Any) -> 'Rates':
        """Returns the same learning rate for all parameters, as in the paper."""
        return cls(*[jnp.float32(rate)] * 4)

    def of_parameter(self, info: ParameterInfo) -> Any:
        """Returns the learning rate for this parameter."""
        if info.layer == FIRST:
            return self.conv1_biases if info.kind is Bias else self.conv1_weights
        return self.biases if info.kind is Bias else self.weights


def update_rule(config: schema.Config, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """Returns the update rule of the settings.

    'lars' is `optax.lars` with the paper's rates and decays: the rule of `paper_momentum`, in which
    each array's gradient and decay are first multiplied by a trust ratio.

    Args:
      config, parameters: as for `paper_momentum`.
    """
    if config.optimizer.rule == 'lars':
        return _momentum(config, parameters, _scale_by_trust_ratio(config, parameters))
    return paper_momentum(config, parameters)


def paper_momentum(config: schema.Config, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """Returns the update rule of §5: v <- momentum v - decay eps w - eps g;  w <- w + v.

    The learning rate eps multiplies both terms inside the velocity. Once eps changes, this is not
    `optax.sgd(momentum=...)` with decoupled decay, whose velocity does not contain the rate. Biases
    may have a rate and a decay of their own, and layers a factor for each. Where eps of conv1 is
    0, conv1 does not change, whatever its velocity (2012: weights.cu:148).

    Args:
      config: the settings of the run.
      parameters: a tree like the parameters, of ParameterInfo.

    Returns:
      A transformation whose `update` needs `params` and `learning_rate`, which is Rates. Its state
      is the velocity.
    """
    return _momentum(config, parameters)


def _momentum(
    config: schema.Config, parameters: Any, *scaling: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    return optax.chain(
        _add_decay(config, parameters),
        *scaling,
        _multiply_by_rate(config, parameters),
        optax.trace(decay=config.optimizer.momentum),
        _for_each(parameters, _freeze),
    )


def _for_each(
    parameters: Any, transform: Callable[[ParameterInfo, Array, Array, Rates], Array]
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation with `transform(info, update, parameter, rates)` for each one."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        rates = extra_args['learning_rate']

        def transform_one(info: ParameterInfo, g: Array, w: Array) -> Array:
            return transform(info, g, w, rates)

        return jax.tree.map(transform_one, parameters, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _add_decay(config: schema.Config, parameters: Any) -> optax.GradientTransformationExtraArgs:
    def add_decay(info: ParameterInfo, g: Array, w: Array, _: Rates) -> Array:
        decay = weight_decay(config, info)
        return g + decay * w if decay else g

    return _for_each(parameters, add_decay)


def weight_decay(config: schema.Config, info: ParameterInfo) -> float:
    """Returns the weight decay of this parameter."""
    if info.kind is Average:
        return 0.0
    if info.kind is Bias:
        return config.optimizer.bias_weight_decay
    return config.optimizer.weight_decay * config.model.layers()[info.layer].decay_factor


def _scale_by_trust_ratio(
    config: schema.Config, parameters: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation of `optax.scale_by_trust_ratio`, for arrays that may be sharded.

    The norms are those of the entire array, of all towers, as in Caffe, where the weights of both
    groups are one array: so the result is the same on every mesh. Weights and biases have ratios of
    their own, and an array of zeros has 1.
    """

    def scale(info: ParameterInfo, g: Array, w: Array, _: Rates) -> Array:
        if info.kind is Average:
            return g
        norm_of_w, norm_of_g = _norm(w, info), _norm(g, info)
        ratio = config.optimizer.trust_coefficient * norm_of_w / norm_of_g
        return jnp.where((norm_of_w == 0) | (norm_of_g == 0), 1.0, ratio) * g

    return _for_each(parameters, scale)


def _norm(x: Array, info: ParameterInfo) -> Array:
    """Computes the Euclidean norm of a parameter-like array over all devices, () float32."""
    return jnp.sqrt(towers.total_over(info.axes, jnp.square(x).sum()))


def _multiply_by_rate(
    config: schema.Config, parameters: Any
) -> optax.GradientTransformationExtraArgs:
    frozen, layers = frozen_layers(config), config.model.layers()

    def multiply(info: ParameterInfo, g: Array, _: Array, rates: Rates) -> Array:
        if info.layer in frozen:
            return jnp.zeros_like(g)  # its gradient is not needed then, nor computed
        factor = layers[info.layer].rate_factor
        rate = rates.of_parameter(info)
        return -(rate if factor == 1 else factor * rate) * g

    return _for_each(parameters, multiply)


def frozen_layers(config: schema.Config) -> list[str]:
    """Returns the names of the layers whose weights and biases never change."""
    return [name for name, layer in config.model.layers().items() if not layer.rate_factor]


def apply_updates(config: schema.Config, params: dict[str, Any], updates: Any) -> dict[str, Any]:
    """Adds the updates to the parameters, except in frozen layers.

    Those keep every bit; adding 0 would not do that, since it changes -0.0 and, on devices that
    flush them, the smallest numbers.
    """
    updated: Any = optax.apply_updates(params, updates)
    return updated | {name: params[name] for name in frozen_layers(config)}


def _freeze(info: ParameterInfo, v: Array, _: Array, rates: Rates) -> Array:
    """Leaves conv1 unchanged where its learning rate is 0."""
    if info.layer != FIRST:
        return v
    return jnp.where(rates.of_parameter(info) == 0, jnp.zeros((), v.dtype), v)


@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of the plateau schedule after some evaluations.

    Attributes:
      best: the lowest validation top-1 error at any learning rate; above 1 before the first
        evaluation.
      waited: the number of evaluations since the one with the lowest error, or since the last drop.
      drops: how often the learning rate was divided.
    """

    best: float = 2.0
    waited: int = 0
    drops: int = 0

    def after_evaluation(self, plateau: schema.Plateau, error: float) -> 'Progress':
        """Returns the state after one more evaluation.

        The learning rate is divided once the error has stopped improving, as the authors did by
        hand.

        Args:
          plateau: the settings of the schedule.
          error: the top-1 error, a fraction.
        """
        if error < self.best:
            return Progress(error, 0, self.drops)
        waited = self.waited + 1
        if waited >= plateau.patience and self.drops < plateau.drops:
            return Progress(self.best, 0, self.drops + 1)
        return Progress(self.best, waited, self.drops)


def rates(config: schema.Config, epoch: float, progress: Progress) -> Rates:
    """Returns the learning rates after `epoch` passes over the training set, as floats."""
    rate, optimizer = config.learning_rate, config.optimizer
    weights = learning_rate(rate, epoch, optimizer.epochs, progress)
    is_rising = epoch < rate.warm_up.epochs  # for all parameters alike
    falls = optimizer.bias_rate_falls or is_rising
    biases = optimizer.bias_rate_factor * (weights if falls else rate.initial)
    if rate.schedule == 'fixed' and rate.fixed.bias_levels and not is_rising:
        levels, divide_by = rate.fixed.bias_levels, rate.fixed.bias_divide_by
        initial = optimizer.bias_rate_factor * rate.initial
        biases = _fixed(initial, epoch / optimizer.epochs, levels, divide_by)
    conv1 = rate.conv1
    if 0 <= conv1.freeze_at <= epoch:
        return Rates(weights, biases, 0.0, 0.0)
    lowered = 0 <= conv1.lower_at <= epoch
    return Rates(weights, biases, weights / conv1.divide_by if lowered else weights, biases)


def learning_rate(
    rate: schema.LearningRate, epoch: float, epochs: float, progress: Progress
) -> float:
    """Returns the weights' learning rate after `epoch` of `epochs` passes over the training set.

    'plateau' divides it as often as `progress` says; 'steps' divides it at stated epochs; 'fixed'
    is the later schedule of the 2012 code (lr.cu:132, dexp): levels of equal length that fall
    geometrically; 'polynomial' is Caffe's 'poly', which falls to 0. The warm-up takes the place of
    the first epochs of a schedule, and does not shift the rest.
    """
    if epoch < rate.warm_up.epochs:
        start = rate.initial / rate.warm_up.divide_by
        return start + (rate.initial - start) * epoch / rate.warm_up.epochs
    match rate.schedule:
        case 'plateau':
            return _divide(rate.initial, rate.plateau.divide_by, progress.drops)
        case 'steps':
            passed = sum(epoch >= at for at in rate.steps.epochs)
            return _divide(rate.initial, rate.steps.divide_by, passed)
        case 'fixed':
            fixed = rate.fixed
            return _fixed(rate.initial, epoch / epochs, fixed.levels, fixed.divide_by)
        case 'polynomial':
            return rate.initial * max(0.0, 1 - epoch / epochs) ** rate.polynomial.power
        case _:
            raise ValueError(rate.schedule)


def _fixed(initial: float, progress: float, levels: int, divide_by: float) -> float:
    """Returns the learning rate of lr.cu:132 when this fraction of the epochs has passed."""
    level = min(math.floor(progress * levels), levels - 1)
    return _divide(initial, divide_by, level / max(1, levels - 1))


def _divide(rate: float, divisor: float, times: float) -> float:
    """Divides a learning rate so many times; 0 where the divisor exceeds the range of floats."""
    try:
        return rate / divisor**times
    except OverflowError:
        return 0.0
    except ZeroDivisionError:  # many divisions by less than 1
        return math.inf
