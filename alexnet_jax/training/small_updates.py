"""Which arrays a GPU updates by the kernel of ops/momentum.py, and by which rules (§5).

They are all convolution kernels and biases. With the kernel, the training step of the paper's net
has 18 launches fewer (counted for one H100).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.model import alexnet
from alexnet_jax.model.layer_table import FIRST
from alexnet_jax.model.parameters import Average, Bias, ParameterInfo
from alexnet_jax.ops.implementations import Platform
from alexnet_jax.ops.momentum import kernel_works, update
from alexnet_jax.ops.triton.rules import KERNEL_DIMENSIONS, Rule
from alexnet_jax.training.optimizer import Rates, frozen_layers, weight_decay
from alexnet_jax.training.state import State


def choose(config: Config, platform: Platform) -> Callable[..., tuple[Any, Any]] | None:
    """Returns the function that updates the small arrays; None where the kernel does not work.

    It does not work for the rule 'lars', whose rates depend on sums over the arrays.

    Args:
      config: the settings of the run.
      platform: the platform that the program is compiled for.

    Returns:
      `update_small(state, gradients, hyperparameters, params, velocity)`. `state` is the old one
      and `hyperparameters` the array of `Hyperparameters.pack`. It returns `params` and `velocity`
      with the small arrays replaced by those of the kernel. XLA then leaves out the computation of
      the arrays that were replaced.
    """
    if config.optimizer.rule != 'sgd' or not kernel_works(platform):
        return None
    return functools.partial(_update_small, config)


def _update_small(
    config: Config,
    state: State,
    gradients: Any,
    hyperparameters: Array,
    params: Any,
    velocity: Any,
    interpret: bool = False,
) -> tuple[Any, Any]:
    leaves, structure = jax.tree.flatten(params)
    velocities, structure_of_velocity = jax.tree.flatten(velocity)
    old_w, old_v, g = map(jax.tree.leaves, (state.params, state.velocity, gradients))
    rules = rules_of(config)
    small = [i for i, rule in enumerate(rules) if rule is not None]
    new_w, new_v = update(
        [old_w[i] for i in small],
        [old_v[i] for i in small],
        [g[i] for i in small],
        [rule for rule in rules if rule is not None],
        hyperparameters,
        config.optimizer.momentum,
        interpret,
    )
    for i, w, v in zip(small, new_w, new_v, strict=True):
        leaves[i], velocities[i] = w, v
    return jax.tree.unflatten(structure, leaves), jax.tree.unflatten(
        structure_of_velocity, velocities
    )


def rules_of(config: Config) -> list[Rule | None]:
    """Returns the rule of each parameter, in the order of `jax.tree.leaves`.

    It is None for the weights of dense layers and of unshared convolutions, which are so large that
    a launch for each costs little, and for arrays that the update does not change.
    """
    return jax.tree.leaves(
        jax.tree.map(
            functools.partial(_rule, config),
            alexnet.parameter_info(config),
            alexnet.shapes(config),
        ),
        is_leaf=lambda rule: rule is None or isinstance(rule, Rule),
    )


def _rule(config: Config, info: ParameterInfo, array: Any) -> Rule | None:
    """Returns the rule that `paper_momentum` has for a parameter; None as for `rules_of`."""
    is_small = info.kind is Bias or array.ndim == KERNEL_DIMENSIONS
    if info.kind is Average or info.layer in frozen_layers(config) or not is_small:
        return None
    return Rule(
        decay=weight_decay(config, info),
        rate=Rates(*range(len(Rates._fields))).of_parameter(info),
        factor=config.model.layers()[info.layer].rate_factor,
        may_freeze=info.layer == FIRST,
    )
