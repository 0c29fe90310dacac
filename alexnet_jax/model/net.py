"""AlexNet as a Flax module that can be called from anywhere, on any mesh."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from alexnet_jax.config.schema import Config
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.alexnet import ARRAYS, AlexNet
from alexnet_jax.model.layer_table import CHANNELS, parameter_count
from alexnet_jax.model.parameters import shapes_by_name


class Net(nnx.Module):
    """AlexNet on the devices of a mesh, at test time.

    `net(images)` returns logits. `nnx.get_partition_spec(nnx.state(net))` shows which arrays are
    sharded over the towers.

    Args:
      config: the settings of a run; `alexnet_jax.load_config` returns them.
      mesh: the ('data', 'tower') mesh to place the parameters on; None chooses one that suits the
        settings and JAX's devices.
      params: nested dict of float32 arrays, as `alexnet.initialize` returns it; None initializes
        them from `config.seed` (§5).

    Attributes:
      config: the settings.
      mesh: the mesh.

    Raises:
      UserError: the settings need more devices than there are, or the crop is too small.
      TypeError: `config` is not a Config.
      ValueError: the mesh does not suit the towers, or `params` are those of another net.
    """

    def __init__(
        self,
        config: Config,
        *,
        mesh: jax.sharding.Mesh | None = None,
        params: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(config, Config):
            raise TypeError(f'config is {config!r}: alexnet_jax.load_config returns one')
        self.config = config
        self.mesh = towers.choose_mesh(config) if mesh is None else mesh
        check_mesh(config, self.mesh)
        shardings = towers.shardings(self.mesh, alexnet.partitions(config, self.mesh))
        params = alexnet.initialize(config) if params is None else params
        _check_shapes(config, params)
        graph = alexnet.graph(config, self.mesh)
        self.towers: AlexNet = nnx.merge(graph, towers.put(params, shardings))

    def __repr__(self) -> str:
        """Describes the net in one line; `net.towers` shows all layers."""
        summary = ', '.join(f'{name}={value!r}' for name, value in self._summary().items())
        return f'{type(self).__name__}({summary})'

    __str__ = __repr__  # NNX has both

    def _summary(self) -> dict[str, Any]:
        return {
            'towers': self.config.model.towers,
            'devices': self.mesh.devices.size,
            'parameters': parameter_count(self.config),
            'classes': self.config.dataset.classes,
        }

    def __call__(self, images_BHWC: Any) -> Array:
        """Computes the logits.

        Args:
          images_BHWC: (B, crop, crop, 3), any real dtype: RGB on the scale of 0 to 255 with the
            mean image subtracted, divided by `augmentation.deviations` if those are not 1, as
            `data.augmentation.take_view` returns them.

        Returns:
          (B, K) float32 logits.

        Raises:
          ValueError: the images have another shape.
        """
        crop = self.config.augmentation.crop
        images = jnp.asarray(images_BHWC)
        if images.ndim != 4 or images.shape[1:] != (crop, crop, CHANNELS):
            raise ValueError(f'images of shape {images.shape}, not (B, {crop}, {crop}, {CHANNELS})')
        number = len(images)
        if not number:
            return jnp.zeros((0, self.config.dataset.classes), jnp.float32)
        missing = -number % self.mesh.shape[towers.DATA]
        images = jnp.pad(images.astype(jnp.float32), ((0, missing), (0, 0), (0, 0), (0, 0)))
        return _compile(self.config, self.mesh)(self.params, images)[:number]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            'a net cannot be pickled, because its arrays are on devices: load it in each process, '
            'or pickle jax.device_get(net.params)'
        )

    def __copy__(self) -> Self:
        net = object.__new__(type(self))
        net.__setstate__(self.__getstate__())  # without __reduce__
        return net

    @property
    def params(self) -> dict[str, Any]:
        """The parameters: nested dict of float32 arrays on the mesh, (T, ...) except fc8's bias."""
        return nnx.to_pure_dict(nnx.state(self.towers, ARRAYS))


def check_mesh(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Raises a ValueError if a mesh does not suit the towers of a net."""
    if mesh.axis_names != (towers.DATA, towers.TOWER):
        raise ValueError(f'the mesh has the axes {mesh.axis_names}, not (data, tower)')
    if config.mesh.dense == 'all':
        for name, units in config.model.dense_units().items():
            if units % mesh.shape[towers.DATA]:
                raise ValueError(
                    f'the {units} units of {name} cannot be spread over '
                    f'{mesh.shape[towers.DATA]} devices'
                )
    if config.model.towers % mesh.shape[towers.TOWER]:
        raise ValueError(
            f'{config.model.towers} towers cannot be spread over {mesh.shape[towers.TOWER]} devices'
        )


def _check_shapes(config: Config, params: Any) -> None:
    expected, actual = shapes_by_name(alexnet.shapes(config)), shapes_by_name(params)
    if expected != actual:
        names = sorted(name for name in expected | actual if expected.get(name) != actual.get(name))
        raise ValueError(f'params are those of another net: {names[0]} differs in shape')


@functools.cache
def _compile(config: Config, mesh: jax.sharding.Mesh) -> Callable[[Any, Array], Array]:
    """Compiles the net at test time as a function of parameters and images."""
    graph = alexnet.graph(config, mesh)
    images = towers.spec(mesh, 'images')
    in_specs = (alexnet.partitions(config, mesh), images)
    apply = functools.partial(alexnet.apply, graph)
    return towers.compile_program(apply, config, mesh, in_specs, images)
