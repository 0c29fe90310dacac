"""The update rule of §5 for all convolution kernels and biases as one Pallas kernel, for GPUs.

XLA updates each array in a kernel of its own. The gradients of convolution kernels come from cuDNN
with the output maps first; XLA transposes them in the update, which it cannot do in place then, and
copies the results into the arrays of the state. Here one kernel updates all of these arrays in
place, which takes 18 launches from the training step of the paper's net on one device.

The kernel is compiled by Triton; see ops/triton/response_normalization.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from alexnet_jax.config.schema import Config
from alexnet_jax.model import alexnet
from alexnet_jax.model.layer_table import FIRST
from alexnet_jax.model.parameters import Average, Bias, ParameterInfo
from alexnet_jax.ops.implementations import Platform, kernel_agrees
from alexnet_jax.ops.triton.segments import silence_deprecation
from alexnet_jax.training.optimizer import Rates, frozen_layers, weight_decay
from alexnet_jax.training.state import State

TILE = 32  # rows and columns of the tile that a program updates
NUM_WARPS = 4  # 8 elements for each thread; 64 registers on sm_90, none of them spilled
KERNEL_DIMENSIONS = 5  # of a convolution: (T, H, W, I, O)


class Rule(NamedTuple):
    """How one array is updated; see `paper_momentum`.

    Attributes:
      decay: the weight decay.
      rate: the place of its learning rate among the hyperparameters.
      factor: the factor of that learning rate.
      may_freeze: whether the array does not change where its learning rate is 0.
    """

    decay: float
    rate: int
    factor: float
    may_freeze: bool


def choose(config: Config, platform: Platform) -> Callable[..., tuple[Any, Any]] | None:
    """Returns the function that updates the small arrays; None where the kernel does not work.

    Args:
      config: the settings of the run.
      platform: the platform that the program is compiled for.

    Returns:
      `update_small(state, gradients, hyperparameters, params, velocity)`. `state` is the old one
      and `hyperparameters` the array of `Hyperparameters.pack`. It returns `params` and `velocity`
      with the small arrays replaced; XLA drops what computed the replaced ones.
    """
    return functools.partial(_update_small, config) if _kernel_works(platform) else None


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
    a launch of their own costs little, and for arrays that the update does not change.
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
    is_small = info.kind is Bias or array.ndim == KERNEL_DIMENSIONS
    if info.kind is Average or info.layer in frozen_layers(config) or not is_small:
        return None
    return Rule(
        decay=weight_decay(config, info),
        rate=Rates(*range(len(Rates._fields))).of_parameter(info),
        factor=config.model.layers()[info.layer].rate_factor,
        may_freeze=info.layer == FIRST,
    )


def update(
    params: Sequence[Array],
    velocities: Sequence[Array],
    gradients: Sequence[Array],
    rules: Sequence[Rule],
    hyperparameters: Array,
    momentum: float,
    interpret: bool = False,
) -> tuple[list[Array], list[Array]]:
    """Applies the rules to arrays, in place.

    Args:
      params, velocities, gradients: float32 arrays, convolution kernels (T, H, W, I, O) or biases.
      rules: for each array, how it is updated.
      hyperparameters: the array of `Hyperparameters.pack`.
      momentum: the factor of the velocity.
      interpret: whether the CPU interprets the kernel.

    Returns:
      The new parameters and velocities.
    """
    silence_deprecation()
    shapes = [x.shape for x in params]
    parts = _parts(shapes)
    # In the order in which cuDNN returns them, so that XLA does not transpose them.
    ordered = [jnp.moveaxis(g, -1, 1) if g.ndim == KERNEL_DIMENSIONS else g for g in gradients]
    gradient = jnp.concatenate([g.reshape(-1) for g in ordered])
    arrays = [x.reshape(-1) for x in (*params, *velocities)]
    new = pl.pallas_call(
        functools.partial(_kernel, parts=parts, rules=rules, momentum=momentum),
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=jax.typeof(x).manual_axis_type)
            for x in arrays
        ],
        grid=(parts[-1].stop,),
        input_output_aliases={i + 2: i for i in range(len(arrays))},
        compiler_params=plgpu.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=interpret,
        name='small_updates',
    )(hyperparameters, gradient, *arrays)
    new = [x.reshape(shape) for x, shape in zip(new, shapes * 2, strict=True)]
    return new[: len(shapes)], new[len(shapes) :]


class _Part(NamedTuple):
    """An array as `matrices` matrices of (rows, columns) and the programs that update it.

    Attributes:
      offset: where its gradient begins.
      start, stop: the programs that update it.
    """

    matrices: int
    rows: int
    columns: int
    offset: int
    start: int
    stop: int


def _parts(shapes: Sequence[tuple[int, ...]]) -> list[_Part]:
    parts, offset, start = [], 0, 0
    for shape in shapes:
        size = int(np.prod(shape))
        matrices, columns = (shape[0], shape[-1]) if len(shape) == KERNEL_DIMENSIONS else (1, size)
        rows = size // matrices // columns
        stop = start + matrices * pl.cdiv(rows, TILE) * pl.cdiv(columns, TILE)
        parts.append(_Part(matrices, rows, columns, offset, start, stop))
        offset, start = offset + size, stop
    return parts


def _kernel(
    numbers_ref: Any,
    gradient_ref: Any,
    *refs: Any,
    parts: Sequence[_Part],
    rules: Sequence[Rule],
    momentum: float,
) -> None:
    program, n = pl.program_id(0), len(parts)
    for i, (part, rule) in enumerate(zip(parts, rules, strict=True)):

        @pl.when((program >= part.start) & (program < part.stop))
        def _(part: _Part = part, rule: Rule = rule, i: int = i) -> None:
            places, transposed, exist = _places(part, program - part.start)

            def load(ref: Any, index: Array) -> Array:
                return plgpu.load(ref.at[index], mask=exist, other=np.float32(0))

            w, v = load(refs[i], places), load(refs[n + i], places)
            g = load(gradient_ref, transposed)
            rate = numbers_ref[rule.rate]
            if rule.decay:
                g = g + np.float32(rule.decay) * w
            v = -(rate * np.float32(rule.factor)) * g + np.float32(momentum) * v
            change = jnp.where(rate == 0, np.float32(0), v) if rule.may_freeze else v
            plgpu.store(refs[2 * n + i].at[places], w + change, mask=exist)
            plgpu.store(refs[3 * n + i].at[places], v, mask=exist)


def _places(part: _Part, tile: Array) -> tuple[Array, Array, Array]:
    """Returns a tile's places in the array and in the gradient, and which of them exist."""
    across = np.int32(pl.cdiv(part.columns, TILE))
    down = np.int32(pl.cdiv(part.rows, TILE))
    column = jax.lax.rem(tile, across) * TILE + jnp.arange(TILE, dtype=jnp.int32)[None, :]
    tile = jax.lax.div(tile, across)
    row = jax.lax.rem(tile, down) * TILE + jnp.arange(TILE, dtype=jnp.int32)[:, None]
    matrix = jax.lax.div(tile, down)
    start = matrix * (part.rows * part.columns)
    places = start + row * part.columns + column
    transposed = part.offset + start + column * part.rows + row
    return places, transposed, (row < part.rows) & (column < part.columns)


@functools.cache
def _kernel_works(platform: Platform) -> bool:
    """Returns whether the kernel compiles and agrees with the formula; tries it once."""
    fallback = 'convolution kernels and biases are updated without the kernel'
    return kernel_agrees(platform, fallback, _updated, _updated_by_formula, (2, 3, 3, 20, 40))


RULE_OF_CHECK = Rule(decay=0.5, rate=0, factor=2.0, may_freeze=False)


def _updated(w: Array) -> Array:
    w = jax.lax.stop_gradient(w)
    (new_w,), (new_v,) = update(
        [w], [w[::-1]], [w[:, ::-1]], [RULE_OF_CHECK], jnp.full(5, 0.25, w.dtype), 0.5
    )
    return jnp.stack([new_w, new_v])


def _updated_by_formula(w: Array) -> Array:
    w = jax.lax.stop_gradient(w)
    new_v = 0.5 * w[::-1] - 2 * 0.25 * (w[:, ::-1] + 0.5 * w)
    return jnp.stack([w + new_v, new_v])
