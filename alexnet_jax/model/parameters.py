"""The arrays that a net holds: their kinds, and over which mesh axis each is sharded (§3.2).

Both are stated where a layer makes an array, and read back from there by the optimizer and by
whoever places arrays on a mesh.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from alexnet_jax.model.towers import DATA, TOWER, Split


class Weight(nnx.Param):
    """The weights of a layer."""


class Bias(nnx.Param):
    """Biases, and the scales of batch normalization: they share a learning rate and a decay."""


class Average(nnx.BatchStat):
    """A running average that batch normalization uses at test time; it is not learned."""


def for_each_tower(
    kind: type[nnx.Variable], array_T: Any, split: Split = 'images', axis: int = -1
) -> Any:
    """Makes an array of a layer that has an entry for each tower, on the devices of that tower.

    Args:
      kind: Weight, Bias or Average.
      array_T: (T, ...) float32.
      split: 'images', if each replica has the array; 'units', if it is spread over the replicas.
      axis: the axis of the units that are spread over the replicas.
    """
    names: list[str | None] = [TOWER]
    if split == 'units':
        names += [None] * (axis % array_T.ndim - 1) + [DATA]
    return kind(array_T, out_sharding=tuple(names), eager_sharding=False)


def for_all_towers(kind: type[nnx.Variable], array: Any) -> Any:
    """Makes an array of a layer that every device holds in full."""
    return kind(array, out_sharding=(), eager_sharding=False)


@dataclasses.dataclass(frozen=True)
class ParameterInfo:
    """The layer, the kind and the sharding of a parameter.

    Attributes:
      layer: the name of its layer, as in the settings.
      kind: Weight, Bias or Average.
      axes: for each leading dimension, the mesh axis over which it is sharded, or None.
    """

    layer: str
    kind: type[nnx.Variable]
    axes: tuple[str | None, ...]


def parameter_info(net: nnx.Module) -> dict[str, Any]:
    """Describes the arrays of a net.

    Returns:
      A nested dict like the net's parameters, with a ParameterInfo in place of each array.
    """
    infos: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(nnx.state(net, nnx.Any(nnx.Param, nnx.BatchStat))):
        *modules, name = (str(part) for part in path)
        section = functools.reduce(lambda inner, part: inner.setdefault(part, {}), modules, infos)
        axes = tuple(variable.get_metadata('out_sharding'))
        section[name] = ParameterInfo(modules[0], type(variable), axes)
    return infos


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by dotted names, such as 'params.conv1.bias_TO', in order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): x for path, x in leaves}


def shapes_by_name(params: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a tree of arrays, or of their metadata, by dotted names."""
    return {name: tuple(x.shape) for name, x in leaves_by_name(params).items()}


# The source of initial weights. They are drawn on the host, which needs no compilation (with JAX's
# own generator it took 16 s on two cores); None leaves them zero, where only shapes matter.
Rng = np.random.Generator | None


def gaussian(rng: Rng, shape: tuple[int, ...], std: float) -> Any:
    """Draws float32 weights from a Gaussian with mean 0 (§5)."""
    if rng is None:
        return jnp.zeros(shape, jnp.float32)
    return np.float32(std) * rng.standard_normal(shape, np.float32)
