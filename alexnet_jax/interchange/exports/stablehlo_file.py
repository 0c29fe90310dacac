"""A net as one StableHLO file: from pixels to log probabilities, with the weights inside.

`jax.export` writes it. JAX promises that such a file can be loaded by JAX versions of the next six
months, and by versions that are up to three weeks older than the one that wrote it: it is meant for
deployment, and not as an archive. It contains the plain formula of every operation, since Pallas
kernels are not covered by that promise, and runs on one device.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from jax import Array

from alexnet_jax.data import augmentation
from alexnet_jax.interchange.extras import import_extra
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model.layer_table import CHANNELS
from alexnet_jax.runtime import atomic_files
from alexnet_jax.runtime.user_errors import explain_os_errors

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def check() -> None:
    """Checks that a file can be written.

    Raises:
      UserError: flatbuffers is missing, which `jax.export` needs and JAX does not bring.
    """
    import_extra('flatbuffers', 'a StableHLO file')


def write(net: PortableNet, file: Path) -> None:
    """Writes the function of a net as a file that `jax.export.deserialize` reads.

    The function maps (B, size, size, 3) uint8 images to (B, K) float32 log probabilities, for any
    B. It computes in float32, whatever dtype the net was trained in, with the precision that its
    settings state (`model.precision`).

    Args:
      net: the net.
      file: the file; its folder exists.

    Raises:
      UserError: see `check`; or the file cannot be written.
    """
    check()
    size = net.config.dataset.image_size
    (batch,) = jax.export.symbolic_shape('batch')
    images = jax.ShapeDtypeStruct((batch, size, size, CHANNELS), jnp.uint8)
    with _paths_left_out():
        exported = jax.export.export(jax.jit(log_probabilities(net)), platforms=PLATFORMS)(images)
    with explain_os_errors(f'write {file}'), atomic_files.replace(file) as partial:
        partial.write_bytes(exported.serialize())


@contextlib.contextmanager
def _paths_left_out() -> Iterator[None]:
    """Makes JAX record the source files of operations by name, without the folders they lie in."""
    setting = 'jax_hlo_source_file_canonicalization_regex'
    before = getattr(jax.config, setting)
    jax.config.update(setting, r'.*[/\\]')
    try:
        yield
    finally:
        jax.config.update(setting, before)


def in_float32(net: PortableNet) -> PortableNet:
    """Returns a net that computes in float32."""
    model = dataclasses.replace(net.config.model, dtype='float32')
    return dataclasses.replace(net, config=dataclasses.replace(net.config, model=model))


def log_probabilities(net: PortableNet) -> Callable[[Array], Array]:
    """Returns the net at test time as a function of images, (B, size, size, 3) uint8, to (B, K)."""
    net = in_float32(net)
    graph, settings = _graph(net), net.config.augmentation
    params = jax.tree.map(jnp.asarray, net.params)
    mean_HWC = jnp.asarray(net.inputs.mean_HWC)
    apply = functools.partial(alexnet.apply, graph)
    for axis in (towers.DATA, towers.TOWER):  # a mesh of one device, as far as the layers can tell
        apply = jax.vmap(apply, in_axes=None, out_axes=None, axis_name=axis, axis_size=1)

    def alexnet_log_probabilities(images_BHWC: Array) -> Array:  # the name of the function there
        with jax.default_matmul_precision(net.config.model.precision):
            crops_BHWC = augmentation.take_centre(images_BHWC, mean_HWC, settings)
            return jax.nn.log_softmax(apply(params, crops_BHWC))

    return alexnet_log_probabilities


def _graph(net: PortableNet) -> nnx.GraphDef[alexnet.AlexNet]:
    """Returns the net without its parameters, with the plain formula of every operation."""
    module = nnx.merge(alexnet.graph(net.config), net.params)
    for name in module.convolutions:
        layer = getattr(module, name)
        layer.operations = dataclasses.replace(layer.operations, implementation='jax')
    return nnx.split(module)[0]
